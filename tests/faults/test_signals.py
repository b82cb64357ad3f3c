"""A run that is asked to make room, one that hangs, one of whom a process fails."""

from pathlib import Path
import signal
import time

import pytest

from deemo_jax.exits import LOST, PREEMPTED
from deemo_jax.train.watchdog import FOLDER
from tests.faults.conftest import steps

STALL = 5
LONG = {
    "train__steps": 100_000,
    "train__save_every": 1000,
    "train__stall_seconds": STALL,
}


@pytest.fixture
def two(launch, tmp_path):
    """A run of two processes that has come to its step 5."""
    run = launch(tmp_path / "run", 2, 2, **LONG)
    run.until_step(5)
    return run


def test_asked_by_one_process_all_save_and_stop_and_go_on(two, launch):
    two.signal(1, signal.SIGUSR1)
    assert two.end() == PREEMPTED, two.said
    [saved] = [int(path.name) for path in (two.workdir / "checkpoints").iterdir()]
    before = steps(two.workdir)
    assert list(before) == list(range(1, saved + 1))
    assert two.said.count(f"asked to stop, saved at step {saved} of 100000") == 1

    more = LONG | {"train__steps": saved + 2}
    again = launch(two.workdir, 1, 2, **more)
    assert again.end() == 0, again.said
    assert f"resumed at step {saved}\n" in again.said
    after = steps(two.workdir)
    assert list(after) == list(range(1, saved + 3))
    assert before.items() <= after.items()


@pytest.mark.parametrize("stopped", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_stopped_process_is_named_with_its_phase(two, stopped):
    other = 1 - stopped
    watching = two.beat(other)["pid"]
    two.signal(stopped, signal.SIGSTOP)
    began = time.monotonic()
    two.until_said("stopped: ")
    two.until(lambda: not Path(f"/proc/{watching}").exists())
    assert time.monotonic() - began < STALL + 15
    # The launcher kills the one that stands still some seconds after.
    assert two.end() == LOST, two.said
    pid = two.beat(stopped)["pid"]
    assert f"process {stopped} gave no sign of life for" in two.said
    assert f" of step {two.beat(stopped)['step']} (pid {pid} on" in two.said
    stacks = (two.workdir / FOLDER / f"{other}.stacks").read_text()
    assert "loop.py" in stacks


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 2])
def test_one_of_four_that_is_stopped_is_named_by_all_others(launch, tmp_path, stopped):
    run = launch(tmp_path / "run", 4, 1, **LONG)
    run.until_step(5)
    others = [process for process in range(4) if process != stopped]
    watching = [Path(f"/proc/{run.beat(process)['pid']}") for process in others]
    run.signal(stopped, signal.SIGSTOP)
    began = time.monotonic()
    run.until_said("stopped: ")
    run.until(lambda: not any(path.exists() for path in watching))
    assert time.monotonic() - began < STALL + 15
    assert run.end() == LOST, run.said
    words = f"stopped: process {stopped} gave no sign of life for"
    assert run.said.count(words) == 3, run.said
    for process in others:
        assert (run.workdir / FOLDER / f"{process}.stacks").stat().st_size > 100


@pytest.mark.slow
def test_a_killed_process_ends_the_others(two):
    two.signal(1, signal.SIGKILL)
    began = time.monotonic()
    assert two.end() not in (0, PREEMPTED)
    assert time.monotonic() - began < STALL + 15


@pytest.mark.slow
def test_two_runs_do_not_share_a_workdir(two, launch):
    other = launch(two.workdir, 1, 2, **LONG)
    assert other.end() == 2
    assert "is being trained in by process" in other.said
    two.until_step(len(steps(two.workdir)) + 5)  # which does not mind
