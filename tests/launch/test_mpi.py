"""`launch/mpi.sh` with Open MPI's own `mpirun`."""

import os
import shutil
import signal
import subprocess

import numpy as np
import pytest

from deemo_jax.exits import LOST, PREEMPTED
from tests.faults.conftest import Run, environment, steps
from tests.launch.conftest import LAUNCH

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("mpirun") is None,
        reason="mpirun is missing: apt-get install openmpi-bin",
    ),
]


@pytest.fixture
def mpi(launch, tmp_path):
    """Starts a run of two processes."""

    def start(**changes):
        log = tmp_path / "said.txt"
        with open(log, "w") as file:
            launched = subprocess.Popen(
                [
                    LAUNCH / "mpi.sh", "-np", "2", "--oversubscribe", "--",
                    f"--config={launch.configured(**changes)}",
                    f"--workdir={tmp_path / 'run'}",
                ],
                env=environment() | {
                    "OMPI_ALLOW_RUN_AS_ROOT": "1",
                    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                    "JAX_PLATFORMS": "cpu",
                    "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
                },
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        launch.started.append(Run(workdir=tmp_path / "run", launched=launched, log=log))
        return launch.started[-1]

    return start


def test_two_processes_see_the_losses_of_an_undisturbed_run(mpi, undisturbed):
    run = mpi(train__steps=20)
    assert run.end() == 0, run.said
    assert run.said.count("done: 20 steps") == 1
    assert {run.beat(0)["process"], run.beat(1)["process"]} == {0, 1}
    before, found = steps(undisturbed(train__steps=20)), steps(run.workdir)
    assert list(found) == list(before) == list(range(1, 21))
    np.testing.assert_allclose([*found.values()], [*before.values()], rtol=1e-5)


def test_asked_it_saves_and_ends(mpi):
    run = mpi(train__steps=100_000, train__save_every=1000)
    run.until_step(5)
    os.kill(run.launched.pid, signal.SIGTERM)
    assert run.end() == PREEMPTED, run.said
    assert "asked to stop, saved at step" in run.said
    assert "started again" not in run.said


def test_a_hung_process_is_killed_and_the_run_goes_on(mpi):
    run = mpi(train__steps=100_000, train__save_every=20, train__stall_seconds=5)
    run.until_there("checkpoints/20/manifest.json")
    run.signal(1, signal.SIGSTOP)
    run.until_said("resumed at step")
    assert "process 1 gave no sign of life for" in run.said
    assert f"exit code {LOST}: the run is started again" in run.said
    os.kill(run.launched.pid, signal.SIGTERM)
    assert run.end() == PREEMPTED, run.said
