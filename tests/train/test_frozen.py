"""Frozen towers: told apart by their bits, and records refused that others made."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deemo_jax.config import ConfigError, MeshConfig
from deemo_jax.data.encoded import Encoding, write_encoding
from deemo_jax.sharding import make_mesh
from deemo_jax.train.frozen import (
    check_encoding,
    check_frozen,
    check_towers,
    digest,
    recognised,
    settings,
)
from tests.small import small_config

KEPT = {"train__stage": "align", "data__augment": False, "data__path": "there"}


def frozen(**changes):
    return small_config(**KEPT | {"data__features": "float32"} | changes)


def encoding(config, **changes):
    fields = {
        "dtype": "float32",
        "patches": (4, 32),
        "sounds": (50, 32),
        "computed_in": "float32",
        "settings": settings(config),
        "digests": {"vision_tower": "a", "audio_tower": "b"},
    }
    return Encoding(**fields | changes)


@pytest.fixture(scope="module")
def params():
    draw = np.random.default_rng(0)
    shapes = {"kernel": (8, 6), "bias": (16,), "layers": (2, 4, 8)}
    return {n: draw.normal(size=s).astype(np.float32) for n, s in shapes.items()}


def state(values):
    return nnx.State({n: nnx.Param(jnp.asarray(v)) for n, v in values.items()})


def test_a_digest_is_the_same_on_any_mesh(params):
    here = digest(state(params))
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    spec = jax.sharding.PartitionSpec("tensor")
    placed = {
        name: jax.device_put(value, jax.sharding.NamedSharding(mesh, spec))
        for name, value in params.items()
    }
    with jax.set_mesh(mesh):
        assert digest(state(placed)) == here
    assert len(here) == 32


@pytest.mark.parametrize("name", ["kernel", "bias", "layers"])
def test_a_digest_tells_bits_places_and_names(params, name):
    here = digest(state(params))
    flipped = params[name].copy()
    flipped.view(np.uint32).flat[-1] ^= 1
    swapped = params[name].copy()
    swapped.flat[:2] = swapped.flat[1::-1]
    for values in (flipped, swapped, params[name][None]):
        assert digest(state(params | {name: values})) != here
    renamed = {("other" if n == name else n): v for n, v in params.items()}
    assert digest(state(renamed)) != here


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__num_frames": 3}, "data.num_frames was 2 and is 3"),
        ({"data__audio_seconds": 0.5}, "data.audio_seconds was 1.0 and is 0.5"),
        ({"model__vision_feature_layer": -2}, "vision_feature_layer was -1 and is -2"),
        ({"model__image_std": (0.1, 0.2, 0.2)}, r"image_std was \[0.2.* and is \[0.1"),
        ({"model__vision_tower__num_hidden_layers": 1}, "num_hidden_layers was 2"),
        ({"model__audio_tower__num_mel_bins": 20}, "num_mel_bins was 40 and is 20"),
        (
            {"data__image_size": 16, "model__vision_tower__image_size": 16},
            "data.image_size was 32 and is 16; .*image_size was 32",
        ),
    ],
)  # fmt: skip
def test_features_that_were_made_otherwise_are_refused(changes, message):
    there = encoding(frozen())
    check_encoding(frozen(), there)
    with pytest.raises(ConfigError, match=rf"there holds .*{message}.*pack the feat"):
        check_encoding(frozen(**changes), there)


@pytest.mark.parametrize(
    ("features", "kept", "message"),
    [
        ("", "float32", "features is '', .* there hold features in float32; set it"),
        ("bfloat16", "float32", "is 'bfloat16', .* hold features in float32"),
        ("float32", None, "is 'float32', .* of there hold media; set it to ''"),
    ],
)
def test_media_are_not_taken_for_features(features, kept, message):
    config = frozen(data__features=features)
    there = encoding(config, dtype=kept) if kept else None
    with pytest.raises(ConfigError, match=message):
        check_encoding(config, there)


def test_towers_that_learn_make_no_features():
    with pytest.raises(ConfigError, match=r"trains audio_tower/.*align or tune"):
        check_frozen(small_config())
    in_towers = {"lora__rank": 2, "lora__targets": (".*/self_attn/q_proj",)}
    tuned = {"train__stage": "tune", "data__features": "float32", **in_towers}
    config = frozen(**tuned)
    with pytest.raises(ConfigError, match=r"trains audio_tower/.*lora_a; .*targets"):
        check_encoding(config, encoding(config))
    check_frozen(frozen(**tuned | {"lora__targets": (r"language_model/.*/q_proj",)}))


def test_a_run_that_cannot_be_one_on_features_is_refused():
    for change, words in (
        ({"train__stage": "full"}, "trains audio_tower"),
        ({"data__features": "int8"}, "features is 'int8'; it must be empty, or among"),
    ):
        with pytest.raises(ConfigError, match=words):
            recognised(frozen(**change))


def test_a_folder_of_features_is_recognised(tmp_path):
    config = frozen(data__path=str(tmp_path), data__features="")
    assert recognised(config) == config  # nothing is there
    write_encoding(tmp_path, encoding(config, dtype="float16"))
    assert recognised(config).data.features == "float16"
    (tmp_path / "dataset_info.json").touch()
    (tmp_path / "towers.json").unlink()
    found = recognised(dataclasses.replace(config, data=frozen().data))
    assert found.data.features == "float32"  # of another path
    assert recognised(frozen(data__path=str(tmp_path))).data.features == ""
    (tmp_path / "towers.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"towers.json is damaged"):
        recognised(config)


def test_other_towers_are_refused_by_name(params):
    towers = nnx.State({n: state(params) for n in ("vision_tower", "audio_tower")})
    same = {name: digest(towers[name]) for name in ("vision_tower", "audio_tower")}
    there = encoding(frozen(), digests=same)
    check_towers(there, towers, "there")
    check_towers(None, towers, "there")
    towers["audio_tower"] = state(params | {"bias": params["bias"] + 1})
    with pytest.raises(ConfigError, match=r"there holds .* another audio_tower than"):
        check_towers(there, towers, "there")
