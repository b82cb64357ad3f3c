"""Processes and threads that work for one: results, failures, and their end."""

import os
from pathlib import Path
import subprocess
import sys
import threading
import time

import pytest

from deemo_jax.workers import cores, in_processes, in_threads


def squared(number):
    return number**2


def failing(number):
    if number == 2:
        raise ValueError("two")
    time.sleep(0.1 if number < 2 else 60)


def killed(_):
    os.kill(os.getpid(), 9)


def waiting(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(120)


def test_every_job_is_done_by_another_process():
    assert sorted(in_processes(squared, range(20), workers=2)) == [
        number**2 for number in range(20)
    ]
    assert os.getpid() not in set(in_processes(pid, range(2), workers=2))
    assert cores() >= 1


def late(number):
    time.sleep(0.02 if number % 3 == 0 else 0.0)
    return squared(number)


def test_threads_work_in_order_and_at_once():
    found = in_threads(late, range(20), threads=3)
    assert list(found) == [(number, number**2) for number in range(20)]
    all_there = threading.Barrier(4)  # breaks if one is left alone
    list(in_threads(lambda _: all_there.wait(timeout=20), range(4), threads=4))


@pytest.mark.parametrize(("held", "most"), [(None, 4), (7, 7), (0, 0)])
def test_so_many_jobs_are_taken_ahead(held, most):
    taken = []
    jobs = (taken.append(number) or number for number in range(50))
    given = 0
    for given, _ in enumerate(in_threads(late, jobs, threads=2, held=held), start=1):
        assert len(taken) <= given + most
    assert given == 50


def test_what_a_thread_raises_is_raised():
    with pytest.raises(ValueError, match="two"):
        list(in_threads(failing, [0, 1, 2], threads=2))


def pid(_):
    return os.getpid()


def test_what_one_raises_ends_all_at_once():
    began = time.monotonic()
    with pytest.raises(ValueError, match="two"):
        list(in_processes(failing, range(4), workers=2))
    assert time.monotonic() - began < 30


def test_a_worker_that_dies_is_told():
    with pytest.raises(RuntimeError, match="a worker died .* the same command goes on"):
        list(in_processes(killed, range(3), workers=2))


def test_workers_end_with_the_one_they_work_for(tmp_path):
    program = (
        "import sys; from tests.test_workers import waiting\n"
        "from deemo_jax.workers import in_processes\n"
        "if __name__ == '__main__':\n"
        "    list(in_processes(waiting, [sys.argv[1]] * 2, workers=2))\n"
    )
    file = tmp_path / "program.py"
    file.write_text(program)
    (tmp_path / "pids").mkdir()
    root = str(Path(__file__).parents[1])
    parent = subprocess.Popen(
        [sys.executable, str(file), str(tmp_path / "pids")],
        env=os.environ | {"PYTHONPATH": root},
    )
    end = time.monotonic() + 60
    while len(list((tmp_path / "pids").iterdir())) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    workers = [Path("/proc") / path.name for path in (tmp_path / "pids").iterdir()]
    while any(path.exists() for path in workers):
        assert time.monotonic() < end
        time.sleep(0.1)
