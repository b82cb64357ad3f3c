"""CLIP's vision tower (Radford et al., 2021), frame by frame."""

from flax import nnx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from deemo_jax.architecture import ClipVisionConfig
from deemo_jax.models.attention import Attention, dot_product_attention
from deemo_jax.models.layers import activation, scan, stack
from deemo_jax.models.self_attention import SelfAttention
from deemo_jax.sharding import constrain


class ClipEmbeddings(nnx.Module):
    """A class token and the patches of an image, each with its learned position."""

    def __init__(self, config: ClipVisionConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        if config.image_size % config.patch_size:
            raise ValueError(
                f"image_size {config.image_size} is no multiple of patch_size "
                f"{config.patch_size}; CLIP would leave out the rest of the image"
            )
        width, patch = config.hidden_size, config.patch_size
        normal = nnx.initializers.normal
        self.class_embedding = nnx.Param(
            normal(width**-0.5)(rngs.params(), (width,), jnp.float32)
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
            embedding_init=normal(0.02),
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
        return x + self.position_embedding.embedding.astype(x.dtype)[None]


class ClipMlp(nnx.Module):
    """Two linear maps with an activation between."""

    def __init__(self, config: ClipVisionConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
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
        config: ClipVisionConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        attention: Attention,
    ):
        self.layer_norm1 = _norm(config, dtype, rngs)
        self.self_attn = SelfAttention(
            config.hidden_size,
            config.num_attention_heads,
            rngs=rngs,
            dtype=dtype,
            attention=attention,
        )
        self.layer_norm2 = _norm(config, dtype, rngs)
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
        self.pre_layrnorm = _norm(config, dtype, rngs)  # spelt so in every checkpoint
        self.layers = stack(
            lambda rngs: ClipLayer(config, rngs=rngs, dtype=dtype, attention=attention),
            config.num_hidden_layers,
            rngs,
        )
        self.post_layernorm = _norm(config, dtype, rngs)

    def __call__(
        self, pixels: Float[Array, "B H W 3"], layer: int = -1
    ) -> Float[Array, "B P D"]:
        """A hidden state for the class token and each patch of normalised `pixels`.

        `layer` counts as Hugging Face's `hidden_states` do: 0 is what enters the first
        layer, 1 what leaves it, -1 what leaves the last. Later layers are not run.

        Raises:
          ValueError: if the image has another size than the tower, or the tower no
            such layer.
        """
        size, depth = self.config.image_size, self.config.num_hidden_layers
        if pixels.shape[1:3] != (size, size):
            raise ValueError(
                f"the vision tower takes images of {size}x{size} pixels, these have "
                f"{pixels.shape[1]}x{pixels.shape[2]}; set data.image_size to {size}"
            )
        if not -depth - 1 <= layer <= depth:
            raise ValueError(
                f"vision_feature_layer is {layer}, but a tower of {depth} layers has "
                f"hidden states 0 to {depth} (or -{depth + 1} to -1)"
            )
        x = self.pre_layrnorm(self.embeddings(pixels.astype(self.dtype)))
        graphdef, params = nnx.split(self.layers)
        needed = layer % (depth + 1)
        x, _ = scan(
            nnx.merge(graphdef, jax.tree.map(lambda p: p[:needed], params)),
            lambda layer, x, _: (layer(x), None),
            constrain(x, ("batch", "sequence", "embed")),
            remat=self.remat,
        )
        return x


def _norm(config: ClipVisionConfig, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        config.hidden_size,
        epsilon=config.layer_norm_eps,
        use_fast_variance=False,
        dtype=dtype,
        rngs=rngs,
    )
