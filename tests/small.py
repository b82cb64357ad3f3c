"""Models and corpora made as small as they go, for tests of what is around them."""

from collections.abc import Callable, Mapping
import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from deemo_jax.architecture import (
    ClipVisionConfig,
    DeemoLlamaConfig,
    HubertConfig,
    LlamaConfig,
    QFormerConfig,
    SiglipVisionConfig,
    WhisperEncoderConfig,
)
from deemo_jax.config import Config, from_config_dict
from deemo_jax.models.deemo_llama import DeemoLlama
from deemo_jax.train.prepare import prepare_data

Model = TypeVar("Model", bound=nnx.Module)

_VIDEO = QFormerConfig(
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=3,
    encoder_hidden_size=14,
    max_positions=5,
    num_query_tokens=3,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
)
# Sizes that no other equals: axes that are mistaken for one another do not fit.
ODD = DeemoLlamaConfig(
    vision_tower=ClipVisionConfig(
        hidden_size=14,
        intermediate_size=22,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=15,
        patch_size=5,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-3,
    ),
    audio_tower=WhisperEncoderConfig(
        d_model=18,
        encoder_layers=2,
        encoder_attention_heads=3,
        encoder_ffn_dim=26,
        num_mel_bins=11,
        max_source_positions=31,
        activation_function="gelu",
    ),
    video_connector=_VIDEO,
    audio_connector=dataclasses.replace(
        _VIDEO, encoder_hidden_size=18, num_query_tokens=2, max_positions=7
    ),
    language_model=LlamaConfig(
        vocab_size=41,
        hidden_size=24,
        intermediate_size=34,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=10,
        hidden_act="silu",
        max_position_embeddings=64,
        rms_norm_eps=1e-3,
        rope_theta=500.0,
        rope_scaling=None,
        attention_bias=False,
        mlp_bias=False,
        tie_word_embeddings=False,
    ),
    vision_feature_layer=-2,
    image_mean=(0.5, 0.4, 0.3),
    image_std=(0.25, 0.3, 0.2),
    audio_frames_per_position=5,
    video_token_id=3,
    audio_token_id=4,
)
# In place of CLIP: as wide as the vision tower of `ODD`.
SIGLIP = SiglipVisionConfig(
    hidden_size=14,
    intermediate_size=22,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=15,
    patch_size=5,
    hidden_act="gelu_pytorch_tanh",
    layer_norm_eps=1e-3,
    vision_use_head=True,
)
# HuBERT large in small; `dataclasses.replace` makes a base of it.
HUBERT = HubertConfig(
    hidden_size=12,
    num_hidden_layers=3,
    num_attention_heads=3,
    intermediate_size=20,
    hidden_act="gelu",
    layer_norm_eps=1e-3,
    feat_extract_norm="layer",
    feat_extract_activation="gelu",
    feat_proj_layer_norm=True,
    conv_dim=(5, 7),
    conv_stride=(5, 2),
    conv_kernel=(10, 3),
    conv_bias=True,
    num_conv_pos_embeddings=6,
    num_conv_pos_embedding_groups=4,
    do_stable_layer_norm=True,
    mask_time_prob=0.05,
    mask_feature_prob=0.0,
    do_normalize=True,
)


def drawn(make: Callable[[], Model], seed: int = 0) -> Model:
    """What `make` makes, every parameter far from zero; nothing is compiled."""
    graphdef, abstract = nnx.split(nnx.eval_shape(make))
    draw = np.random.default_rng(seed)

    def value(leaf: Any) -> jax.Array:
        return jax.device_put(draw.normal(0, 0.3, leaf.shape).astype(leaf.dtype))

    return nnx.merge(graphdef, jax.tree.map(value, abstract))


def marked(cases: Mapping[str, Any], *usual: str) -> list[Any]:
    """The cases as parameters of a test, all but the `usual` ones marked as slow."""
    assert set(usual) < set(cases)
    return [
        pytest.param(case, id=name, marks=[pytest.mark.slow] * (name not in usual))
        for name, case in cases.items()
    ]


def small_config(**changes: Any) -> Config:
    """Every part of the model is there; `train__steps=3` sets `train.steps`."""
    return from_config_dict(small_config_dict(**changes))


def small_config_dict(**changes: Any) -> Any:
    """The same, as a file under `configs/` gives it."""
    config: Any = tiny.get_config()
    config.data.synthetic.update(
        train_clips=12, test_clips=2, train_subjects=3, test_subjects=1
    )
    config.data.update(num_frames=2, image_size=32, audio_seconds=1.0)
    config.model.vision_tower.update(hidden_size=32, image_size=32, patch_size=16)
    config.model.audio_tower.update(d_model=32, max_source_positions=50)
    config.model.video_connector.update(encoder_hidden_size=32, num_query_tokens=4)
    config.model.audio_connector.update(encoder_hidden_size=32, num_query_tokens=2)
    config.model.language_model.update(num_hidden_layers=2)
    config.optimizer.warmup_steps = 5
    config.train.update(steps=20, batch_size=8, log_every=1, save_every=10, keep=3)
    for key, value in changes.items():
        *groups, name = key.split("__")
        group = config
        for part in groups:
            group = group[part]
        group[name] = value
    return config


def make_corpus(folder: Path) -> Path:
    """A packed folder that `small_config` can be trained on."""
    packed = prepare_data(small_config(), folder)
    assert isinstance(packed, Path)
    return packed


class Bigrams(DeemoLlama):
    """Each token foretells the next; a connector adds what the frames' mean says."""

    def __init__(self, config, *, rngs, dtype, remat, layout):
        del remat, layout
        size, width = config.language_model.vocab_size, 8
        embed = nnx.Embed(size, width, rngs=rngs, dtype=dtype)
        head = nnx.Linear(width, size, use_bias=False, rngs=rngs, dtype=dtype)
        projection = nnx.Linear(1, width, rngs=rngs, dtype=dtype)
        self.config = config
        self.language_model = nnx.Dict(embed_tokens=embed, lm_head=head)
        self.video_connector = nnx.Dict(projection=projection)

    def __call__(self, batch):
        rows = len(batch.tokens)
        frames = jnp.asarray(batch.frames).reshape(rows, -1)
        mean = frames.astype(jnp.float32).mean(axis=1, keepdims=True) / 255
        seen = self.video_connector["projection"](mean)
        x = self.language_model["embed_tokens"](jnp.asarray(batch.tokens))
        return self.language_model["lm_head"](x + seen[:, None])
