"""Processes on TPU VMs and on GKE find each other by what Google says of a slice."""

import http.server
import os
import socket
import subprocess
import sys
import threading

import pytest

from tests.faults.conftest import ROOT

# There is no TPU here, of which JAX tells itself; it is told otherwise.
PROGRAM = """
import os
from jax._src.clusters import cluster, cloud_tpu_cluster
cluster.running_in_cloud_tpu_vm = cloud_tpu_cluster.running_in_cloud_tpu_vm = True
os.environ.pop("TPU_SKIP_MDS_QUERY", None)
import jax
from deemo_jax.distributed import broadcast, joined
with joined():
    first = broadcast(7 + jax.process_index())
    print(f"\\nprocess {jax.process_index()} of {jax.process_count()}: {first}")
"""


@pytest.fixture
def metadata():
    """Starts metadata servers, each with attributes of its own; gives the address."""
    servers = []

    def start(attributes: dict[str, str]) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                found = attributes.get(self.path.rpartition("/")[2])
                self.send_response(404 if found is None else 200)
                self.end_headers()
                self.wfile.write((found or "not found").encode())

            def log_message(self, *_):
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever).start()
        return f"127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def tpu_vm(worker: int) -> tuple[dict[str, str], dict[str, str]]:
    """Environment and metadata of a worker of a TPU VM slice."""
    return {}, {
        "agent-worker-number": str(worker),
        "worker-network-endpoints": "unknown:unknown:127.0.0.1,x:y:127.0.0.2",
        "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\n",
    }


def gke(worker: int) -> tuple[dict[str, str], dict[str, str]]:
    return {
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "TPU_WORKER_ID": str(worker),
        "TPU_WORKER_HOSTNAMES": "localhost,elsewhere",
    }, {"tpu-env": ""}


def two_slices(worker: int) -> tuple[dict[str, str], dict[str, str]]:
    """A JobSet with two replicas of one host each."""
    return {
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "TPU_WORKER_ID": "0",
        "TPU_WORKER_HOSTNAMES": f"host-{worker}",
        "MEGASCALE_NUM_SLICES": "2",
        "MEGASCALE_SLICE_ID": str(worker),
        "MEGASCALE_COORDINATOR_ADDRESS": "localhost:8080",
    }, {"tpu-env": ""}


@pytest.mark.slow
@pytest.mark.parametrize("told", [tpu_vm, gke, two_slices])
def test_two_processes_find_each_other(metadata, told):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    processes = []
    for worker in (0, 1):
        environment, attributes = told(worker)
        environment |= {
            "GCE_METADATA_IP": metadata(attributes),
            "JAX_COORDINATOR_PORT": str(port),
            "PYTHONPATH": str(ROOT),
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM],
                env=os.environ | environment,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert "process 0 of 2: 7" in said[0].splitlines()
    assert "process 1 of 2: 7" in said[1].splitlines()
