"""A run whose workdir and records are in a bucket; an emulator has the part of it."""

import json
from pathlib import Path
import signal
import time

import pytest

from deemo_jax.checkpoint import MANIFEST, find_fault
from deemo_jax.data import tfds
from deemo_jax.data.consent import write_withdrawn
from deemo_jax.data.shards import shard_name, write_shard
from deemo_jax.data.source import ShardSource
from deemo_jax.storage import copy_folder, files_below, locate
from deemo_jax.train.lock import LOCK
from tests.faults.conftest import steps

STEPS = 8
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


def test_array_records_are_read_from_a_bucket_by_their_places(bucket, launch, tmp_path):
    rows = list(ShardSource(locate(launch.data["data__path"]), "train"))[:6]
    packed = tmp_path / "packed"
    packed.mkdir()
    write_shard(packed / shard_name("few", "train", 0, 1, "array_record"), rows)
    taxonomy = locate(launch.data["data__path"]) / "taxonomy.json"
    (packed / "taxonomy.json").write_bytes(taxonomy.read_bytes())
    write_withdrawn(packed, frozenset())
    tfds.write_metadata(
        packed, "few", {"train": [len(rows)]}, {"train": 1}, "", format="array_record"
    )
    copy_folder(packed, locate(f"{bucket}/{tmp_path.name}/packed"))
    there = ShardSource(locate(f"{bucket}/{tmp_path.name}/packed"), "train")
    assert [there[i] for i in (3, 0, 5)] == [rows[3], rows[0], rows[5]]


def test_a_run_goes_on_in_a_bucket_as_on_a_disk(bucket, launch, uploaded, tmp_path):
    straight = launch(tmp_path / "run", **SETTINGS)
    assert straight.end() == 0, straight.said
    workdir = locate(f"{bucket}/{tmp_path.name}/run")
    settings = SETTINGS | {"data__path": str(uploaded), "data__tokenizer": ""}
    for last in (STEPS // 2, STEPS):
        run = launch(workdir, **settings | {"train__steps": last})
        assert run.end() == 0, run.said
    assert f"resumed at step {STEPS // 2}\n" in run.said
    check(workdir, tmp_path / "run", starts=2)


@pytest.mark.slow
def test_two_processes_killed_go_on_in_a_bucket(bucket, launch, uploaded, tmp_path):
    straight = launch(tmp_path / "run", 2, 4, **SETTINGS)
    assert straight.end() == 0, straight.said
    workdir = locate(f"{bucket}/{tmp_path.name}/run")
    settings = SETTINGS | {"data__path": str(uploaded), "data__tokenizer": ""}
    run = launch(workdir, 2, 4, **settings)
    run.until_there(f"checkpoints/4/{MANIFEST}")
    run.kill()
    assert (workdir / LOCK).exists()
    again = launch(workdir, 2, 4, **settings)
    assert again.end() == 0, again.said
    assert "resumed at step" in again.said
    check(workdir, tmp_path / "run", starts=2)
    assert (workdir / "heartbeats" / "1.json").exists()


@pytest.mark.slow
def test_a_stopped_process_is_named_through_a_bucket(
    bucket, launch, uploaded, tmp_path
):
    workdir = locate(f"{bucket}/{tmp_path.name}/run")
    settings = {"data__path": str(uploaded), "train__steps": 10_000}
    run = launch(workdir, 2, 4, train__stall_seconds=20, **settings)
    run.until_there("checkpoints")
    first = Path(f"/proc/{run.beat(0)['pid']}")
    run.signal(1, signal.SIGSTOP)
    began = time.monotonic()
    run.until(lambda: not first.exists())
    assert time.monotonic() - began < 20 + 15
    assert run.end() == 76, run.said
    assert "stopped: process 1 gave no sign of life" in run.said


def check(workdir, straight, *, starts):
    """All that a run leaves is there, and is what it leaves on a disk."""
    assert steps(workdir) == steps(straight)
    assert not (workdir / LOCK).exists()
    kept = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert {str(STEPS - 2), str(STEPS)} <= kept
    assert find_fault(workdir / "checkpoints" / str(STEPS)) is None
    assert json.loads((workdir / "goodput.json").read_text())["starts"] == starts
    names = files_below(workdir)
    assert {"config.json", "ledger.jsonl", "train.log", "heartbeats/0.json"} <= {*names}
    assert any(name.startswith("tensorboard/") for name in names)
    assert any(name.startswith("tokenizer/") for name in names)
