"""Several processes as one run: how they find each other, and wait for each other."""

import atexit
from collections.abc import Iterator, Sequence
import contextlib
import functools
import os
import threading
import time
from typing import Any

import jax
from jax._src.clusters import ClusterEnv  # how it finds out is not public
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float
import numpy as np
from orbax.checkpoint import multihost

from deemo_jax.config import ConfigError
from deemo_jax.exits import DONE, LostError, end_now, exit_code_of
from deemo_jax.rendezvous import RendezvousError, gather
from deemo_jax.spool import flush

CONNECT_SECONDS = 300
BARRIER_SECONDS = 1800  # the first process may generate a corpus meanwhile
SHUTDOWN_SECONDS = 20
# So long the first process stays when it has failed: with it, JAX ends the others,
# which have words and an exit code of their own.
LEAVE_SECONDS = 4.0
# What a launcher says of the number of processes.
COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
# What XLA says of a failure that is not for want of the other processes.
LASTING = (
    "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED", "FAILED_PRECONDITION",
    "NOT_FOUND", "OUT_OF_RANGE",
)  # fmt: skip


class ElsewhereError(RuntimeError):
    """Another process failed, with `exit_code`; what that one says is why."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


@contextlib.contextmanager
def joined(
    *,
    coordinator: str = "",
    process_count: int = -1,
    process_index: int = -1,
    stall_seconds: int = 300,
) -> Iterator[None]:
    """Makes this process one of those of a run; enter it before JAX sees a device.

    SLURM, Open MPI, TPU pods and Kubernetes say by their environment who is who, so
    that nothing need be given; where they say nothing, it is a run of one process.

    A process that leaves it by an exception ends with the exit code of that
    (`exits.exit_code_of`), without the farewell to which JAX would have all come.

    Args:
      coordinator: HOST:PORT on which process 0 listens. Given by hand, so must the
        other two be.
      process_count: of the run; 1 for one process whatever the environment says.
      process_index: of this process, from 0.
      stall_seconds: after which the watchdog names a process that gives no sign of
        life; JAX, which ends the run without a name, is told to wait longer.

    Raises:
      ConfigError: the three do not fit each other or the environment, or, given by
        hand, not all processes came within `CONNECT_SECONDS`.
      LostError: not all processes that the environment speaks of came; or, from the
        block, what XLA said when another one was gone.
    """
    if process_count != 1:
        process_count = _join(coordinator, process_count, process_index, stall_seconds)
    try:
        yield
    except BaseException as error:
        if process_count == 1:
            raise
        gone = lost(error)
        atexit.register(_leave, exit_code_of(gone or error))
        if gone is not None:
            raise gone from error
        raise


def _join(coordinator: str, count: int, index: int, stall_seconds: int) -> int:
    """Finds the other processes; the number of all."""
    by_hand = bool(coordinator) or count != -1 or index != -1
    local_ids: Sequence[int] | None = [] if by_hand or _is_alone_on_host() else None
    if by_hand:
        _check(coordinator, count, index)
    else:
        detect = ClusterEnv.auto_detect_unset_distributed_params
        stated = os.environ.get("JAX_COORDINATOR_ADDRESS")
        address, number, place, local_ids = detect(
            stated, None, None, local_ids, None, CONNECT_SECONDS
        )
        if address is None or number is None or place is None:
            _check_alone()
            return 1
        if not _is_address(address):
            raise ConfigError(
                f"the environment says that process 0 listens at {address!r}; it must "
                f"be HOST:PORT"
            )
        coordinator, count, index = address, number, place
    kind = ConfigError if by_hand else LostError
    try:
        gather(coordinator, count=count, index=index, seconds=CONNECT_SECONDS)
    except RendezvousError as error:
        given = "--coordinator, --process_count and --process_index"
        raise kind(
            f"the processes of the run did not find each other: {error}; start each of "
            f"them once, with the same "
            f"{given if by_hand else 'environment, and see what those said'}"
        ) from error
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            local_device_ids=local_ids,
            # All is known; asked again, it would give each process one GPU.
            cluster_detection_method="deactivate",
            initialization_timeout=CONNECT_SECONDS,
            heartbeat_timeout_seconds=2 * stall_seconds + 60,
            # One that has failed does not wait long for the others to come to an end.
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except RuntimeError as error:
        raise kind(
            f"JAX did not find the other processes at {coordinator} "
            f"({str(error).splitlines()[0]})"
        ) from error
    return count


def lost(error: BaseException) -> LostError | None:
    """What an error of XLA means among several processes, if not what it says."""
    if isinstance(error, TimeoutError):  # Orbax's word for any end of a barrier
        error = error.__cause__ or error
    if not isinstance(error, jax.errors.JaxRuntimeError):
        return None
    said = " ".join(str(error).split())
    # The agent of one that was told that another is gone is in no "CONNECTED state".
    if said.startswith(LASTING) and "CONNECTED state" not in said:
        return None
    return LostError(f"another process is gone, or cannot be reached: {said[:300]}")


def _leave(code: int) -> None:
    """Ends this process with `code` before JAX waits for the others."""
    late = threading.Timer(3 * LEAVE_SECONDS, end_now, (code,))
    late.daemon = True
    late.start()
    if is_first():
        time.sleep(LEAVE_SECONDS)
    flush()
    end_now(code)


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
      ElsewhereError: in the others, if the first one failed; it says why.
    """
    if is_first():
        try:
            yield
        except Exception as error:
            meet(name)
            broadcast(exit_code_of(error))
            raise
        meet(name)
        broadcast(DONE)
        return
    meet(name)
    if code := broadcast(DONE):
        raise ElsewhereError("process 0 failed; what it says is why", code)
    yield


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Runs the block in all processes; if it fails in any, all fail when all are done.

    Raises:
      ElsewhereError: in those where it did not fail, if it did in another.
    """
    try:
        yield
    except Exception as error:
        _codes(exit_code_of(error))
        raise
    codes = _codes(DONE)
    if codes.any():
        process = int(codes.argmax())
        raise ElsewhereError(
            f"process {process} failed; what it says is why", int(codes[process])
        )


def _codes(mine: int) -> np.ndarray:
    return np.asarray(exchange(np.array([mine], np.float32)))[:, 0]


def meet(name: str, *, seconds: int = BARRIER_SECONDS) -> None:
    """Returns when all processes are here, or raises after so many seconds."""
    wait = multihost.get_barrier_sync_fn()
    wait(key=name, timeout_ms=seconds * 1000)


def _check(coordinator: str, count: int, index: int) -> None:
    if not _is_address(coordinator) or count < 1 or not 0 <= index < count:
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


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 2**16


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
    if stated := os.environ.get("JAX_COORDINATOR_ADDRESS"):
        raise ConfigError(
            f"JAX_COORDINATOR_ADDRESS in the environment is {stated}, but not how many "
            f"processes there are; give --coordinator={stated}, --process_count and "
            f"--process_index, or unset it"
        )
    for name in COUNTS:
        stated = os.environ.get(name, "1")
        if stated != "1":
            raise ConfigError(
                f"{name} in the environment is {stated}, but not where process 0 "
                f"listens (Open MPI says so before its version 5); give --coordinator="
                f"HOST:PORT, --process_count and --process_index"
            )
