"""Several processes as one run: how they find each other, and wait for each other."""

from collections.abc import Iterator
import contextlib
import functools
import os
import socket
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float
import numpy as np
from orbax.checkpoint import multihost

from deemo_jax.config import ConfigError

CONNECT_SECONDS = 300
BARRIER_SECONDS = 1800  # the first process may generate a corpus meanwhile
SHUTDOWN_SECONDS = 20
PASSED, FAILED = 0, 1  # what the first process tells the others
# What a launcher says of the number of processes.
COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def join(
    *,
    coordinator: str = "",
    process_count: int = -1,
    process_index: int = -1,
    stall_seconds: int = 300,
) -> None:
    """Makes this process one of those of a run; call it before JAX sees a device.

    SLURM, Open MPI, TPU pods and Kubernetes say by their environment who is who, so
    that nothing need be given; where they say nothing, it is a run of one process.

    Args:
      coordinator: HOST:PORT on which process 0 listens. Given by hand, so must the
        other two be.
      process_count: of the run; 1 for one process whatever the environment says.
      process_index: of this process, from 0.
      stall_seconds: after which the watchdog names a process that gives no sign of
        life; JAX, which ends the run without a name, is told to wait longer.

    Raises:
      ConfigError: the three do not fit each other or the environment, or not all
        processes came within `CONNECT_SECONDS`.
    """
    if process_count == 1:
        return
    by_hand = bool(coordinator) or process_count != -1 or process_index != -1
    if by_hand:
        _check(coordinator, process_count, process_index)
        if process_index:
            _await(coordinator)
    try:
        jax.distributed.initialize(
            coordinator or None,
            process_count if by_hand else None,
            process_index if by_hand else None,
            local_device_ids=[] if by_hand or _is_alone_on_host() else None,
            initialization_timeout=CONNECT_SECONDS,
            heartbeat_timeout_seconds=2 * stall_seconds + 60,
            # One that has failed does not wait long for the others to come to an end.
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except ValueError:
        if by_hand:
            raise
        _check_alone()
    except RuntimeError as error:
        raise ConfigError(
            f"the processes of the run did not find each other within "
            f"{CONNECT_SECONDS} s ({str(error).splitlines()[0]}); start all of them, "
            f"with the same --coordinator and --process_count"
        ) from error


def is_first() -> bool:
    """Whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def broadcast(value: int) -> int:
    """The first process's `value`, in every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def exchange(values: Float[np.ndarray, " K"]) -> Float[Any, "process K"]:
    """Every process's `values`, in the order of the processes.

    It returns at once, as a step does; `np.asarray` of what it returns waits. All
    processes call it in the same order among their other computations.
    """
    count = jax.process_count()
    if count == 1:
        return values[None]
    mesh, spread, gathered = _exchange()
    local = np.broadcast_to(values, (mesh.local_mesh.size, len(values)))
    everywhere = jax.make_array_from_process_local_data(
        spread, local, (mesh.size, len(values))
    )
    return gathered(everywhere)


@functools.cache
def _exchange() -> tuple[Mesh, NamedSharding, Any]:
    """A mesh of all devices by process, rows lying on it, and their gathering."""
    devices = sorted(jax.devices(), key=lambda x: (x.process_index, x.id))
    mesh = Mesh(np.array(devices), ("device",))
    each = len(devices) // jax.process_count()
    gathered = jax.jit(
        lambda rows: rows[::each],
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )
    return mesh, NamedSharding(mesh, PartitionSpec("device")), gathered


@contextlib.contextmanager
def first_alone(name: str) -> Iterator[None]:
    """Runs the block in the first process, and then in the others.

    What the first one made, the others find. `name` is that of the barrier; those who
    wait longer than `BARRIER_SECONDS` give up.

    Raises:
      ConfigError: in the others, if the first one failed; it says why.
    """
    if is_first():
        try:
            yield
        except Exception:
            meet(name)
            broadcast(FAILED)
            raise
        meet(name)
        broadcast(PASSED)
        return
    meet(name)
    if broadcast(PASSED) == FAILED:
        raise ConfigError("process 0 failed; what it says is why")
    yield


def meet(name: str) -> None:
    """Returns when all processes are here, or raises after `BARRIER_SECONDS`."""
    wait = multihost.get_barrier_sync_fn()
    wait(key=name, timeout_ms=BARRIER_SECONDS * 1000)


def _check(coordinator: str, count: int, index: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal()) or count < 1 or not 0 <= index < count:
        raise ConfigError(
            f"--coordinator is {coordinator!r}, --process_count {count} and "
            f"--process_index {index}; give all three: HOST:PORT of process 0, the "
            f"number of processes, and which of them this is, from 0"
        )
    for name in COUNTS:
        stated = os.environ.get(name, "1")
        if stated not in ("1", str(count)):
            raise ConfigError(
                f"--process_count is {count}, but {name} in the environment is "
                f"{stated}; leave --coordinator, --process_count and --process_index "
                f"out, the environment says them"
            )


def _is_alone_on_host() -> bool:
    """Whether a launcher says that no other process of the run is on this host.

    Under a launcher JAX gives every process one GPU, so that the others would be left
    idle; given an empty list of them, it takes all that it sees.
    """
    stated = os.environ.get
    return (
        stated("SLURM_STEP_NUM_TASKS", "") == stated("SLURM_STEP_NUM_NODES", "-")
        or stated("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    )


def _check_alone() -> None:
    """Refuses that each of several processes trains for itself."""
    for name in COUNTS:
        stated = os.environ.get(name, "1")
        if stated != "1":
            raise ConfigError(
                f"{name} in the environment is {stated}, but not where process 0 "
                f"listens (Open MPI says so before its version 5); give --coordinator="
                f"HOST:PORT, --process_count and --process_index"
            )


def _await(coordinator: str) -> None:
    """Returns when somebody listens there."""
    host, _, port = coordinator.rpartition(":")
    until = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise ConfigError(
                    f"--coordinator is {coordinator}, where nobody answered for "
                    f"{CONNECT_SECONDS} s ({error}); start process 0 there, and check "
                    f"that the port is open"
                ) from error
        time.sleep(0.5)
