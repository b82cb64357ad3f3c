"""Tables of names are read both ways, and a folder that does not fit is refused."""

import dataclasses
import json

from flax import nnx
import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from deemo_jax import pretrained
from deemo_jax.pretrained import (
    PretrainedError,
    Row,
    prefixed,
    read,
    read_config,
    write,
)
from deemo_jax.weights import FLOATS, Stored, write_json

TABLE = (
    Row("embed.weight", "embed/embedding"),
    Row("layers.{layer}.up.weight", "layers/up/kernel", "linear"),
    Row("layers.{layer}.up.bias", "layers/up/bias"),
    Row("patch.weight", "patch/kernel", "conv2d"),
    Row("ear.weight", "ear/kernel", "conv1d"),
)
SHAPES = {
    "embed.weight": (7, 4),
    "layers.0.up.weight": (6, 4),
    "layers.1.up.weight": (6, 4),
    "patch.weight": (4, 3, 2, 5),
    "ear.weight": (4, 3, 5),
}
CONFIG = {"model_type": "thing", "width": 4}


def abstract():
    shapes = {
        ("embed", "embedding"): (7, 4),
        ("layers", "up", "kernel"): (2, 4, 6),
        ("patch", "kernel"): (2, 5, 3, 4),
        ("ear", "kernel"): (5, 3, 4),
    }
    return nnx.from_flat_state(
        (path, nnx.Param(jax.ShapeDtypeStruct(shape, np.float32)))
        for path, shape in shapes.items()
    )


def tensors():
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in SHAPES.items()
    }


@pytest.fixture
def folder(tmp_path):
    save_file(tensors(), tmp_path / "model.safetensors")
    return tmp_path


def edit(folder, **changes):
    """Rewrites the folder's weights; None takes a tensor away."""
    edited = tensors() | {name.replace("__", "."): x for name, x in changes.items()}
    kept = {name: x for name, x in edited.items() if x is not None}
    save_file(kept, folder / "model.safetensors")


def by_path(params):
    flat = nnx.to_flat_state(params)
    return {"/".join(map(str, path)): value.get_value() for path, value in flat}


def as_dict(params):
    return {path: np.asarray(value) for path, value in by_path(params).items()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def test_each_transform_turns_its_axes(folder):
    theirs, ours = tensors(), as_dict(read(folder, TABLE, abstract()))
    np.testing.assert_array_equal(ours["embed/embedding"], theirs["embed.weight"])
    for layer in range(2):
        np.testing.assert_array_equal(
            ours["layers/up/kernel"][layer], theirs[f"layers.{layer}.up.weight"].T
        )
    np.testing.assert_array_equal(
        ours["patch/kernel"], np.einsum("oihw->hwio", theirs["patch.weight"])
    )
    np.testing.assert_array_equal(
        ours["ear/kernel"], np.einsum("oiw->wio", theirs["ear.weight"])
    )


def test_written_and_read_again_is_the_same(folder):
    params = read(folder, TABLE, abstract())
    write(folder / "again", TABLE, params, CONFIG)
    assert_same(load_file(folder / "again/model.safetensors"), tensors())
    assert read_config(folder / "again") == CONFIG
    again = read(folder / "again", TABLE, abstract())
    assert_same(as_dict(again), as_dict(params))


def test_shards_hold_what_one_file_holds_and_replace_it(folder):
    params = read(folder, TABLE, abstract())
    write(folder, TABLE, params, CONFIG, shard_bytes=300)
    shards = sorted(file.name for file in folder.glob("*.safetensors"))
    assert len(shards) > 1
    assert shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    assert_same(as_dict(read(folder, TABLE, abstract())), as_dict(params))
    write(folder, TABLE, params, CONFIG)
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_values_are_cast_to_the_parameters_dtype(folder):
    halves = {name: x.astype(np.float16) for name, x in tensors().items()}
    edit(folder, **halves)
    params = as_dict(read(folder, TABLE, abstract()))
    assert {x.dtype for x in params.values()} == {np.dtype(np.float32)}
    assert_same(
        {"embed.weight": params["embed/embedding"]},
        {"embed.weight": halves["embed.weight"].astype(np.float32)},
    )


def test_a_prefix_is_found_and_foreign_subtrees_are_left(folder):
    options = {"prefixes": ("", "tower."), "foreign": ["text.*"]}
    renamed = {f"tower.{name}": x for name, x in tensors().items()}
    save_file(
        renamed | {"text.weight": np.zeros(3)},
        folder / "model.safetensors",
    )
    params = read(
        folder, TABLE, abstract(), prefixes=("", "tower."), foreign=["text.*"]
    )
    save_file(tensors(), folder / "model.safetensors")
    same = read(folder, TABLE, abstract(), **options)
    assert_same(as_dict(params), as_dict(same))


def test_a_tower_within_a_whole_reads_the_same(folder):
    whole = nnx.State({"tower": abstract()})
    table = prefixed(TABLE, "my_tower.", "tower/")
    renamed = {f"my_tower.{name}": x for name, x in tensors().items()}
    alone = read(folder, TABLE, abstract())
    save_file(renamed, folder / "model.safetensors")
    assert_same(as_dict(read(folder, table, whole)["tower"]), as_dict(alone))


@pytest.mark.parametrize(
    ("path", "spec"),
    [
        ("layers/up/kernel", PartitionSpec(None, "fsdp", "tensor")),
        ("layers/up/kernel", PartitionSpec("fsdp")),
        ("patch/kernel", PartitionSpec(None, None, None, ("fsdp", "tensor"))),
        ("embed/embedding", PartitionSpec(None, "tensor")),
    ],
)
def test_each_tensor_goes_straight_into_its_shards(folder, path, spec):
    mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"), (AxisType.Auto, AxisType.Auto))
    at = tuple(path.split("/"))
    shardings = nnx.from_flat_state(
        (here, NamedSharding(mesh, spec if here == at else PartitionSpec()))
        for here, _ in nnx.to_flat_state(abstract())
    )
    params = read(folder, TABLE, abstract(), shardings=shardings)
    placed = by_path(params)
    assert placed[path].sharding.spec == spec
    assert placed[path].addressable_shards[0].data.size < placed[path].size
    assert_same(as_dict(params), as_dict(read(folder, TABLE, abstract())))


def test_an_older_name_is_read_and_the_newer_one_written(folder):
    table = (
        *TABLE[:3],
        Row("seeing.weight", "patch/kernel", "conv2d", older="patch.weight"),
        Row("hearing.weight", "ear/kernel", "conv1d", older="ear.weight"),
    )
    old = read(folder, table, abstract())
    assert_same(as_dict(old), as_dict(read(folder, TABLE, abstract())))
    write(folder / "new", table, old, CONFIG)
    written = load_file(folder / "new/model.safetensors")
    assert {"seeing.weight", "hearing.weight"} < set(written)
    assert not {"patch.weight", "ear.weight"} & set(written)
    new = read(folder / "new", table, abstract())
    assert_same(as_dict(new), as_dict(old))
    # Under a prefix too, and both at once is one too many.
    renamed = {f"tower.{name}": x for name, x in tensors().items()}
    save_file(renamed, folder / "model.safetensors")
    again = read(folder, table, abstract(), prefixes=("", "tower."))
    assert_same(as_dict(again), as_dict(old))
    edit(folder, hearing__weight=tensors()["ear.weight"])
    refusal(folder, r"1 tensor \(hearing\.weight\) left over", table=table)
    edit(folder, ear__weight=None)
    refusal(folder, r"1 tensor \(hearing\.weight\) missing", table=table)


def refusal(folder, message, table=TABLE, **options):
    with pytest.raises(PretrainedError, match=message):
        read(folder, table, abstract(), **options)


def test_a_missing_tensor_is_named(folder):
    edit(folder, layers__1__up__weight=None)
    refusal(folder, r"1 tensor \(layers\.1\.up\.weight\) missing; check that config")


def test_a_leftover_tensor_is_named(folder):
    edit(folder, layers__2__up__weight=np.zeros((6, 4)))
    refusal(folder, r"1 tensor \(layers\.2\.up\.weight\) left over")


def test_a_tensor_for_an_absent_parameter_is_left_over(folder):
    edit(folder, layers__0__up__bias=np.zeros(6))
    refusal(folder, r"\(layers\.0\.up\.bias\) left over")


def test_a_contradicting_shape_is_named(folder):
    edit(folder, layers__0__up__weight=np.zeros((4, 6)))
    refusal(folder, r"layers\.0\.up\.weight .* shape \[4, 6\], .* makes it \[6, 4\]")


def test_a_parameter_without_row_is_named(folder):
    refusal(folder, r"1 parameter \(ear/kernel\) .* no row", table=TABLE[:-1])


def test_a_truncated_file_is_named_with_its_size(folder):
    whole = (folder / "model.safetensors").read_bytes()
    for size in (0, 5, 40, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:size])
        refusal(folder, rf"model\.safetensors \({size} bytes\) is not a whole")


def test_only_pickles_are_refused_by_name(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refusal(folder, r"only pickled weights \(pytorch_model\.bin\), .*convert them")


def test_a_folder_without_weights_and_no_folder_are_refused(folder):
    (folder / "model.safetensors").unlink()
    refusal(folder, "has neither model.safetensors nor model.safetensors.index.json")
    refusal(folder / "nowhere", "nowhere is not a folder")


@pytest.fixture
def sharded(folder):
    params = read(folder, TABLE, abstract())
    write(folder, TABLE, params, CONFIG, shard_bytes=300)
    return folder


def test_a_missing_shard_is_named(sharded):
    gone = sorted(sharded.glob("model-*.safetensors"))[1]
    gone.unlink()
    refusal(sharded, rf"shard '{gone.name}' of .* is missing; put it beside")


def test_a_shard_outside_the_folder_is_refused(sharded):
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    inside = index["weight_map"]["embed.weight"]
    index["weight_map"]["embed.weight"] = f"../{sharded.name}/{inside}"
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    refusal(sharded, r"shard '\.\./.*' of .* is missing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "index.json is not JSON: .*; fetch it again"),
        ("[]", "index.json holds no JSON object"),
        ('{"weight_map": {}}', "has no weight_map"),
    ],
)
def test_a_broken_index_is_refused(sharded, text, message):
    (sharded / "model.safetensors.index.json").write_text(text)
    refusal(sharded, message)


def test_an_index_that_promises_more_than_its_shards_is_refused(sharded):
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    first = next(iter(index["weight_map"].values()))
    index["weight_map"]["norm.weight"] = first
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    refusal(sharded, r"1 tensor \(norm\.weight\) of .* are in none of its shards")


def test_a_missing_or_broken_config_is_refused(tmp_path):
    with pytest.raises(PretrainedError, match=r"config\.json is missing; give"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{]")
    with pytest.raises(PretrainedError, match=r"config\.json is not JSON"):
        read_config(tmp_path)


def test_other_settings_are_read_and_written_beside(folder):
    write_json(folder / "preprocessor_config.json", {"rate": 3})
    assert read_config(folder, "preprocessor_config.json") == {"rate": 3}
    with pytest.raises(PretrainedError, match=r"/config\.json is missing"):
        read_config(folder)


def test_an_interrupted_write_leaves_the_old_folder(folder, monkeypatch):
    params = read(folder, TABLE, abstract())
    write(folder, TABLE, params, CONFIG)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    fetch, fetched = pretrained._fetch, []

    def full_disk(*args):
        fetched.append(args)
        if len(fetched) == 3:
            raise OSError("No space left on device")
        return fetch(*args)

    monkeypatch.setattr(pretrained, "_fetch", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write(folder, TABLE, params, dict(CONFIG, width=5))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("kind", ["F64", "F32", "F16", "BF16"])
def test_every_width_of_floats_is_read_and_written(folder, kind):
    dtype = FLOATS[kind]
    edit(folder, **{name: x.astype(dtype) for name, x in tensors().items()})
    params = read(folder, TABLE, abstract())
    for name, x in by_path(params).items():
        assert x.dtype == np.float32, name
    write(folder / "again", TABLE, params, CONFIG, dtype=dtype)
    again = load_file(folder / "again/model.safetensors")
    for name, x in load_file(folder / "model.safetensors").items():
        assert again[name].dtype == dtype
        wide = x.astype(np.float32)
        np.testing.assert_array_equal(again[name].astype(np.float32), wide)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["layers.1.up.weight", "ear.weight"])
def test_a_value_that_is_no_number_is_named(folder, name, value):
    broken = tensors()[name]
    broken.flat[-1] = value
    edit(folder, **{name: broken})
    refusal(folder, rf"{name} in .* holds NaN or infinity \(as float32\); .* fetch")


def test_a_value_too_large_for_float32_is_named(folder):
    edit(folder, patch__weight=np.full(SHAPES["patch.weight"], 1e300))
    refusal(folder, r"patch\.weight in .* holds NaN or infinity \(as float32\)")


def test_a_quantised_tensor_is_named(folder):
    edit(folder, patch__weight=np.ones(SHAPES["patch.weight"], np.int8))
    refusal(folder, r"patch\.weight in .* is of type I8; supported: F64, F32, F16, BF")


COPIES = {"copies": [("ear2.weight", "ear.weight")], "prefixes": ("", "tower.")}


@pytest.mark.parametrize("prefix", ["", "tower."])
def test_a_copy_is_compared_with_what_it_repeats(folder, prefix, monkeypatch):
    monkeypatch.setattr(pretrained, "COMPARED_ROWS", 3)  # of 4: two parts

    def save(copy):
        renamed = {f"{prefix}{name}": x for name, x in tensors().items()}
        renamed[f"{prefix}ear2.weight"] = copy
        save_file(renamed, folder / "model.safetensors")

    save(tensors()["ear.weight"])
    read(folder, TABLE, abstract(), **COPIES)
    refusal(folder, r"1 tensor \(.*ear2.weight\) left over", prefixes=("", "tower."))
    for row in (0, -1):
        wrong = tensors()["ear.weight"]
        wrong[row, 0, 0] += 1.0
        save(wrong)
        refusal(
            folder, rf"{prefix}ear2.weight in .* differs from {prefix}ear", **COPIES
        )


def test_each_slice_is_read_once_however_many_devices_share_it(folder, monkeypatch):
    mesh = jax.make_mesh((2, 4), ("fsdp", "data"), (AxisType.Auto, AxisType.Auto))
    shardings = nnx.from_flat_state(
        (here, NamedSharding(mesh, PartitionSpec(None, "fsdp")))
        for here, _ in nnx.to_flat_state(abstract())
        if here == ("embed", "embedding")
    )
    some = nnx.from_flat_state(
        (here, variable)
        for here, variable in nnx.to_flat_state(abstract())
        if here == ("embed", "embedding")
    )
    whole, sizes = Stored.read, []

    def spy(stored, index, dtype):
        found = whole(stored, index, dtype)
        sizes.append(found.shape)
        return found

    monkeypatch.setattr(Stored, "read", spy)
    foreign = ("layers.*", "patch.*", "ear.*")
    params = read(folder, TABLE, some, shardings=shardings, foreign=foreign)
    assert sizes == [(7, 2), (7, 2)]
    assert_same(as_dict(params), {"embed/embedding": tensors()["embed.weight"]})


def test_one_layer_at_a_time_is_brought_to_the_host(folder, monkeypatch):
    params = read(folder, TABLE, abstract())
    fetch, order = pretrained._fetch, []

    def spy(*args):
        found = fetch(*args)
        order.append(found.shape)
        return found

    monkeypatch.setattr(pretrained, "_fetch", spy)
    write(folder / "again", TABLE, params, CONFIG)
    assert order.count((6, 4)) == 2  # a tensor a layer, not the stack of them
    assert len(order) == len(SHAPES)


def test_rows_are_values():
    row = Row("a.{layer}.weight", "a/kernel", "linear")
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.name = "b"  # pyright: ignore[reportAttributeAccessIssue]
    assert row.tensor_shape((2, 4, 6)) == (6, 4)
