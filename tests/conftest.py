"""Eight simulated devices, checked shapes, and no silent broadcasting."""

import gc
from importlib.metadata import version
import os
from pathlib import Path
import resource
import socket
import subprocess
import sys
import tempfile
import time

flags = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
# Most programs are run once or twice: compiling them well would take longer than it
# saves. `JAX_DISABLE_MOST_OPTIMIZATIONS=0 make test` tests what users run.
quick = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1"
# Halve the time again. XLA ends a process that gives it a flag of another release.
if quick and version("jaxlib").startswith("0.10."):
    flags.append("--xla_cpu_use_fusion_emitters=false")
    flags.append("--xla_cpu_parallel_codegen_split_count=1")
os.environ["XLA_FLAGS"] = " ".join(flags)
# Caches that go with the tests. The first is for the code that exported folders carry.
# Through the second, the tests' processes compile a program once between them. XLA's
# CPU programs that come from it no longer know in which order their collectives are
# (jaxlib 0.10): those that wait for each other need a thread each.
os.environ["NPROC"] = "64"
if "PYTEST_XDIST_WORKER" not in os.environ:  # a worker has these from its parent
    caches = tempfile.TemporaryDirectory(prefix="deemo-tests-")
    os.environ["HF_MODULES_CACHE"] = os.path.join(caches.name, "modules")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(caches.name, "programs")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

from jaxtyping import install_import_hook

# A function within another is made ready anew, in a millisecond, at each call of it.
install_import_hook("deemo_jax", "beartype.beartype")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
gc.set_threshold(20_000)  # tracing leaves much that lives on, seen through each time

MOST_MEMORY = 3 * 2**30  # bytes that a worker holds before it forgets


def pytest_xdist_auto_num_workers(config):
    """One more than there are cores: many tests wait for processes that they start."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """What is traced and compiled goes at times, or a worker grows to 7 GB."""
    yield
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    if pages * resource.getpagesize() > MOST_MEMORY:
        jax.clear_caches()


@pytest.fixture(scope="session")
def bucket():
    """The name of a bucket of an emulator of Google's storage, on loopback.

    What finds it stands in the environment, for processes that are started too.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(__file__).with_name("emulator.py")
    command = [sys.executable, str(program), str(port), "emulated"]
    said = subprocess.DEVNULL
    changes = {
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
        "TENSORSTORE_GCS_HTTP_URL": f"http://127.0.0.1:{port}",
        "GOOGLE_CLOUD_PROJECT": "emulated",
        # It would ask Google, whoever answers for the rest, of what kind a bucket is.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
    with (
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(command, stdout=said, stderr=said) as emulator,
    ):
        for name, value in changes.items():
            patch.setenv(name, value)
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert emulator.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
        yield "gs://emulated"
        emulator.kill()
