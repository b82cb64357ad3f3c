"""CLIP's vision tower (Radford et al., 2021), frame by frame."""

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from deemo_jax.architecture import ClipVisionConfig, SiglipVisionConfig
from deemo_jax.models.attention import Attention, dot_product_attention
from deemo_jax.models.layers import PLACES, activation, layer_norm, scan, stack
from deemo_jax.models.loading import load, read_fields, save
from deemo_jax.models.names import attention_rows, linear_rows, norm_rows
from deemo_jax.models.positions import check_image, resample
from deemo_jax.models.self_attention import SelfAttention
from deemo_jax.pretrained import PretrainedError, Row, prefixed, read_config
from deemo_jax.sharding import constrain

VisionConfig = ClipVisionConfig | SiglipVisionConfig  # their layers are alike

_LAYER = "encoder.layers.{layer}."
# Hugging Face's names, as `CLIPVisionModel` has them, beside ours.
TABLE = (
    Row("embeddings.class_embedding", "embeddings/class_embedding"),
    Row(
        "embeddings.patch_embedding.weight",
        "embeddings/patch_embedding/kernel",
        "conv2d",
    ),
    Row(
        "embeddings.position_embedding.weight",
        "embeddings/position_embedding/embedding",
    ),
    *norm_rows("pre_layrnorm", "pre_layrnorm"),
    *norm_rows(f"{_LAYER}layer_norm1", "layers/layer_norm1"),
    *attention_rows(f"{_LAYER}self_attn", "layers/self_attn"),
    *norm_rows(f"{_LAYER}layer_norm2", "layers/layer_norm2"),
    *linear_rows(f"{_LAYER}mlp.fc1", "layers/mlp/fc1"),
    *linear_rows(f"{_LAYER}mlp.fc2", "layers/mlp/fc2"),
    *norm_rows("post_layernorm", "post_layernorm"),
)
PREFIXES = ("vision_model.", "")
FOREIGN = (  # the text half of a whole CLIP, heads, and a constant in older files
    "text_model.*",
    "text_projection.*",
    "visual_projection.*",
    "logit_scale",
    "classifier.*",
    "*.position_ids",
)
# A file leaves out what is as in `transformers.CLIPVisionConfig()`, CLIP ViT-B/32.
ABSENT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


def config_from_dict(values: Mapping[str, Any]) -> ClipVisionConfig:
    """Reads a Hugging Face `config.json` of a vision tower or of a whole CLIP.

    Raises:
      PretrainedError: if it is of another model, or a value is not supported here.
    """
    values = values.get("vision_config", values)
    if values.get("model_type") not in ("clip_vision_model", "clip"):
        raise PretrainedError(
            f"model_type {values.get('model_type')!r} in config.json is not supported "
            f"as a vision tower; supported: clip, clip_vision_model"
        )
    if values.get("num_channels", 3) != 3:
        raise PretrainedError(
            f"num_channels {values['num_channels']} in config.json is not supported; "
            f"frames are RGB, so take a tower of 3 channels"
        )
    return read_fields(ClipVisionConfig, values, ABSENT)


def config_to_dict(config: ClipVisionConfig) -> dict[str, Any]:
    """The inverse of `config_from_dict`."""
    return {
        "model_type": "clip_vision_model",
        "architectures": ["CLIPVisionModel"],
        **dataclasses.asdict(config),
        "num_channels": 3,
        "dtype": "float32",
    }


class ClipEmbeddings(nnx.Module):
    """A class token and the patches of an image, each with its learned position."""

    def __init__(self, config: ClipVisionConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        if config.image_size % config.patch_size:
            raise ValueError(
                f"image_size {config.image_size} is no multiple of patch_size "
                f"{config.patch_size}; CLIP would leave out the rest of the image"
            )
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = nnx.Param(
            nnx.initializers.normal(width**-0.5)(rngs.params(), (width,), jnp.float32)
        )
        self.patch_embedding = nnx.Conv(
            3,
            width,
            (patch, patch),
            strides=patch,
            padding="VALID",
            use_bias=False,
            dtype=dtype,
            rngs=rngs,
        )
        self.position_embedding = nnx.Embed(
            (config.image_size // patch) ** 2 + 1,
            width,
            embedding_init=PLACES,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B P D"]:
        """The class token first, then the patches row by row."""
        patches = self.patch_embedding(pixels)
        batch, width = patches.shape[0], patches.shape[-1]
        first = jnp.broadcast_to(
            self.class_embedding.astype(patches.dtype)[None, None], (batch, 1, width)
        )
        x = jnp.concatenate([first, patches.reshape(batch, -1, width)], axis=1)
        places = resample(
            self.position_embedding.embedding[...], *patches.shape[1:3], before=1
        )
        return x + places.astype(x.dtype)[None]


class ClipMlp(nnx.Module):
    """Two linear maps with an activation between."""

    def __init__(
        self,
        config: VisionConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
    ):
        width, inner = config.hidden_size, config.intermediate_size
        self.activation = activation(config.hidden_act)
        self.fc1 = nnx.Linear(width, inner, dtype=dtype, rngs=rngs)
        self.fc2 = nnx.Linear(inner, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B P D"]) -> Float[Array, "B P D"]:
        """Each place on its own."""
        inner = self.activation(self.fc1(x))
        return self.fc2(constrain(inner, ("batch", "sequence", "mlp")))


class ClipLayer(nnx.Module):
    """Self-attention, then the MLP, each after its norm and added back."""

    def __init__(
        self,
        config: VisionConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        attention: Attention,
    ):
        self.layer_norm1 = layer_norm(
            config.hidden_size, config.layer_norm_eps, rngs=rngs, dtype=dtype
        )
        self.self_attn = SelfAttention(
            config.hidden_size,
            config.num_attention_heads,
            rngs=rngs,
            dtype=dtype,
            attention=attention,
        )
        self.layer_norm2 = layer_norm(
            config.hidden_size, config.layer_norm_eps, rngs=rngs, dtype=dtype
        )
        self.mlp = ClipMlp(config, rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "B P D"]) -> Float[Array, "B P D"]:
        """One layer."""
        x = x + self.self_attn(self.layer_norm1(x))
        x = x + self.mlp(self.layer_norm2(x))
        return constrain(x, ("batch", "sequence", "embed"))


class ClipVision(nnx.Module):
    """The vision half of CLIP; called with defaults, its `last_hidden_state`.

    `post_layernorm` belongs to CLIP's pooled output, which is not used here: it is
    read and written with the rest, and receives no gradient.
    """

    def __init__(
        self,
        config: ClipVisionConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        remat: str = "none",
        attention: Attention = dot_product_attention,
    ):
        self.config = config
        self.remat = remat
        self.dtype = dtype
        self.embeddings = ClipEmbeddings(config, rngs=rngs, dtype=dtype)
        self.pre_layrnorm = layer_norm(
            config.hidden_size, config.layer_norm_eps, rngs=rngs, dtype=dtype
        )  # spelt so in every checkpoint
        self.layers = stack(
            lambda rngs: ClipLayer(config, rngs=rngs, dtype=dtype, attention=attention),
            config.num_hidden_layers,
            rngs,
        )
        self.post_layernorm = layer_norm(
            config.hidden_size, config.layer_norm_eps, rngs=rngs, dtype=dtype
        )

    def __call__(
        self,
        pixels: Float[Array, "B H W 3"],
        layer: int | None = None,
        *,
        interpolate: bool = False,
    ) -> Float[Array, "B P D"]:
        """A hidden state for the class token and each patch of normalised `pixels`.

        `layer` counts as Hugging Face's `hidden_states` do: 0 is what enters the first
        layer, 1 what leaves it, -1 (or None) what leaves the last. Later layers are not
        run.

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
        x = self.pre_layrnorm(self.embeddings(pixels.astype(self.dtype)))
        return hidden_state(self.layers, x, -1 if layer is None else layer, self.remat)

    def patches(
        self,
        pixels: Float[Array, "B H W 3"],
        layer: int | None = None,
        *,
        interpolate: bool = False,
    ) -> Float[Array, "B P D"]:
        """The hidden state of the patches alone: the class token says not where."""
        return self(pixels, layer, interpolate=interpolate)[:, 1:]

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike,
        *,
        dtype: DTypeLike | None = None,
        mesh: Mesh | None = None,
    ) -> "ClipVision":
        """Reads a Hugging Face folder; with a mesh, each tensor into its shards.

        Takes a vision tower alone or a whole CLIP, whose text half it leaves.

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
        """Writes a folder for `transformers.CLIPVisionModel`, weights in `dtype`."""
        table = prefixed(TABLE, "vision_model.", "")
        save(self, folder, table, config_to_dict(self.config), dtype=dtype)


def hidden_state(
    layers: ClipLayer, x: Float[Array, "B P D"], layer: int, remat: str
) -> Float[Array, "B P D"]:
    """What leaves the stacked `layers` after `layer` of them, or -1: after all."""
    graphdef, params = nnx.split(layers)
    depth = jax.tree.leaves(params)[0].shape[0]
    if not -depth - 1 <= layer <= depth:
        raise ValueError(
            f"vision_feature_layer is {layer}, but a tower of {depth} layers has "
            f"hidden states 0 to {depth} (or -{depth + 1} to -1)"
        )
    needed = layer % (depth + 1)
    x, _ = scan(
        nnx.merge(graphdef, jax.tree.map(lambda p: p[:needed], params)),
        lambda layer, x, _: (layer(x), None),
        constrain(x, ("batch", "sequence", "embed")),
        remat=remat,
    )
    return x
