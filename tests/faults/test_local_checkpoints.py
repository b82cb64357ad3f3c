"""Restarts in place from the hosts' own disks, and without one of those."""

import shutil

import pytest

from deemo_jax.train.local_checkpoints import RUN_ID
from tests.faults.conftest import steps

SETTINGS = {"train__steps": 24, "train__save_every": 8, "train__local_every": 2}


@pytest.mark.slow
def test_a_restart_goes_on_from_the_disks_of_the_hosts(launch, tmp_path):
    disk = tmp_path / "disk"
    settings = SETTINGS | {"train__local_folder": str(disk)}
    straight = launch(tmp_path / "straight", 2, 4, **settings)
    assert straight.end() == 0, straight.said
    assert not list(disk.rglob("*.json"))  # done, it leaves nothing there
    run = launch(tmp_path / "run", 2, 4, **settings)
    run.until_step(15)
    run.kill()
    kept = disk / (tmp_path / "run" / RUN_ID).read_text().strip()
    again = launch(tmp_path / "run", 2, 4, **settings)
    again.until_said("resumed at step ")
    start = int(again.said.rpartition("resumed at step ")[2].split()[0])
    assert start > 8
    assert start % 8
    again.until_step(start + 5)
    again.kill()
    # One of the hosts is another one now: the durable checkpoint serves.
    shutil.rmtree(kept / "1")
    last = launch(tmp_path / "run", 2, 4, **settings)
    assert last.end() == 0, last.said
    assert "resumed at step 8\n" in last.said or "resumed at step 16\n" in last.said
    assert steps(tmp_path / "run") == steps(tmp_path / "straight")
