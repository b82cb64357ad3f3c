"""The configuration refuses what cannot stand, by name, value and remedy."""

import dataclasses
import json
from typing import Any

import pytest

from configs import tiny
from deemo_jax import config as configs

FLOATS = ("audio_seconds", "clip_norm", "eps")


def changed(key: str, value):
    config: Any = tiny.get_config()
    with config.unlocked(), config.ignore_type():
        group, _, name = key.rpartition(".")
        target = config
        for part in group.split(".") if group else []:
            target = target[part]
        target[name] = value
    return config


def test_to_dict_and_back_through_json():
    config = configs.from_config_dict(tiny.get_config())
    back = configs.from_dict(json.loads(json.dumps(configs.to_dict(config))))
    assert back == config


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.stpes", 3, r"config.train.stpes does not exist; .* config.train.steps"),
        ("sead", 3, r"config.sead does not exist; did you mean config.seed\?"),
        ("train.steps", 0, r"config.train.steps is 0; it must be more than 0"),
        ("train.steps", "a", r"config.train.steps is 'a', a str; .* type int"),
        ("train.dtype", "fp8", r"config.train.dtype is 'fp8'; .* float32 or bfloat16"),
        ("train.stage", "nap", r"config.train.stage is 'nap'; .* align, tune, full"),
        ("train.remat", "some", r"config.train.remat is 'some'; .* none, dots, full"),
        ("data.modality_dropout", 1.0, r"modality_dropout is 1.0; .* below 1"),
        ("data.tasks", ("singing",), r"config.data.tasks is 'singing'"),
        ("data.image_size", 32, r"config.data.image_size is 32; it must be .*48"),
        ("mesh.fsdp", -1, r"config.mesh is 'data=-1, fsdp=-1, .* at most once"),
        ("mesh.fsdp", 0, r"config.mesh is 'data=-1, fsdp=0, "),
        ("mesh.dcn_data", -2, r"config.mesh is 'dcn_data=-2, dcn_fsdp=1'"),
        ("layout.connectors", "all", r"config.layout.connectors is 'all'; .* fsdp_t"),
        ("layout.tolerance", 2.0, r"config.layout.tolerance is 2.0; .* from 0 to 1"),
        ("model.audio_tower.model_type", "hum", r"model_type is 'hum'; .* whisper"),
        ("model.audio_connector", 3, r"config.model.audio_connector is 3; .* group"),
        ("data.num_frames", 9, r"data.num_frames is 9; .*max_positions, 8"),
        ("data.audio_seconds", 3.1, r"data.audio_seconds is 3.1; it must be at most 3"),
        ("lora.rank", -1, r"config.lora.rank is -1; it must be 0 \(none\) or more"),
        (
            "lora.rank",
            4,
            r"lora.rank is 4; it must be 0 in stage full: .*config.init_from",
        ),
        ("lora.alpha", 0.0, r"config.lora.alpha is 0.0; it must be above 0"),
        ("lora.dropout", 1.0, r"config.lora.dropout is 1.0; .* below 1"),
        ("lora.targets", ("(q",), r"lora.targets is '\(q'; .* a regular expression"),
        ("train.stage", "tune", r"config.lora.rank is 0; .* 1 or more in stage tune"),
        ("model.image_mean", (0.5,), r"config.model.image_mean .* 3 values"),
        ("model.audio_connector.encoder_hidden_size", 8, r"encoder_hidden_size is 8"),
    ],
)
def test_refusals(key, value, message):
    with pytest.raises(configs.ConfigError, match=message):
        configs.from_config_dict(changed(key, value))


def test_lora_needs_targets_and_is_of_its_stage():
    config: Any = tiny.get_config("tune")
    assert configs.from_config_dict(config).lora.rank > 0
    config.lora.targets = ()
    with pytest.raises(configs.ConfigError, match=r"lora.targets is \(\); .* one"):
        configs.from_config_dict(config)
    config = tiny.get_config("align")
    config.lora.rank = 4
    with pytest.raises(configs.ConfigError, match=r"rank is 4; .* 0 in stage align"):
        configs.from_config_dict(config)


@pytest.mark.parametrize("key", [*configs.POSITIVE, *configs.NOT_NEGATIVE])
def test_numbers_that_cannot_be_negative(key):
    value: Any = tiny.get_config()
    for part in key.split("."):
        value = value[part]
    with pytest.raises(configs.ConfigError, match=rf"config.{key} is -1"):
        configs.from_config_dict(changed(key, type(value)(-1)))


@pytest.mark.parametrize("key", configs.POSITIVE)
def test_numbers_that_cannot_be_zero(key):
    zero = 0.0 if key.rpartition(".")[2] in FLOATS else 0
    with pytest.raises(configs.ConfigError, match=rf"config.{key} is 0"):
        configs.from_config_dict(changed(key, zero))


def test_a_missing_key_is_named():
    config: Any = tiny.get_config()
    with config.unlocked():
        del config.train.steps
    with pytest.raises(configs.ConfigError, match=r"config.train.steps is missing"):
        configs.from_config_dict(config)


def test_integers_are_read_as_floats_where_floats_are_meant():
    config = configs.from_config_dict(changed("data.audio_seconds", 3))
    assert type(config.data.audio_seconds) is float


def test_a_group_may_be_none_or_whole():
    key, stated = "model.language_model.rope_scaling", {"rope_type": "linear"}
    plain = configs.from_config_dict(tiny.get_config())
    assert plain.model.language_model.rope_scaling is None
    keys = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    stated = stated | dict.fromkeys(keys) | {"factor": 2}
    config = configs.from_config_dict(changed(key, stated))
    scaling = config.model.language_model.rope_scaling
    assert scaling is not None
    assert scaling.factor == 2.0
    assert configs.from_dict(configs.to_dict(config)) == config
    with pytest.raises(configs.ConfigError, match="rope's factor is 0.5; it must be 1"):
        configs.from_config_dict(changed(key, stated | {"factor": 0.5}))


def test_every_dataclass_is_frozen():
    config = configs.from_config_dict(tiny.get_config())
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train.steps = 3  # pyright: ignore[reportAttributeAccessIssue]
