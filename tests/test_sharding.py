"""The mesh, the table of parameters, pinned activations, placed batches."""

import dataclasses
import functools
import re

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from deemo_jax.batch import Batch
from deemo_jax.config import ConfigError, LayoutConfig, MeshConfig
from deemo_jax.models.deemo_llama import DeemoLlama
from deemo_jax.models.hubert import Hubert
from deemo_jax.models.siglip import SiglipVision
from deemo_jax.sharding import (
    AXES,
    PARAMETERS,
    constrain,
    make_mesh,
    parameter_shardings,
    part,
    partition_spec,
    path_of,
    pinned,
    place,
)
from tests.small import HUBERT, SIGLIP, small_config

SIZES = {"data": 2, "fsdp": 2, "tensor": 2}
BOTH = ("tensor", "fsdp")


def mesh_of(data, fsdp, tensor):
    return make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))


@functools.cache
def parameters(*, tied):
    """Paths and shapes of the whole model."""
    model = small_config().model
    decoder = dataclasses.replace(model.language_model, tie_word_embeddings=tied)
    model = dataclasses.replace(model, language_model=decoder)
    made = nnx.eval_shape(lambda: DeemoLlama(model, rngs=nnx.Rngs(0)))
    return nnx.state(made)


def towers():
    """Paths and shapes of the towers that `small_config` is without."""
    hears = nnx.eval_shape(lambda: Hubert(HUBERT, rngs=nnx.Rngs(0)))
    sees = nnx.eval_shape(lambda: SiglipVision(SIGLIP, rngs=nnx.Rngs(0)))
    return nnx.State({"audio_tower": nnx.state(hears), "vision_tower": nnx.state(sees)})


def paths(params):
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    return {path_of(keys): leaf for keys, leaf in flat}


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        (dict(data=-1), (1, 1, 8, 1, 1, 1)),
        (dict(data=2, fsdp=-1), (1, 1, 2, 4, 1, 1)),
        (dict(data=2, fsdp=2, tensor=2), (1, 1, 2, 2, 1, 2)),
        (dict(fsdp=4, tensor=-1), (1, 1, 1, 4, 1, 2)),
        (dict(fsdp=4), (1, 1, 1, 4, 1, 1)),  # four of the eight devices
        (dict(), (1, 1, 1, 1, 1, 1)),
        (dict(sequence=-1), (1, 1, 1, 1, 8, 1)),
        (dict(dcn_data=2, fsdp=-1), (2, 1, 1, 4, 1, 1)),
        (dict(dcn_data=2, dcn_fsdp=2, tensor=2), (2, 2, 1, 1, 1, 2)),
    ],
)
def test_sizes_of_the_mesh(sizes, shape):
    mesh = make_mesh(MeshConfig(**sizes))
    assert mesh.axis_names == (
        "dcn_data", "dcn_fsdp", "data", "fsdp", "sequence", "tensor"
    )  # fmt: skip
    assert mesh.devices.shape == shape


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device of a slice and a host, as JAX describes one."""

    id: int
    slice_index: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"


def chips(*, slices, hosts, each):
    """As many chips in each of `hosts` of each of `slices`, in no good order."""
    found = [
        Chip(id=n, slice_index=n // (hosts * each), process_index=n // each)
        for n in range(slices * hosts * each)
    ]
    return found[::2] + found[1::2]


@pytest.mark.parametrize(
    ("slices", "hosts", "axis", "key"),
    [
        (4, 2, "dcn_data", "slice_index"),
        (4, 2, "dcn_fsdp", "slice_index"),
        (1, 4, "dcn_data", "process_index"),
    ],
)
def test_the_networks_axes_cross_slices_and_no_other_does(slices, hosts, axis, key):
    devices = chips(slices=slices, hosts=hosts, each=2)
    mesh = make_mesh(MeshConfig(**{axis: -1}, fsdp=-1), devices)
    assert mesh.shape[axis] == max(slices, 1) * (1 if slices > 1 else hosts)
    rows = mesh.devices.reshape(mesh.shape[axis], -1)
    for at, row in enumerate(rows):
        assert {getattr(chip, key) for chip in row} == {at}
    assert {chip.id for chip in mesh.devices.flat} == set(range(len(devices)))


def test_two_hosts_share_a_place_of_a_network_axis_that_is_half_as_long():
    devices = chips(slices=1, hosts=4, each=2)
    mesh = make_mesh(MeshConfig(dcn_data=2, fsdp=-1), devices)
    for at, row in enumerate(mesh.devices.reshape(2, 4)):
        assert {chip.process_index for chip in row} == {2 * at, 2 * at + 1}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(dcn_data=3, fsdp=-1), "dcn_data=3, dcn_fsdp=1: 3 does not divide the 4"),
        (dict(dcn_data=-1, dcn_fsdp=3), "dcn_data=-1, dcn_fsdp=3: 3 does not divide"),
        (dict(dcn_data=8), "8 does not divide the 4 slices, or hosts"),
        (dict(dcn_data=4, tensor=4), "tensor=4: 4 does not divide the 2 devices"),
    ],
)
def test_slices_that_do_not_divide_are_refused(sizes, message):
    with pytest.raises(ConfigError, match=message):
        make_mesh(MeshConfig(**sizes), chips(slices=4, hosts=1, each=2))


@pytest.mark.parametrize("sizes", [(3, 1, 1), (16, 1, 1), (-1, 3, 1), (2, 3, 2)])
def test_sizes_that_do_not_divide_the_devices_are_refused(sizes):
    with pytest.raises(ConfigError, match=r"does not divide the 8 devices"):
        mesh_of(*sizes)


def test_every_parameter_has_its_row_and_every_row_a_parameter():
    used = set()
    for params in (parameters(tied=True), parameters(tied=False), towers()):
        for path, leaf in paths(params).items():
            partition_spec(path, leaf.shape, SIZES)
            used.add(next(p for p, _ in PARAMETERS if re.fullmatch(p, path)))
    assert used == {pattern for pattern, _ in PARAMETERS}


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("language_model/embed_tokens/embedding", (32, 8), ("tensor", "fsdp")),
        ("language_model/lm_head/kernel", (8, 32), ("fsdp", "tensor")),
        ("language_model/norm/scale", (8,), (None,)),
        ("norm/scale", (8,), (None,)),
        ("layers/self_attn/q_proj/kernel", (3, 8, 8), (None, "fsdp", "tensor")),
        ("layers/self_attn/o_proj/kernel", (3, 8, 8), (None, "tensor", "fsdp")),
        ("layers/self_attn/q_proj/bias", (3, 8), (None, "tensor")),
        ("layers/mlp/down_proj/kernel", (3, 8, 8), (None, "tensor", "fsdp")),
        # A dimension that the axis does not divide is copied.
        ("layers/self_attn/k_proj/kernel", (3, 8, 3), (None, "fsdp", None)),
        ("embed_tokens/embedding", (33, 8), (None, "fsdp")),
        ("audio_tower/conv1/kernel", (3, 5, 8), (None, None, "fsdp")),
        ("conv_layers/0/conv/kernel", (10, 1, 8), (None, None, "fsdp")),
        ("pos_conv_embed/kernel", (6, 2, 8), (None, None, "fsdp")),
        ("pos_conv_embed/gain", (6, 1, 1), (None, None, None)),
        # LoRA's rank is not split, the rest is as in the kernel, but over `fsdp` too.
        ("layers/self_attn/q_proj/lora_a", (3, 8, 2), (None, "fsdp", None)),
        ("layers/self_attn/q_proj/lora_b", (3, 2, 8), (None, None, BOTH)),
        ("layers/mlp/down_proj/lora_a", (3, 8, 2), (None, BOTH, None)),
        ("layers/mlp/down_proj/lora_b", (3, 2, 8), (None, None, "fsdp")),
        ("lm_head/lora_a", (8, 2), ("fsdp", None)),
        ("lm_head/lora_b", (2, 8), (None, BOTH)),
    ],
)
def test_specs(path, shape, spec):
    assert partition_spec(path, shape, SIZES) == PartitionSpec(*spec)


LAYOUT = LayoutConfig(
    vision_tower="replicated",
    audio_tower="fsdp",
    connectors="fsdp",
    language_model="fsdp_tensor",
    tolerance=0.0,
)


@pytest.mark.parametrize(
    ("path", "spec"),
    [
        ("vision_tower/layers/mlp/fc1/kernel", (None, None, None)),
        ("audio_tower/layers/fc1/kernel", (None, ("dcn_fsdp", "fsdp"), None)),
        ("video_connector/projection/kernel", (None, ("dcn_fsdp", "fsdp"), None)),
        (
            "language_model/layers/mlp/up_proj/kernel",
            (None, ("dcn_fsdp", "fsdp"), "tensor"),
        ),
    ],
)
def test_each_part_is_split_over_the_axes_of_its_layout(path, spec):
    sizes = {str(axis): 2 for axis in AXES}
    shape = (3, 8, 8)
    if "projection" in path:
        shape, spec = shape[1:], spec[1:]
    assert partition_spec(path, shape, sizes, LAYOUT) == PartitionSpec(*spec)


def test_of_several_axes_the_first_that_divide_are_taken():
    sizes = {"dcn_fsdp": 2, "fsdp": 4}
    for width, axes in ((8, ("dcn_fsdp", "fsdp")), (6, "dcn_fsdp"), (3, None)):
        spec = partition_spec("lm_head/kernel", (width, 32), sizes)
        assert spec == PartitionSpec(axes, None)


@pytest.mark.parametrize(
    ("name", "names", "spec"),
    [
        # What a part does not use otherwise splits its rows.
        ("language_model", ("batch", "sequence", "mlp"),
         (("data",), "sequence", "tensor")),
        ("language_model", ("batch", "keys", "kv_heads"), (("data",), None, "tensor")),
        ("audio_tower", ("batch", "sequence", "mlp"),
         (("data", "sequence", "tensor"), None, None)),
        ("elsewhere", ("batch", "sequence", "mlp"),
         (("data", "sequence"), None, "tensor")),
    ],
)  # fmt: skip
def test_activations_of_each_part(name, names, spec):
    mesh = make_mesh(MeshConfig(data=2, sequence=2, tensor=2))
    with jax.set_mesh(mesh), part(name, LAYOUT), pinned() as found:
        jax.eval_shape(lambda x: constrain(x, names), jnp.zeros((8, 8, 8)))
    plain = tuple(x[0] if type(x) is tuple and len(x) == 1 else x for x in spec)
    assert [(x.part, x.spec) for x in found] == [(name, PartitionSpec(*plain))]


@pytest.mark.parametrize(
    ("path", "shape", "message"),
    [
        ("language_model/adapter/kernel", (8, 8), "language_model/adapter/kernel"),
        ("language_model/adapter/lora_a", (8, 2), "adapter/lora_a .* matches no row"),
        ("language_model/norm/scale", (8, 8), "language_model/norm/scale has shape"),
        ("layers/mlp/fc1/kernel", (8, 8), "2 dimensions|3 dimensions"),
    ],
)
def test_a_parameter_without_its_row_is_refused_by_name(path, shape, message):
    with pytest.raises(ValueError, match=message):
        partition_spec(path, shape, SIZES)


def test_an_unknown_parameter_of_a_model_is_refused_by_name():
    strange = {"language_model": {"adapter": jax.ShapeDtypeStruct((2,), jnp.float32)}}
    with pytest.raises(ValueError, match="language_model/adapter"):
        parameter_shardings(strange, mesh_of(2, 2, 2))


def test_shardings_stand_where_the_parameters_stood():
    params, mesh = parameters(tied=True), mesh_of(2, 2, 2)
    shardings = parameter_shardings(params, mesh)
    assert paths(params).keys() == paths(shardings).keys()
    for path, sharding in paths(shardings).items():
        shape = paths(params)[path].shape
        assert sharding == NamedSharding(mesh, partition_spec(path, shape, SIZES))


def test_large_parameters_are_split():
    """On one axis or the other: what stays whole on each device is small."""
    params = paths(parameters(tied=True))
    for path, leaf in params.items():
        if leaf.size > 2048 and "position" not in path:
            assert any(partition_spec(path, leaf.shape, SIZES)), path


def test_activations_are_pinned_only_under_a_mesh():
    x, names = jnp.zeros((8, 5, 4)), ("batch", "sequence", "mlp")
    assert constrain(x, names) is x
    with jax.set_mesh(mesh_of(2, 2, 2)):
        pinned = jax.jit(lambda x: constrain(x, names))(x)
        odd = jax.jit(lambda x: constrain(x[:3], names))(x)
    assert pinned.sharding.spec == PartitionSpec(("data", "fsdp"), None, "tensor")
    assert odd.sharding.spec[0] is None
    assert odd.sharding.spec[2] == "tensor"


def batch_of(rows, clips_per_row=1):
    clips = rows * clips_per_row
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 9, (rows, 6)).astype(np.int32)
    return Batch(
        tokens=whole,
        positions=whole,
        segment_ids=whole,
        loss_mask=whole > 3,
        frames=rng.integers(0, 255, (clips, 2, 4, 4, 3), np.uint8),
        frame_mask=np.ones((clips, 2), bool),
        audio=rng.normal(size=(clips, 10)).astype(np.float32),
        audio_length=rng.integers(0, 10, clips).astype(np.int32),
        index=np.arange(clips, dtype=np.int32),
    )


@pytest.mark.parametrize("clips_per_row", [1, 3])
def test_a_placed_batch_is_the_batch_with_its_rows_split(clips_per_row):
    batch, mesh = batch_of(8, clips_per_row), mesh_of(2, 2, 2)
    placed = place(batch, mesh)
    for ours, theirs in zip(
        jax.tree.leaves(placed), jax.tree.leaves(batch), strict=True
    ):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
        part = (theirs.shape[0] // 4, *theirs.shape[1:])
        assert ours.addressable_shards[0].data.shape == part


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match=r"batch of 6 rows .* multiple of 4"):
        place(batch_of(6), mesh_of(2, 2, 2))
