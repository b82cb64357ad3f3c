"""A run whose workdir and records are in a bucket; an emulator has the part of it."""

import json

import pytest

from deemo_jax.checkpoint import find_fault
from deemo_jax.data.shards import ShardSource
from deemo_jax.storage import copy_folder, files_below, locate
from deemo_jax.train.lock import LOCK
from tests.faults.conftest import steps

STEPS = 12
SETTINGS = {"train__steps": STEPS, "train__save_every": 2, "train__keep": 2}


@pytest.fixture
def uploaded(bucket, launch, tmp_path):
    """The corpus of the runs, copied to the bucket."""
    packed = locate(f"{bucket}/{tmp_path.name}/packed")
    copy_folder(locate(launch.data["data__path"]), packed)
    return packed


def test_records_in_a_bucket_are_those_that_were_packed(launch, uploaded):
    here = ShardSource(locate(launch.data["data__path"]), "train")
    there = ShardSource(uploaded, "train")
    assert there.manifest == here.manifest
    assert [there[i] for i in (3, 0)] == [here[i] for i in (3, 0)]


def test_killed_and_gone_on_with_it_gets_where_one_on_a_disk_does(
    bucket, launch, uploaded, tmp_path
):
    straight = launch(tmp_path / "run", 2, 4, **SETTINGS)
    assert straight.end() == 0, straight.said
    workdir = locate(f"{bucket}/{tmp_path.name}/run")
    settings = SETTINGS | {"data__path": str(uploaded), "data__tokenizer": ""}
    run = launch(workdir, 2, 4, **settings)
    run.until_step(6)
    run.kill()
    assert (workdir / LOCK).exists()
    again = launch(workdir, 2, 4, **settings)
    assert again.end() == 0, again.said
    assert "resumed at step" in again.said
    assert steps(workdir) == steps(tmp_path / "run")
    assert not (workdir / LOCK).exists()
    kept = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert {str(STEPS - 2), str(STEPS)} <= kept
    assert find_fault(workdir / "checkpoints" / str(STEPS)) is None
    assert json.loads((workdir / "goodput.json").read_text())["starts"] == 2
    names = files_below(workdir)
    assert {"config.json", "ledger.jsonl", "train.log", "heartbeats/1.json"} <= {*names}
    assert any(name.startswith("tensorboard/") for name in names)
    assert any(name.startswith("tokenizer/") for name in names)


def test_two_runs_are_kept_apart(bucket, launch, uploaded, tmp_path):
    workdir = locate(f"{bucket}/{tmp_path.name}/run")
    settings = {"data__path": str(uploaded), "train__steps": 10_000}
    run = launch(workdir, **settings)
    run.until_there("heartbeats/0.json")
    other = launch(workdir, **settings)
    assert other.end() == 2, other.said
    assert f"{workdir} is being trained in by process " in other.said
    assert run.launched.poll() is None
