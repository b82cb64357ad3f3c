"""HuBERT (Hsu et al., 2021): an audio tower on the waveform, base to extra large."""

from collections.abc import Mapping
import dataclasses
import os
from pathlib import Path
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from deemo_jax.architecture import SAMPLE_RATE, HubertConfig
from deemo_jax.models.attention import Attention, dot_product_attention
from deemo_jax.models.hubert_features import (
    HubertFeatures,
    HubertPositions,
    HubertProjection,
    frames,
    normalise,
)
from deemo_jax.models.layers import layer_norm, scan, stack, within
from deemo_jax.models.loading import load, read_fields, save
from deemo_jax.models.names import attention_rows, linear_rows, norm_rows
from deemo_jax.models.self_attention import EncoderLayer
from deemo_jax.pretrained import (
    PretrainedError,
    Row,
    read_config,
)
from deemo_jax.sharding import constrain
from deemo_jax.weights import write_json

_LAYER = "encoder.layers.{layer}."
_POSITIONS = "encoder.pos_conv_embed.conv."
PREFIXES = ("hubert.", "")
FOREIGN = (  # the heads for speech recognition and for classification
    "lm_head.*",
    "projector.*",
    "classifier.*",
    "layer_weights",
)
PREPROCESSOR = "preprocessor_config.json"
# A file leaves out what is as in `transformers.HubertConfig()`, HuBERT base.
ABSENT = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "feat_proj_layer_norm": True,
    "conv_dim": (512,) * 7,
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "conv_bias": False,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "do_stable_layer_norm": False,
    "mask_time_prob": 0.05,
    "mask_feature_prob": 0.0,
}
# What a file may say only by leaving it out, or false.
UNSUPPORTED = ("conv_pos_batch_norm", "add_adapter", "adapter_attn_dim")


def table(config: HubertConfig) -> tuple[Row, ...]:
    """Hugging Face's names, as `HubertModel` has them, beside ours."""
    rows = []
    for number in range(len(config.conv_dim)):
        name = f"feature_extractor.conv_layers.{number}"
        path = name.replace(".", "/")
        rows += [
            Row(f"{name}.conv.weight", f"{path}/conv/kernel", "conv1d"),
            Row(f"{name}.conv.bias", f"{path}/conv/bias"),
            *norm_rows(f"{name}.layer_norm", f"{path}/layer_norm"),
        ]
    weight = f"{_POSITIONS}parametrizations.weight."
    return (
        *rows,
        *norm_rows("feature_projection.layer_norm", "feature_projection/layer_norm"),
        *linear_rows("feature_projection.projection", "feature_projection/projection"),
        Row("masked_spec_embed", "masked_spec_embed"),
        Row(
            f"{weight}original0",
            "pos_conv_embed/gain",
            "conv1d",
            older=f"{_POSITIONS}weight_g",
        ),
        Row(
            f"{weight}original1",
            "pos_conv_embed/kernel",
            "conv1d",
            older=f"{_POSITIONS}weight_v",
        ),
        Row(f"{_POSITIONS}bias", "pos_conv_embed/bias"),
        *norm_rows("encoder.layer_norm", "layer_norm"),
        *attention_rows(f"{_LAYER}attention", "layers/self_attn"),
        *norm_rows(f"{_LAYER}layer_norm", "layers/self_attn_layer_norm"),
        *linear_rows(f"{_LAYER}feed_forward.intermediate_dense", "layers/fc1"),
        *linear_rows(f"{_LAYER}feed_forward.output_dense", "layers/fc2"),
        *norm_rows(f"{_LAYER}final_layer_norm", "layers/final_layer_norm"),
    )


def config_from_dict(values: Mapping[str, Any]) -> HubertConfig:
    """Reads a Hugging Face `config.json` of HuBERT, `do_normalize` added to it.

    Where that is missing it is as the published models were trained, by fairseq: with
    "layer" as `feat_extract_norm` clips were normalised, with "group" they were not
    (that norm makes up for their loudness).

    Raises:
      PretrainedError: if it is of another model, or a value is not supported here.
    """
    if values.get("model_type") != "hubert":
        raise PretrainedError(
            f"model_type {values.get('model_type')!r} in config.json is not supported "
            f"as this audio tower; supported: hubert"
        )
    for key in UNSUPPORTED:
        if values.get(key):
            raise PretrainedError(
                f"{key} {values[key]!r} in config.json is not supported; take a "
                f"checkpoint without it"
            )
    normalised = values.get("feat_extract_norm") == "layer"
    return read_fields(HubertConfig, values, {**ABSENT, "do_normalize": normalised})


def config_to_dict(config: HubertConfig) -> dict[str, Any]:
    """The inverse of `config_from_dict`."""
    values = dataclasses.asdict(config)
    return {
        "model_type": "hubert",
        "architectures": ["HubertModel"],
        **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()},
        "dtype": "float32",
    }


def preprocessor_to_dict(config: HubertConfig) -> dict[str, Any]:
    """The `preprocessor_config.json` of `transformers.Wav2Vec2FeatureExtractor`."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "do_normalize": config.do_normalize,
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": config.feat_extract_norm == "layer",
        "sampling_rate": SAMPLE_RATE,
    }


class Hubert(nnx.Module):
    """HuBERT's encoder; called with defaults, its `last_hidden_state`.

    `masked_spec_embed` stands for masked frames in the training of HuBERT itself: it is
    read and written with the rest, and receives no gradient.
    """

    def __init__(
        self,
        config: HubertConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        remat: str = "none",
        attention: Attention = dot_product_attention,
    ):
        self.config = config
        self.remat = remat
        self.dtype = dtype
        width = config.hidden_size
        self.feature_extractor = HubertFeatures(config, rngs=rngs, dtype=dtype)
        self.feature_projection = HubertProjection(config, rngs=rngs, dtype=dtype)
        masked = None
        if config.mask_time_prob > 0 or config.mask_feature_prob > 0:
            masked = nnx.Param(jax.random.uniform(rngs.params(), (width,)))
        self.masked_spec_embed = masked
        self.pos_conv_embed = HubertPositions(config, rngs=rngs, dtype=dtype)
        self.layer_norm = layer_norm(
            width, config.layer_norm_eps, rngs=rngs, dtype=dtype
        )
        self.layers = stack(
            lambda rngs: EncoderLayer(
                width,
                config.num_attention_heads,
                config.intermediate_size,
                hidden_act=config.hidden_act,
                epsilon=config.layer_norm_eps,
                norm_first=config.do_stable_layer_norm,
                rngs=rngs,
                dtype=dtype,
                attention=attention,
            ),
            config.num_hidden_layers,
            rngs,
        )

    def __call__(
        self, waveform: Float[Array, "B N"], mask: Bool[Array, "B N"] | None = None
    ) -> Float[Array, "B F D"]:
        """Hidden states of the frames, 50 a second in the published models.

        `mask` is True for the samples of each row that are not padding; they come
        first. A frame that is not wholly within them is emptied before the Transformer,
        and no other frame attends to it. A row too short for one frame hears nothing
        (where `transformers` lets it hear all of its padding).

        Raises:
          ValueError: if the waveform is too short for one frame.
        """
        x = self.feature_projection(self.feature_extractor(waveform.astype(self.dtype)))
        places = None
        if mask is not None:
            heard = self._heard(mask, x.shape[1])
            x = jnp.where(heard[..., None], x, 0)
            places = jnp.broadcast_to(
                heard[:, None, None, :], (x.shape[0], 1, x.shape[1], x.shape[1])
            )
        x = x + self.pos_conv_embed(x)
        if not self.config.do_stable_layer_norm:
            x = self.layer_norm(x)
        x, _ = scan(
            self.layers,
            lambda layer, x, _: (layer(x, places), None),
            constrain(x, ("batch", "sequence", "embed")),
            remat=self.remat,
        )
        return self.layer_norm(x) if self.config.do_stable_layer_norm else x

    def hear(
        self, waveform: Float[Array, "B N"], length: Int[Array, " B"]
    ) -> tuple[Float[Array, "B F D"], Bool[Array, "B F"]]:
        """Features of the first `length` samples of each row, 16 kHz.

        What `transformers.Wav2Vec2FeatureExtractor` does to a padded batch when it is
        to return a mask, and then the tower under that mask. The second value says
        which features lie within the sound.

        Raises:
          ValueError: if `waveform` is too short for one frame.
        """
        mask = within(length, waveform.shape[1])
        if self.config.do_normalize:
            waveform = normalise(waveform.astype(jnp.float32), mask)
        else:
            waveform = jnp.where(mask, waveform, 0.0)
        features = self(waveform, mask)
        return features, self._heard(mask, features.shape[1])

    def _heard(self, mask: Bool[Array, "B N"], count: int) -> Bool[Array, "B F"]:
        return within(frames(self.config, mask.sum(axis=1)), count)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike,
        *,
        dtype: DTypeLike | None = None,
        mesh: Mesh | None = None,
    ) -> "Hubert":
        """Reads a Hugging Face folder; with a mesh, each tensor into its shards.

        Takes HuBERT alone, or with a head for speech recognition or classification,
        which it leaves. `do_normalize` is that of a `preprocessor_config.json`.

        Raises:
          PretrainedError: if the folder holds no such tower.
        """
        config = config_from_dict(read_config(folder) | _preprocessing(folder))
        return load(
            lambda: cls(config, rngs=nnx.Rngs(0), dtype=dtype or jnp.float32),
            folder,
            table(config),
            prefixes=PREFIXES,
            foreign=FOREIGN,
            mesh=mesh,
        )

    def save_pretrained(
        self, folder: str | os.PathLike, *, dtype: DTypeLike | None = None
    ) -> None:
        """Writes a folder for `transformers.HubertModel`, its weights in `dtype`.

        Beside it, for `Wav2Vec2FeatureExtractor`, a `preprocessor_config.json`.
        """
        config = self.config
        save(self, folder, table(config), config_to_dict(config), dtype=dtype)
        write_json(Path(folder) / PREPROCESSOR, preprocessor_to_dict(config))


def _preprocessing(folder: str | os.PathLike) -> dict[str, Any]:
    """`do_normalize` of the folder's feature extractor, if it has one."""
    if not (Path(folder) / PREPROCESSOR).exists():
        return {}
    values = read_config(folder, PREPROCESSOR)
    rate = values.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise PretrainedError(
            f"sampling_rate {rate!r} in {PREPROCESSOR} is not supported; audio is "
            f"{SAMPLE_RATE} Hz here, so take a tower trained on that"
        )
    return {"do_normalize": values.get("do_normalize", True)}  # as transformers does
