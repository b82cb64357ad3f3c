"""Who may be a process of a run, and what one process does of it alone."""

import pytest

from deemo_jax import distributed
from deemo_jax.config import ConfigError
from deemo_jax.distributed import broadcast, first_alone, is_first, join


@pytest.fixture
def asked(monkeypatch):
    """What JAX was asked for, instead of doing it."""
    found = []
    monkeypatch.setattr(
        distributed.jax.distributed,
        "initialize",
        lambda *given, **_: found.append(given),
    )
    return found


def test_by_hand_all_three_are_passed_on(asked):
    join(coordinator="10.0.0.1:1234", process_count=2, process_index=0)
    assert asked == [("10.0.0.1:1234", 2, 0)]


def test_nothing_given_is_left_to_the_environment(asked):
    join()
    assert asked == [(None, None, None)]


def test_one_process_asks_nobody(asked):
    join(process_count=1)
    assert asked == []


def test_where_the_environment_says_nothing_it_is_one_process(monkeypatch):
    def none(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(distributed.jax.distributed, "initialize", none)
    join()
    with pytest.raises(ValueError, match="should be defined"):
        join(coordinator="h:1", process_count=2, process_index=0)


@pytest.mark.parametrize("name", distributed.COUNTS)
def test_several_processes_that_find_nobody_do_not_train_each_alone(monkeypatch, name):
    def none(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(distributed.jax.distributed, "initialize", none)
    monkeypatch.setenv(name, "1")
    join()
    monkeypatch.setenv(name, "2")
    with pytest.raises(ConfigError, match=rf"{name} .* is 2, but .* give --coord"):
        join()


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
    found = {}

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
    with pytest.raises(ConfigError, match="far enough"):
        join()
    assert found["joined"] == (address, 1)
    assert found.get("jax_cuda_visible_devices") == gpus


@pytest.mark.parametrize(
    "given",
    [
        {"coordinator": "host:1234"},
        {"coordinator": "host:1234", "process_count": 2},
        {"coordinator": "host", "process_count": 2, "process_index": 0},
        {"coordinator": ":1234", "process_count": 2, "process_index": 0},
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


def test_a_coordinator_that_is_not_there_is_named(asked, monkeypatch, free_port):
    monkeypatch.setattr(distributed, "CONNECT_SECONDS", 0.2)
    address = f"127.0.0.1:{free_port}"
    with pytest.raises(ConfigError, match=rf"{address}, where nobody answered for 0.2"):
        join(coordinator=address, process_count=2, process_index=1)
    assert asked == []


@pytest.fixture
def free_port():
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_processes_that_do_not_come_are_told_of(monkeypatch):
    def late(*_, **__):
        raise RuntimeError("DEADLINE_EXCEEDED: barrier timed out\nmore")

    monkeypatch.setattr(distributed.jax.distributed, "initialize", late)
    with pytest.raises(ConfigError, match=r"did not find .* \(DEADLINE_.*; start"):
        join(coordinator="host:1234", process_count=2, process_index=0)


@pytest.mark.parametrize(("index", "order"), [(0, "block wait"), (1, "wait block")])
def test_the_first_goes_first(monkeypatch, index, order):
    said = []
    monkeypatch.setattr(distributed.jax, "process_index", lambda: index)
    monkeypatch.setattr(distributed, "meet", lambda name: said.append("wait"))
    with first_alone("x"):
        said.append("block")
    assert " ".join(said) == order


def test_alone_one_is_the_first_and_waits_for_nobody():
    assert is_first()
    with first_alone("x"):
        pass
    assert broadcast(7) == 7
