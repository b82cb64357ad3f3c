"""The presets' sizes against `transformers`, on the meta device."""

import importlib

from flax import nnx
import numpy as np
import pytest
import torch
import transformers
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from deemo_jax.config import from_config_dict
from deemo_jax.models import hubert
from deemo_jax.models.deemo_llama import PARTS, DeemoLlama

# What the hub's model pages and papers state, without the media's tokens.
PUBLISHED = {
    ("deemo_llama_7b", "language_model"): 6_738_415_616,
    ("deemo_llama_7b", "vision_tower"): 303_179_776,
    ("deemo_llama_7b", "audio_tower"): 315_438_720,
    ("deemo_llama_8b", "language_model"): 8_030_261_248,
    ("deemo_llama_8b", "vision_tower"): 428_225_600,
    ("deemo_llama_8b", "audio_tower"): 636_968_960,  # of 1,543,490,560, see below
    ("smollm2", "language_model"): 134_515_008,
}
# The hub's model of a part, by the `model_type` that its config.json states.
TWINS = {
    "clip_vision_model": transformers.CLIPVisionModel,
    "siglip_vision_model": transformers.SiglipVisionModel,
    "hubert": transformers.HubertModel,
    "whisper": WhisperEncoder,
    "llama": transformers.LlamaForCausalLM,
}


def preset_of(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    return from_config_dict(config).model


def described(preset, part):
    """The part of a preset, and the module that knows its names."""
    found = getattr(preset_of(preset), part)
    return found, PARTS[part][1][type(found)]


def ours(preset, part):
    """Name -> shape of every tensor that we read or write."""
    model = preset_of(preset)
    whole = nnx.eval_shape(lambda: DeemoLlama(model, rngs=nnx.Rngs(0)))
    found, module = described(preset, part)
    table = module.table(found) if module is hubert else module.TABLE
    rows = {row.path: row for row in table}
    shapes = {}
    for path, leaf in nnx.to_flat_state(nnx.state(getattr(whole, part))):
        row = rows["/".join(map(str, path))]
        shapes |= dict.fromkeys(row.names(leaf.shape), row.tensor_shape(leaf.shape))
    return shapes


def theirs(preset, part):
    found, module = described(preset, part)
    values = module.config_to_dict(found)
    config = transformers.AutoConfig.for_model(**values)
    with torch.device("meta"):
        twin = TWINS[values["model_type"]](config)
    shapes = {name: tuple(p.shape) for name, p in twin.named_parameters()}
    return {name.removeprefix("vision_model."): s for name, s in shapes.items()}


@pytest.mark.parametrize(("preset", "part"), PUBLISHED)
def test_names_and_shapes_are_those_of_transformers(preset, part):
    assert ours(preset, part) == theirs(preset, part)


@pytest.mark.parametrize(("preset", "part"), PUBLISHED)
def test_there_are_as_many_parameters_as_published(preset, part):
    count = sum(int(np.prod(shape)) for shape in ours(preset, part).values())
    added = 0
    if part == "language_model":
        config, _ = described(preset, part)
        tables = 1 if config.tie_word_embeddings else 2
        first = preset_of(preset).video_token_id  # behind the checkpoint's own
        added = (config.vocab_size - first) * config.hidden_size * tables
    assert count - added == PUBLISHED[preset, part]


def test_whispers_encoder_and_its_decoder_are_as_large_as_whisper():
    found, module = described("deemo_llama_8b", "audio_tower")
    values = module.config_to_dict(found) | {
        "decoder_layers": 32,
        "decoder_attention_heads": 20,
        "decoder_ffn_dim": 5120,
        "vocab_size": 51866,
    }
    with torch.device("meta"):
        whole = transformers.WhisperModel(transformers.WhisperConfig(**values))
    assert sum(p.numel() for p in whole.parameters()) == 1_543_490_560
    encoder = sum(p.numel() for p in whole.encoder.parameters())
    assert encoder == PUBLISHED["deemo_llama_8b", "audio_tower"]
