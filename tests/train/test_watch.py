"""Who is blamed for what, by the beats that were heard."""

import dataclasses

import pytest

from deemo_jax.exits import LOST
from deemo_jax.train.watch import SLOWER, Beat, Watch

STALL = 60


class Run:
    """Processes that beat once a second, unless told otherwise."""

    def __init__(self, count):
        self.now = 1000.0
        self.watch = Watch(count, stall_seconds=STALL, now=self.now)
        self.beats = {process: beat(process) for process in range(count)}
        self.silent = set()
        self.code = None  # of the last fault

    def set(self, process, **changes):
        self.beats[process] = dataclasses.replace(self.beats[process], **changes)

    def fault_after(self, seconds):
        """The first fault within so many seconds, empty if there is none, and when."""
        for second in range(1, seconds + 1):
            self.now += 1
            for process in set(self.beats) - self.silent:
                self.set(process, count=self.beats[process].count + 1)
            self.watch.hear(dict(self.beats), self.now)
            if fault := self.watch.fault(self.now):
                self.code = fault.code
                return fault.words, second
        return "", seconds


def beat(process, **changes):
    known = {
        "run": 1, "process": process, "host": f"host{process}", "pid": 10 + process,
        "count": 0, "phase": "step", "step": 7,
    }  # fmt: skip
    return Beat(**known | changes)


def test_processes_that_get_on_are_left_alone():
    run = Run(3)
    for step in range(8, 20):
        for process in range(3):
            run.set(process, step=step)
        assert not run.fault_after(STALL - 1)[0]


@pytest.mark.parametrize("phase", ["data", "compile", "evaluate"])
def test_one_without_a_sign_of_life_is_named_in_any_phase(phase):
    run = Run(3)
    run.set(1, phase=phase)
    assert not run.fault_after(1)[0]
    run.silent = {1}
    fault, second = run.fault_after(100)
    assert second == STALL + 1
    assert fault == (
        f"process 1 gave no sign of life for 61 s, in {phase} of step 7 "
        f"(pid 11 on host1)"
    )
    assert run.code == LOST


def test_one_that_never_came_is_named():
    run = Run(2)
    del run.beats[1]
    fault, second = run.fault_after(100)
    assert second == STALL + 1
    assert fault.startswith("process 1 gave no sign of life for 61 s, before its first")


def test_the_one_furthest_behind_is_named_not_those_who_wait_for_it():
    run = Run(4)
    for process in (0, 1, 3):
        run.set(process, step=8)  # they wait for the devices, which wait for process 2
    run.set(2, phase="data")
    fault, second = run.fault_after(100)
    assert second == STALL + 2  # it was first heard a second after it began
    assert (
        fault
        == "process 2 did not get on for 61 s, in data of step 7 (pid 12 on host2)"
    )


def test_of_those_at_the_same_step_the_one_not_waiting_is_named():
    run = Run(3)
    run.set(0, phase="save")
    fault, _ = run.fault_after(100)
    assert fault.startswith("process 0 did not get on for 61 s, in save of step 7")


def test_where_all_wait_all_are_named():
    fault, _ = Run(3).fault_after(100)
    assert fault.startswith(
        "process 0, 1, 2 did not get on for 61 s, in step of step 7"
    )


@pytest.mark.parametrize("phase", ["compile", "restore", "save", "start", "evaluate"])
def test_some_phases_may_take_longer(phase):
    run = Run(2)
    for process in range(2):
        run.set(process, phase=phase)
    fault, second = run.fault_after(10 * STALL)
    assert second == SLOWER[phase] * STALL + 2
    assert f"in {phase} of step 7" in fault


def test_an_evaluation_takes_as_long_as_it_takes_while_its_batches_get_on():
    run = Run(3)
    for parts in range(50):
        for process in range(3):
            run.set(process, phase="evaluate", parts=parts)
        assert not run.fault_after(5 * STALL)[0]
    run.set(0, parts=50)  # the others would have to come to the next batch as well
    run.set(2, parts=50)
    fault, second = run.fault_after(10 * STALL)
    assert fault.startswith("process 1 did not get on for ")
    assert second <= SLOWER["evaluate"] * STALL + 2


def test_a_failure_ends_the_others_at_once_and_a_good_end_does_not():
    run = Run(3)
    run.set(0, end="done")
    run.silent = {0}
    assert not run.fault_after(STALL - 1)[0]
    run.set(2, phase="data", end="OSError: full", code=1)
    assert run.fault_after(1) == (
        "process 2 failed in data of step 7 (pid 12 on host2): OSError: full",
        1,
    )
    assert run.code == 1  # that of the one that failed is that of all


def test_what_the_first_process_found_is_believed_with_its_exit_code():
    run = Run(2)
    run.watch = Watch(2, process=1, stall_seconds=STALL, now=run.now)
    del run.beats[1]
    run.set(0, fault="process 7 failed in save", code=2)
    assert run.fault_after(1) == ("process 7 failed in save", 1)
    assert run.code == 2


def test_those_that_live_and_know_of_no_fault_are_waited_for():
    run = Run(6)
    run.set(1, end="done")
    run.set(2, end="OSError: full", code=1)
    run.set(3, fault="process 2 failed", code=1)
    del run.beats[5]  # it never came
    run.fault_after(1)
    assert run.watch.unaware(run.now) == [4, 5]  # it may be about to say its first word
    assert run.watch.unaware(run.now + STALL) == [4]
    assert run.watch.unaware(run.now + STALL + 1) == []
