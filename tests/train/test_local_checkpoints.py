import time

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from deemo_jax.config import MeshConfig
from deemo_jax.sharding import make_mesh
from deemo_jax.train.local_checkpoints import RUN_ID, LocalCheckpoints, make_run_id


def layout(**sizes):
    ones = dict.fromkeys(("dcn_data", "dcn_fsdp", "data", "sequence", "tensor"), 1)
    return make_mesh(MeshConfig(**ones | {"fsdp": -1} | sizes))


def items(mesh, seed=0):
    """Pytrees of arrays that are split, copied, of odd types, and single numbers."""
    draw = np.random.default_rng(seed)

    def put(array, *axes):
        return jax.device_put(array, NamedSharding(mesh, P(*axes)))

    return {
        "params": {
            "a": put(draw.normal(size=(16, 8)).astype(np.float32), "fsdp", "tensor"),
            "b": [put(draw.normal(size=8).astype(jnp.bfloat16))],
        },
        "opt_state": (put(np.int32(seed)), put(draw.integers(0, 9, (8, 3)), "fsdp")),
    }


def abstract(tree):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
    )


@pytest.fixture
def local(tmp_path):
    make_run_id(tmp_path)
    with LocalCheckpoints(tmp_path / "disk", tmp_path) as local:
        yield local


@pytest.mark.parametrize("sizes", [{}, {"tensor": 2}])
def test_what_is_kept_comes_back_bit_by_bit_where_it_lay(local, sizes):
    saved = items(layout(**sizes))
    local.save(7, saved)
    local.wait()
    assert local.newest(abstract(saved)) == 7
    found = local.restore(7, abstract(saved))
    assert jax.tree.structure(found) == jax.tree.structure(saved)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(saved), strict=True):
        assert one.sharding == other.sharding
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_copies_on_several_devices_are_kept_once(local, tmp_path):
    mesh = layout()
    array = np.zeros((1000, 100), np.float32)
    copied = {"params": jax.device_put(array, NamedSharding(mesh, P()))}
    local.save(1, copied)
    local.wait()
    [file] = (tmp_path / "disk").rglob("*.safetensors")
    assert array.nbytes <= file.stat().st_size < 1.1 * array.nbytes


def test_the_two_newest_are_kept_and_later_ones_dropped_on_the_way_back(local):
    saved = items(layout())
    for step in (2, 4, 6):
        local.save(step, saved)
    local.wait()
    assert local.newest(abstract(saved)) == 6
    local.drop_after(5)
    assert local.newest(abstract(saved)) == 4
    local.drop_after(3)
    assert local.newest(abstract(saved)) is None  # 2 was out of date


@pytest.mark.parametrize("harm", ["flipped", "truncated", "no entry", "torn entry"])
def test_what_is_not_whole_is_passed_over(local, tmp_path, harm):
    saved = items(layout())
    for step in (2, 4):
        local.save(step, saved)
    local.wait()
    [file] = (tmp_path / "disk").rglob("4.safetensors")
    entry = file.with_suffix(".json")
    data = bytearray(file.read_bytes())
    if harm == "flipped":
        data[-1] ^= 1
        file.write_bytes(data)
    elif harm == "truncated":
        file.write_bytes(data[:-1])
    elif harm == "no entry":
        entry.unlink()
    else:
        entry.write_text(entry.read_text()[:9])
    assert local.newest(abstract(saved)) == 2


def test_what_lies_otherwise_does_not_fit(local):
    local.save(1, items(layout()))
    local.wait()
    assert local.newest(abstract(items(layout(tensor=2)))) is None
    other = items(layout())
    other["params"]["c"] = other["params"]["a"]
    assert local.newest(abstract(other)) is None


def test_runs_that_share_a_disk_do_not_meet(local, tmp_path):
    saved = items(layout())
    local.save(1, saved)
    local.wait()
    (tmp_path / RUN_ID).unlink()
    make_run_id(tmp_path)  # the workdir was emptied, and another run began
    with LocalCheckpoints(tmp_path / "disk", tmp_path) as other:
        assert other.newest(abstract(saved)) is None
        other.save(3, saved)
        other.forget()
        assert other.newest(abstract(saved)) is None
    make_run_id(tmp_path)
    assert local.newest(abstract(saved)) == 1


def test_a_save_that_failed_is_told_at_the_next_step(local, tmp_path):
    (tmp_path / "disk").write_text("in the way")
    local.save(1, items(layout()))
    with pytest.raises(OSError, match="disk"):
        _until_told(local)


def test_without_a_folder_nothing_is_kept(tmp_path):
    saved = items(layout())
    with LocalCheckpoints(None, tmp_path) as local:
        local.save(1, saved)
        local.check()
        local.drop_after(0)
        local.forget()
        assert local.newest(abstract(saved)) is None


def _until_told(local):
    for _ in range(1000):
        local.check()
        time.sleep(0.01)
