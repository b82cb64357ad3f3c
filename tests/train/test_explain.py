"""How a run lies on its devices, as it is told beforehand and as it then is."""

import jax
import numpy as np
import pytest

from deemo_jax.config import ConfigError, MeshConfig
from deemo_jax.sharding import make_mesh, path_of, place
from deemo_jax.train.explain import check_replication, device_bytes, explain
from deemo_jax.train.step import abstract_batch, abstract_state, init_state
from tests.small import small_config

MESH = MeshConfig(fsdp=2, sequence=2, tensor=2)


@pytest.fixture(scope="module")
def config():
    return small_config(layout__vision_tower="fsdp", layout__audio_tower="replicated")


@pytest.fixture(scope="module")
def placed(config):
    """The state, and the mesh that it is placed on."""
    mesh = make_mesh(MESH)
    with jax.set_mesh(mesh):
        return init_state(config, mesh), mesh


def test_bytes_and_copies_are_those_of_the_state_once_it_is_placed(config, placed):
    state, mesh = placed
    found = {x.name: x for x in explain(config, mesh).parameters}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        lying = found.pop(path_of(keys))
        pieces = {str(shard.index) for shard in leaf.addressable_shards}
        assert lying.device_bytes == leaf.addressable_shards[0].data.nbytes
        assert lying.copies == 8 // len(pieces)
        assert (lying.shape, lying.dtype) == (leaf.shape, str(leaf.dtype))
    assert not found


def test_what_a_device_holds_is_counted_to_the_byte(config, placed):
    state, mesh = placed
    shapes = abstract_batch(config, mesh)
    batch = place(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes), mesh)
    first = jax.devices()[0]

    def held(tree):
        shards = [s for leaf in jax.tree.leaves(tree) for s in leaf.addressable_shards]
        return sum(shard.data.nbytes for shard in shards if shard.device == first)

    told = explain(config, mesh)
    assert sum(x.device_bytes for x in told.parameters) == held(state.params)
    assert told.optimizer_bytes == held(state.opt_state)
    assert told.batch_bytes == held(batch)
    assert device_bytes(abstract_state(config, mesh)) == held(state)


def test_activations_of_every_part_are_told(config):
    told = explain(config, make_mesh(MESH)).activations
    parts = {x.name.split(":")[0] for x in told}
    assert parts == {
        "vision_tower", "audio_tower", "video_connector", "audio_connector",
        "language_model",
    }  # fmt: skip
    heads = next(
        x for x in told if x.name.startswith("language_model: batch, sequence, heads")
    )
    assert tuple(heads.spec) == ("fsdp", "sequence", "tensor", None)
    assert heads.copies == 1
    vision = next(x for x in told if x.name.startswith("vision_tower: batch, seq"))
    assert vision.spec[0] == ("fsdp", "sequence", "tensor")


def test_a_table_of_it(config):
    text = explain(config, make_mesh(MESH)).describe()
    lines = text.splitlines()
    assert lines[0] == "mesh: 8 devices, fsdp=2, sequence=2, tensor=2"
    row = next(x for x in lines if x.startswith("language_model/layers/mlp/up_proj"))
    assert row.split() == [
        "language_model/layers/mlp/up_proj/kernel", "2x96x192", "float32",
        ".,", "fsdp,", "tensor", "36.9", "kB", "2",
    ]  # fmt: skip
    assert "config.layout.tolerance is 50.00%" in lines[-1]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict(model__language_model__vocab_size=513), "embed_tokens/embedding"),
        (dict(model__language_model__intermediate_size=255), "mlp"),
    ],
)
def test_too_many_copies_are_refused_by_name(changes, named):
    mesh = make_mesh(MeshConfig(tensor=8))
    check_replication(small_config(layout__tolerance=1.0, **changes), mesh)
    with pytest.raises(ConfigError, match=rf"do not divide \S*{named}.*tolerance"):
        check_replication(small_config(layout__tolerance=0.1, **changes), mesh)


def test_what_the_layout_says_is_no_copy_too_many():
    """Of eight times as many bytes as need be, none is too many where that is asked."""
    layouts = ("vision_tower", "audio_tower", "connectors", "language_model")
    asked = {f"layout__{part}": "replicated" for part in layouts}
    config = small_config(layout__tolerance=0.0, **asked)
    check_replication(config, make_mesh(MeshConfig(fsdp=8)))
