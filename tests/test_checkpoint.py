"""Checkpoints: whole or passed over, onto any mesh, the newest few."""

import json
import shutil
import threading
import time

import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest
import tensorstore

from deemo_jax import checkpoint
from deemo_jax.checkpoint import (
    MANIFEST,
    Best,
    Checkpoints,
    find_fault,
    read_best,
    write_manifest,
)
from deemo_jax.config import ConfigError, MeshConfig
from deemo_jax.sharding import make_mesh


def tree(step: int, mesh=None, spec=None):
    matrix = np.arange(24.0, dtype=np.float32).reshape(8, 3) + step
    split, copied = None, None
    if mesh is not None:
        split = NamedSharding(mesh, spec or PartitionSpec())
        copied = NamedSharding(mesh, PartitionSpec())
    return {
        "a": {"b": jax.device_put(matrix, split)},
        "count": jax.device_put(np.int32(step), copied),
    }


def abstract(values):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), values
    )


def save(folder, steps, keep=9, said=None):
    said = [] if said is None else said
    with Checkpoints(folder, keep=keep, say=said.append) as checkpoints:
        for step in steps:
            checkpoints.save(step, {"params": tree(step), "opt_state": tree(-step)})


def files(checkpoint):
    return sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.stat().st_size)


def newest(folder):
    said = []
    with Checkpoints(folder, keep=9, say=said.append) as checkpoints:
        return checkpoints.newest(), said


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    save(folder, (1, 2, 3))
    return folder


@pytest.fixture
def copied(three, tmp_path):
    return shutil.copytree(three, tmp_path / "copied")


def test_what_was_saved_comes_back_alone_or_together(three):
    with Checkpoints(three, keep=9) as checkpoints:
        assert checkpoints.newest() == 3
        both = checkpoints.restore(
            2, {"params": abstract(tree(0)), "opt_state": abstract(tree(0))}
        )
        one = checkpoints.restore(3, {"params": abstract(tree(0))})
    jax.tree.map(np.testing.assert_array_equal, both["params"], tree(2))
    jax.tree.map(np.testing.assert_array_equal, both["opt_state"], tree(-2))
    assert one.keys() == {"params"}
    jax.tree.map(np.testing.assert_array_equal, one["params"], tree(3))


def test_a_save_may_be_followed_by_donation(tmp_path):
    values = tree(5)
    grow = jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(5, {"params": values})
        for _ in range(5):
            values = grow(values)
        found = checkpoints.restore(5, {"params": abstract(values)})
    jax.tree.map(np.testing.assert_array_equal, found["params"], tree(5))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 4, 1), (2, 2, 2)])
def test_onto_any_mesh(tmp_path, sizes):
    data, fsdp, tensor = 2, 4, 1
    written = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
    spec = PartitionSpec("fsdp")
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(7, {"params": tree(7, written, spec)})
        data, fsdp, tensor = sizes
        mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
        wanted = abstract(tree(0, mesh, spec))
        found = checkpoints.restore(7, {"params": wanted})["params"]
    jax.tree.map(np.testing.assert_array_equal, found, tree(7))
    assert jax.tree.map(lambda x: x.sharding, found) == jax.tree.map(
        lambda x: x.sharding, wanted
    )


def bytes_read():
    """From files, so far, by what Orbax reads and writes with."""
    metrics = tensorstore.experimental_collect_matching_metrics(
        "/tensorstore/kvstore/file/bytes_read"
    )
    return sum(value["value"] for metric in metrics for value in metric["values"])


@pytest.mark.parametrize(
    ("sizes", "spec", "times"),
    [
        ((1, 8, 1), ("fsdp",), 1),
        ((2, 4, 1), ("fsdp",), 1),
        ((8, 1, 1), (), 1),
        # A file of which two shards need a part each may be read for both.
        ((2, 2, 2), ("fsdp", "tensor"), 2),
        ((2, 2, 2), ("tensor",), 2),
    ],
)
def test_each_shard_is_read_once_however_many_devices_hold_it(
    tmp_path, sizes, spec, times
):
    written = make_mesh(MeshConfig(data=1, fsdp=8, tensor=1))
    values = np.random.default_rng(0).standard_normal((512, 512), np.float32)
    split = NamedSharding(written, PartitionSpec("fsdp"))
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, {"params": {"w": jax.device_put(values, split)}})
        checkpoints.wait()
        size = sum(path.stat().st_size for path in files(tmp_path))
        data, fsdp, tensor = sizes
        mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
        asked = jax.ShapeDtypeStruct(
            values.shape,
            values.dtype,
            sharding=NamedSharding(mesh, PartitionSpec(*spec)),
        )
        before = bytes_read()
        found = checkpoints.restore(1, {"params": {"w": asked}})["params"]["w"]
    assert values.nbytes * 0.9 < bytes_read() - before <= times * size
    np.testing.assert_array_equal(found, values)


def test_the_newest_few_are_kept(tmp_path):
    save(tmp_path, (10, 20, 30, 100), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["100", "30"]


def test_later_ones_that_were_passed_over_are_no_reason_to_remove_a_good_one(copied):
    """A run whose step 9 is damaged goes on from 3 and is stopped at 5."""
    file = max(files(copied / "3"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])
    (copied / "3").rename(copied / "9")
    save(copied, (5,), keep=1)
    assert newest(copied)[0] == 5
    assert {path.name for path in copied.iterdir()} == {"5", "9"}


def test_one_flipped_bit_anywhere_is_found(copied):
    for file in files(copied / "3"):
        data = bytearray(file.read_bytes())
        for place in (0, len(data) // 2, len(data) - 1):
            # Bit 4, because a flip that turns one of the manifest's spaces or line
            # ends into another leaves its meaning.
            flipped = bytearray(data)
            flipped[place] ^= 16
            file.write_bytes(flipped)
            assert find_fault(copied / "3") is not None, (file, place)
        file.write_bytes(data)
    assert find_fault(copied / "3") is None


def test_a_damaged_checkpoint_is_passed_over_by_name(copied):
    file = max(files(copied / "3"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    step, said = newest(copied)
    assert step == 2
    [line] = said
    assert str(copied / "3") in line
    assert file.name in line
    assert "damaged" in line


@pytest.mark.parametrize("left", ["no manifest", "a missing file", "a file too many"])
def test_an_incomplete_checkpoint_is_passed_over(copied, left):
    if left == "no manifest":
        (copied / "3" / MANIFEST).unlink()
    elif left == "a missing file":
        files(copied / "3" / "params")[0].unlink()
    else:
        (copied / "3" / "params" / "more").write_text("")
    step, said = newest(copied)
    assert (step, len(said)) == (2, 1)


def test_one_that_cannot_be_read_is_passed_over(copied, monkeypatch):
    bad = files(copied / "3" / "params")[0]
    read = checkpoint.checksum

    def checksum(path, **named):
        if path == bad:
            raise OSError(5, "Input/output error")
        return read(path, **named)

    monkeypatch.setattr(checkpoint, "checksum", checksum)
    step, said = newest(copied)
    assert step == 2
    assert f"{bad.name} cannot be read (Input/output error)" in said[0]


def test_a_manifest_that_is_seen_late_is_waited_for(copied, monkeypatch):
    """As another process sees it, whose network file system is behind."""
    manifest, late = copied / "3" / MANIFEST, copied / "late"
    manifest.rename(late)
    monkeypatch.setattr(Checkpoints, "_candidates", lambda *_: [3, 2])
    threading.Timer(1.0, late.rename, (manifest,)).start()
    assert newest(copied) == (3, [])


def test_a_manifest_of_another_checkpoint_does_not_do(copied):
    manifest = json.loads((copied / "2" / MANIFEST).read_text())
    (copied / "3" / MANIFEST).write_text(json.dumps(manifest))
    assert newest(copied)[0] == 2


def test_none_is_found_where_there_is_none(tmp_path):
    assert newest(tmp_path / "absent") == (None, [])


def test_a_damaged_one_is_written_over_and_remains_are_cleared(copied):
    (copied / "3" / MANIFEST).unlink()
    (copied / "4.orbax-checkpoint-tmp").mkdir()
    (copied / "1" / MANIFEST).unlink()
    said = []
    with Checkpoints(copied, keep=9, say=said.append) as checkpoints:
        checkpoints.clear_remains()
        checkpoints.save(3, {"params": tree(33)})
        assert checkpoints.newest() == 3
        found = checkpoints.restore(3, {"params": abstract(tree(0))})
    jax.tree.map(np.testing.assert_array_equal, found["params"], tree(33))
    assert "4.orbax-checkpoint-tmp" in said[0]
    assert not (copied / "4.orbax-checkpoint-tmp").exists()
    # Never sealed, and there is a whole one after it: it would lie there for good.
    assert f"{copied / '1'}, an unfinished checkpoint" in said[1]
    assert sorted(path.name for path in copied.iterdir()) == ["2", "3"]


def test_a_failed_save_is_not_silent(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OSError, match="file"),
        Checkpoints(tmp_path / "file", keep=1) as checkpoints,
    ):
        checkpoints.save(1, {"params": tree(1)})


def test_another_tree_is_refused(three):
    wanted = abstract(tree(0))
    wanted["a"]["c"] = wanted["a"]["b"]
    with (
        Checkpoints(three, keep=9) as checkpoints,
        pytest.raises(ValueError, match=r"c"),
    ):
        checkpoints.restore(3, {"params": wanted})


def test_small_arrays_on_many_devices_are_saved_without_compiling(tmp_path):
    """Orbax would slice each over its replicas, by a program for every shape."""
    mesh = make_mesh(MeshConfig(data=8, fsdp=1, tensor=1))
    everywhere = NamedSharding(mesh, PartitionSpec())
    values = [np.ones((8 * size, 3), np.float32) for size in range(11, 15)]
    params = {str(i): jax.device_put(x, everywhere) for i, x in enumerate(values)}
    compiled = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if "backend_compile" in event:
            compiled.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            checkpoints.save(1, {"params": params})
        jax.block_until_ready(jax.jit(lambda x: x + len(compiled))(1.0))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(compiled) == 1  # the line above, and so it is heard


def test_the_newest_before_a_step(three):
    with Checkpoints(three, keep=9) as checkpoints:
        assert checkpoints.newest(before=3) == 2
        assert checkpoints.newest(before=1) is None


def test_the_best_is_kept_and_the_one_before_no_longer(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        best = Best(checkpoints, "accuracy")
        for step, value in enumerate((0.3, 0.8, 0.5, 0.9, 0.9), 1):
            checkpoints.save(step, {"params": tree(step)})
            if best.beaten(step, {"accuracy": value}):
                best.enter(step, {"accuracy": value})
        checkpoints.save(6, {"params": tree(6)})
    kept = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert kept == {"4", "6"}  # the first of two that are equal

    def after(metric, start=6):
        return Best(checkpoints, metric, start=start)

    assert after("accuracy").beaten(7, {"accuracy": 0.91})
    assert not after("accuracy").beaten(7, {"accuracy": 0.9})
    # Gone on from before it, a run will find the same again.
    assert after("accuracy", start=3).beaten(4, {"accuracy": 0.9})
    assert after("loss").beaten(7, {"loss": -9.0})  # another figure
    assert not after("").beaten(7, {"accuracy": 1.0})
    with pytest.raises(ConfigError, match="'f1', which .* it gives accuracy"):
        after("f1").beaten(7, {"accuracy": 1.0})


def test_a_best_one_is_named_when_it_is_whole_and_not_before(tmp_path, monkeypatch):
    sealed = threading.Event()
    monkeypatch.setattr(
        "deemo_jax.checkpoint.write_manifest",
        lambda path, step: sealed.wait(20) and write_manifest(path, step),
    )
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, {"params": tree(1)})
        Best(checkpoints, "accuracy").enter(1, {"accuracy": 0.5})
        assert read_best(tmp_path) is None
        sealed.set()
    assert read_best(tmp_path) == {"step": 1, "metric": "accuracy", "value": 0.5}


def test_a_failed_save_is_told_without_waiting(tmp_path, monkeypatch):
    def fail(path, step):
        raise OSError("disk full")

    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.check()
        checkpoints.save(1, {"params": tree(1)})
        checkpoints.wait()
        monkeypatch.setattr("deemo_jax.checkpoint.write_manifest", fail)
        checkpoints.save(2, {"params": tree(2)})
        while checkpoints._pending is not None and not checkpoints._pending.done():
            time.sleep(0.01)
        with pytest.raises(OSError, match="disk full"):
            checkpoints.check()
        assert checkpoints.newest() == 1  # and the one before is still there
