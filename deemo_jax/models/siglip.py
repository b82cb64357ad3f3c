"""SigLIP's vision tower (Zhai et al., 2023), frame by frame."""

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

from flax import nnx
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from deemo_jax.architecture import SiglipVisionConfig
from deemo_jax.models.attention import Attention, dot_product_attention
from deemo_jax.models.clip import ClipLayer, ClipMlp, hidden_state
from deemo_jax.models.layers import PLACES, layer_norm, stack
from deemo_jax.models.loading import load, read_fields, save
from deemo_jax.models.names import attention_rows, linear_rows, norm_rows
from deemo_jax.models.positions import check_image, resample
from deemo_jax.pretrained import PretrainedError, Row, prefixed, read_config

_LAYER = "encoder.layers.{layer}."
# Hugging Face's names, as `SiglipVisionModel` has them, beside ours.
TABLE = (
    Row(
        "embeddings.patch_embedding.weight",
        "embeddings/patch_embedding/kernel",
        "conv2d",
    ),
    Row("embeddings.patch_embedding.bias", "embeddings/patch_embedding/bias"),
    Row(
        "embeddings.position_embedding.weight",
        "embeddings/position_embedding/embedding",
    ),
    *norm_rows(f"{_LAYER}layer_norm1", "layers/layer_norm1"),
    *attention_rows(f"{_LAYER}self_attn", "layers/self_attn"),
    *norm_rows(f"{_LAYER}layer_norm2", "layers/layer_norm2"),
    *linear_rows(f"{_LAYER}mlp.fc1", "layers/mlp/fc1"),
    *linear_rows(f"{_LAYER}mlp.fc2", "layers/mlp/fc2"),
    *norm_rows("post_layernorm", "post_layernorm"),
    Row("head.probe", "head/probe"),
    Row("head.attention.in_proj_weight", "head/in_proj/kernel", "linear"),
    Row("head.attention.in_proj_bias", "head/in_proj/bias"),
    *linear_rows("head.attention.out_proj", "head/out_proj"),
    *norm_rows("head.layernorm", "head/layernorm"),
    *linear_rows("head.mlp.fc1", "head/mlp/fc1"),
    *linear_rows("head.mlp.fc2", "head/mlp/fc2"),
)
PREFIXES = ("vision_model.", "")
FOREIGN = (
    "text_model.*", "logit_scale", "logit_bias", "classifier.*", "*.position_ids",
)  # fmt: skip
# A file leaves out what is as in `transformers.SiglipVisionConfig()`, SigLIP base.
ABSENT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}


def config_from_dict(values: Mapping[str, Any]) -> SiglipVisionConfig:
    """Reads a Hugging Face `config.json` of a vision tower or of a whole SigLIP.

    Raises:
      PretrainedError: if it is of another model, or a value is not supported here.
    """
    values = values.get("vision_config", values)
    if values.get("model_type") not in ("siglip_vision_model", "siglip"):
        raise PretrainedError(
            f"model_type {values.get('model_type')!r} in config.json is not supported "
            f"as this vision tower; supported: siglip, siglip_vision_model"
        )
    if values.get("num_channels", 3) != 3:
        raise PretrainedError(
            f"num_channels {values['num_channels']} in config.json is not supported; "
            f"frames are RGB, so take a tower of 3 channels"
        )
    return read_fields(SiglipVisionConfig, values, ABSENT)


def config_to_dict(config: SiglipVisionConfig) -> dict[str, Any]:
    """The inverse of `config_from_dict`."""
    return {
        "architectures": ["SiglipVisionModel"],
        **dataclasses.asdict(config),
        "num_channels": 3,
        "dtype": "float32",
    }


class SiglipEmbeddings(nnx.Module):
    """The patches of an image, each with its learned position; no class token."""

    def __init__(self, config: SiglipVisionConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        width, patch = config.hidden_size, config.patch_size
        self.patch_embedding = nnx.Conv(
            3,
            width,
            (patch, patch),
            strides=patch,
            padding="VALID",
            dtype=dtype,
            rngs=rngs,
        )
        self.position_embedding = nnx.Embed(
            (config.image_size // patch) ** 2,
            width,
            embedding_init=PLACES,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B P D"]:
        """The patches row by row."""
        patches = self.patch_embedding(pixels)
        x = patches.reshape(patches.shape[0], -1, patches.shape[-1])
        places = resample(self.position_embedding.embedding[...], *patches.shape[1:3])
        return x + places.astype(x.dtype)[None]


class SiglipHead(nnx.Module):
    """The pooling that belongs to SigLIP's image embedding.

    It is not used here: it is read and written with the rest, and receives no gradient.
    """

    def __init__(self, config: SiglipVisionConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        width = config.hidden_size
        self.probe = nnx.Param(PLACES(rngs.params(), (1, 1, width), jnp.float32))
        self.in_proj = nnx.Linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.out_proj = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.layernorm = layer_norm(
            width, config.layer_norm_eps, rngs=rngs, dtype=dtype
        )
        self.mlp = ClipMlp(config, rngs=rngs, dtype=dtype)


class SiglipVision(nnx.Module):
    """The vision half of SigLIP; called with defaults, its `last_hidden_state`."""

    def __init__(
        self,
        config: SiglipVisionConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        remat: str = "none",
        attention: Attention = dot_product_attention,
    ):
        self.config = config
        self.remat = remat
        self.dtype = dtype
        self.embeddings = SiglipEmbeddings(config, rngs=rngs, dtype=dtype)
        self.layers = stack(
            lambda rngs: ClipLayer(config, rngs=rngs, dtype=dtype, attention=attention),
            config.num_hidden_layers,
            rngs,
        )
        self.post_layernorm = layer_norm(
            config.hidden_size, config.layer_norm_eps, rngs=rngs, dtype=dtype
        )
        if config.vision_use_head:
            self.head = SiglipHead(config, rngs=rngs, dtype=dtype)

    def __call__(
        self,
        pixels: Float[Array, "B H W 3"],
        layer: int | None = None,
        *,
        interpolate: bool = False,
    ) -> Float[Array, "B P D"]:
        """A hidden state for each patch of normalised `pixels`.

        `layer` counts as Hugging Face's `hidden_states` do: 0 is what enters the first
        layer, -1 what leaves the last; None is that after the last norm. Later layers
        are not run.

        With `interpolate`, images may have any size and shape: the learned positions
        are resampled for it, see `positions.resample`, and what does not fill a patch
        at the right or the bottom is left out.

        Raises:
          ValueError: if the image has another size than the tower (with `interpolate`,
            no room for a patch), or the tower no such layer.
        """
        config = self.config
        check_image(
            pixels, config.image_size, config.patch_size, interpolate=interpolate
        )
        x = self.embeddings(pixels.astype(self.dtype))
        x = hidden_state(self.layers, x, -1 if layer is None else layer, self.remat)
        return self.post_layernorm(x) if layer is None else x

    def patches(
        self,
        pixels: Float[Array, "B H W 3"],
        layer: int | None = None,
        *,
        interpolate: bool = False,
    ) -> Float[Array, "B P D"]:
        """The hidden state of the patches alone, which here is all of it."""
        return self(pixels, layer, interpolate=interpolate)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike,
        *,
        dtype: DTypeLike | None = None,
        mesh: Mesh | None = None,
    ) -> "SiglipVision":
        """Reads a Hugging Face folder; with a mesh, each tensor into its shards.

        Takes a vision tower alone or a whole SigLIP, whose text half it leaves.

        Raises:
          PretrainedError: if the folder holds no such tower.
        """
        config = config_from_dict(read_config(folder))
        return load(
            lambda: cls(config, rngs=nnx.Rngs(0), dtype=dtype or jnp.float32),
            folder,
            TABLE,
            prefixes=PREFIXES,
            foreign=FOREIGN,
            mesh=mesh,
        )

    def save_pretrained(
        self, folder: str | os.PathLike, *, dtype: DTypeLike | None = None
    ) -> None:
        """Writes a folder for `transformers.SiglipVisionModel`, weights in `dtype`."""
        table = prefixed(TABLE, "vision_model.", "")
        save(self, folder, table, config_to_dict(self.config), dtype=dtype)
