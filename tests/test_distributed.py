"""Who may be a process of a run, and what one process does of it alone."""

import jax
import numpy as np
import pytest

from deemo_jax import distributed
from deemo_jax.config import ConfigError
from deemo_jax.distributed import (
    ElsewhereError,
    broadcast,
    first_alone,
    is_first,
    joined,
    lost,
    together,
)
from deemo_jax.exits import LOST, LostError
from deemo_jax.rendezvous import RendezvousError


@pytest.fixture
def asked(monkeypatch):
    """What JAX was asked for, instead of doing it."""
    found = []
    monkeypatch.setattr(
        distributed.jax.distributed,
        "initialize",
        lambda *given, **_: found.append(given),
    )
    monkeypatch.setattr(distributed, "gather", lambda *_, **__: None)
    return found


def join(**given):
    with joined(**given):
        pass


def test_by_hand_all_three_are_passed_on(asked):
    join(coordinator="10.0.0.1:1234", process_count=2, process_index=0)
    assert asked == [("10.0.0.1:1234", 2, 0)]


def test_one_process_asks_nobody(asked):
    join(process_count=1)
    assert asked == []


def test_where_the_environment_says_nothing_it_is_one_process(asked):
    join()
    assert asked == []


@pytest.mark.parametrize("name", distributed.COUNTS)
def test_several_processes_that_find_nobody_do_not_train_each_alone(
    monkeypatch, name, asked
):
    monkeypatch.setenv(name, "1")
    join()
    monkeypatch.setenv(name, "2")
    with pytest.raises(ConfigError, match=rf"{name} .* is 2, but .* give --coord"):
        join()
    assert asked == []


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("host", "'host'; it must be HOST:PORT"),
        ("host:99999", "'host:99999'; it must be HOST:PORT"),
    ],
)
def test_an_address_of_the_environment_that_is_none_is_refused(
    monkeypatch, asked, address, said
):
    for name, value in (SLURM | {"SLURM_NTASKS": 2}).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", address)
    with pytest.raises(ConfigError, match=said):
        join()
    assert asked == []


def test_an_address_without_a_number_of_processes_is_no_run_of_one(monkeypatch, asked):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "host:1234")
    with pytest.raises(ConfigError, match="give --coordinator=host:1234, --process_c"):
        join()
    assert asked == []


SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "a[1-2]",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_NODES": "2",
}
JAX_ALONE = {"process_id": 0, "num_processes": 1, "coordinator_address": None}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.0.0.1:3",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}


@pytest.mark.parametrize(
    ("stated", "count", "address", "gpus"),
    [
        # One process on each of two hosts has all that are there, two of one have one.
        (SLURM, {"SLURM_NTASKS": 2, "SLURM_STEP_NUM_TASKS": 2}, "a1:61447", None),
        (SLURM, {"SLURM_NTASKS": 4, "SLURM_STEP_NUM_TASKS": 4}, "a1:61447", "0"),
        (
            OPEN_MPI,
            {"OMPI_COMM_WORLD_SIZE": 2, "OMPI_COMM_WORLD_LOCAL_SIZE": 1},
            "10.0.0.1:61441",
            None,
        ),
        (
            OPEN_MPI,
            {"OMPI_COMM_WORLD_SIZE": 2, "OMPI_COMM_WORLD_LOCAL_SIZE": 2},
            "10.0.0.1:61441",
            "0",
        ),
    ],
)
def test_what_jax_makes_of_the_launchers_environment(
    monkeypatch, stated, count, address, gpus
):
    for name, value in (stated | count).items():
        monkeypatch.setenv(name, str(value))
    found, met = {}, {}
    monkeypatch.setattr(
        distributed, "gather", lambda address, **_: met.update(address=address)
    )

    def client(address, process, **_):
        found["joined"] = (address, process)
        raise RuntimeError("far enough")

    # Other tests of this process may have used devices.
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
    inner = "jax._src.distributed"  # what is decided there is not public
    for name, value in JAX_ALONE.items():
        monkeypatch.setattr(f"{inner}.global_state.{name}", value)
    monkeypatch.setattr(f"{inner}._jax.get_distributed_runtime_client", client)
    monkeypatch.setattr(
        f"{inner}.config.update", lambda name, ids: found.update({name: ids})
    )
    with pytest.raises(LostError, match="far enough"):
        join()
    assert met["address"] == address
    assert found["joined"] == (address, 1)
    assert found.get("jax_cuda_visible_devices") == gpus


@pytest.mark.parametrize(
    "given",
    [
        {"coordinator": "host:1234"},
        {"coordinator": "host:1234", "process_count": 2},
        {"coordinator": "host", "process_count": 2, "process_index": 0},
        {"coordinator": ":1234", "process_count": 2, "process_index": 0},
        {"coordinator": "host:0", "process_count": 2, "process_index": 0},
        {"coordinator": "host:65536", "process_count": 2, "process_index": 0},
        {"coordinator": "host:1234", "process_count": 2, "process_index": 2},
        {"process_count": 2, "process_index": 0},
        {"process_index": 0},
    ],
)
def test_what_does_not_fit_together_is_refused(asked, given):
    with pytest.raises(ConfigError, match="give all three: HOST:PORT of process 0"):
        join(**given)
    assert asked == []


@pytest.mark.parametrize("name", distributed.COUNTS)
def test_another_number_than_the_launchers_is_refused(asked, monkeypatch, name):
    monkeypatch.setenv(name, "4")
    with pytest.raises(ConfigError, match=rf"count is 2, but {name} .* is 4; leave"):
        join(coordinator="host:1234", process_count=2, process_index=0)
    join(coordinator="host:1234", process_count=4, process_index=0)
    assert asked == [("host:1234", 4, 0)]


@pytest.mark.parametrize("by_hand", [True, False])
def test_processes_that_do_not_come_are_told_of(monkeypatch, asked, by_hand):
    def none(address, **_):
        assert address == "a1:61447"
        raise RendezvousError("number 1 did not come")

    monkeypatch.setattr(distributed, "gather", none)
    said = "did not find each other: number 1 did not come; start each of them once, "
    if by_hand:  # the same command would fail again, if it was wrong
        with pytest.raises(ConfigError, match=said + "with the same --coordinator"):
            join(coordinator="a1:61447", process_count=2, process_index=0)
    else:  # a host that comes late may come the next time
        for name, value in (SLURM | {"SLURM_NTASKS": 2}).items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(LostError, match=said + "with the same environment"):
            join()
    assert asked == []


def test_what_xla_says_when_another_process_is_gone():
    def said(words):
        return lost(jax.errors.JaxRuntimeError(words))

    gone = said("UNKNOWN: Gloo all-reduce failed:\n Connection closed by peer")
    assert isinstance(gone, LostError)
    assert "cannot be reached: UNKNOWN: Gloo all-reduce failed: Conn" in str(gone)
    assert said("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes") is None
    assert said("FAILED_PRECONDITION: the buffer was donated") is None
    state = "FAILED_PRECONDITION: Agent must be in CONNECTED state. It is in ERROR."
    assert isinstance(said(state), LostError)
    assert lost(ValueError("UNKNOWN: Gloo")) is None
    assert lost(TimeoutError("a slow disk")) is None
    barrier = TimeoutError("Timed out while waiting for async_write_complete barrier.")
    barrier.__cause__ = jax.errors.JaxRuntimeError("UNAVAILABLE: Socket closed")
    assert "cannot be reached: UNAVAILABLE: Socket" in str(lost(barrier))


@pytest.mark.parametrize(("index", "order"), [(0, "block wait"), (1, "wait block")])
def test_the_first_goes_first(monkeypatch, index, order):
    said = []
    monkeypatch.setattr(distributed.jax, "process_index", lambda: index)
    monkeypatch.setattr(distributed, "meet", lambda name: said.append("wait"))
    with first_alone("x"):
        said.append("block")
    assert " ".join(said) == order


@pytest.mark.parametrize(("error", "code"), [(ConfigError("no"), 2), (KeyError(), 1)])
def test_the_others_fail_with_the_first_and_as_it_did(monkeypatch, error, code):
    told = []
    monkeypatch.setattr(distributed, "meet", lambda name: None)
    monkeypatch.setattr(distributed, "broadcast", lambda x: told.append(x) or code)
    monkeypatch.setattr(distributed.jax, "process_index", lambda: 0)
    with pytest.raises(type(error)), first_alone("x"):
        raise error
    assert told == [code]
    monkeypatch.setattr(distributed.jax, "process_index", lambda: 1)
    with pytest.raises(ElsewhereError) as found, first_alone("x"):
        raise AssertionError("not reached")
    assert found.value.exit_code == code


def test_if_one_of_them_fails_all_do(monkeypatch):
    codes = [0, 0, LOST, 0]

    def exchange(values):
        return np.array([[code] for code in codes], np.float32)

    monkeypatch.setattr(distributed, "exchange", exchange)
    with pytest.raises(ElsewhereError, match="process 2 failed") as found, together():
        pass
    assert found.value.exit_code == LOST
    with pytest.raises(ConfigError, match="mine"), together():
        raise ConfigError("mine")
    codes[2] = 0
    with together():
        pass


def test_alone_one_is_the_first_and_waits_for_nobody():
    assert is_first()
    with first_alone("x"):
        pass
    assert broadcast(7) == 7
