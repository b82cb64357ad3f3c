"""The connector: a Q-Former that turns a tower's features into the decoder's tokens."""

import functools

from flax import nnx
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from deemo_jax.architecture import QFormerConfig
from deemo_jax.models.attention import Attention, dot_product_attention
from deemo_jax.models.layers import activation, scan, stack
from deemo_jax.sharding import constrain


class QFormerOutput(nnx.Module):
    """A linear map, added to what went in, and then the norm, as in BERT."""

    def __init__(
        self, width: int, config: QFormerConfig, *, rngs: nnx.Rngs, dtype: DTypeLike
    ):
        self.dense = nnx.Linear(width, config.hidden_size, dtype=dtype, rngs=rngs)
        self.LayerNorm = _norm(config.hidden_size, config, dtype, rngs)

    def __call__(
        self, x: Float[Array, "B Q E"], residual: Float[Array, "B Q D"]
    ) -> Float[Array, "B Q D"]:
        """`LayerNorm(dense(x) + residual)`."""
        return self.LayerNorm(self.dense(x) + residual)


class QFormerAttention(nnx.Module):
    """Attention from the queries to a source of its own width."""

    def __init__(
        self,
        source_width: int,
        config: QFormerConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        attention: Attention,
    ):
        width, self.heads = config.hidden_size, config.num_attention_heads
        if width % self.heads:
            raise ValueError(
                f"a connector's hidden_size of {width} does not divide into "
                f"{self.heads} attention heads; make it a multiple"
            )
        self.attention = attention
        self.query = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.key = nnx.Linear(source_width, width, dtype=dtype, rngs=rngs)
        self.value = nnx.Linear(source_width, width, dtype=dtype, rngs=rngs)
        self.output = QFormerOutput(width, config, rngs=rngs, dtype=dtype)

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        source: Float[Array, "B L E"],
        mask: Bool[Array, "B 1 Q L"] | None,
    ) -> Float[Array, "B Q D"]:
        """Each query takes what it needs from the places of `source` not masked."""
        names = ("batch", "sequence", "heads", "head_dim")
        q, k, v = (
            constrain(linear(y).reshape(*y.shape[:2], self.heads, -1), names)
            for linear, y in ((self.query, x), (self.key, source), (self.value, source))
        )
        return self.output(self.attention(q, k, v, mask=mask).reshape(x.shape), x)


class QFormerIntermediate(nnx.Module):
    """The widening half of a layer's feed-forward part."""

    def __init__(self, config: QFormerConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.activation = activation(config.hidden_act)
        self.dense = nnx.Linear(
            config.hidden_size, config.intermediate_size, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q E"]:
        """`activation(dense(x))`."""
        return constrain(self.activation(self.dense(x)), ("batch", "sequence", "mlp"))


class QFormerLayer(nnx.Module):
    """Queries attend to each other, then to the features, then each on its own."""

    def __init__(
        self,
        config: QFormerConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        attention: Attention,
    ):
        attend = functools.partial(
            QFormerAttention, attention=attention, rngs=rngs, dtype=dtype
        )
        self.attention = attend(config.hidden_size, config)
        self.crossattention = attend(config.encoder_hidden_size, config)
        self.intermediate_query = QFormerIntermediate(config, rngs=rngs, dtype=dtype)
        self.output_query = QFormerOutput(
            config.intermediate_size, config, rngs=rngs, dtype=dtype
        )

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        features: Float[Array, "B L E"],
        mask: Bool[Array, "B 1 Q L"],
    ) -> Float[Array, "B Q D"]:
        """One layer."""
        x = self.attention(x, x, None)
        x = self.crossattention(x, features, mask)
        x = self.output_query(self.intermediate_query(x), x)
        return constrain(x, ("batch", "sequence", "embed"))


class QFormer(nnx.Module):
    """BLIP-2's Q-Former (Li et al., 2023, section 3.1) over features in time.

    A fixed number of learned queries reads any number of features. The features carry
    a learned temporal position each, as in Video-LLaMA (Zhang et al., 2023, section
    2.1.1), and cross-attention stands in every layer.
    """

    def __init__(
        self,
        config: QFormerConfig,
        output_size: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        remat: str = "none",
        attention: Attention = dot_product_attention,
    ):
        self.config = config
        self.remat = remat
        self.dtype = dtype
        width, source = config.hidden_size, config.encoder_hidden_size
        normal = nnx.initializers.normal(0.02)
        self.encoder_layernorm = _norm(source, config, dtype, rngs)
        self.position_embedding = nnx.Embed(
            config.max_positions, source, embedding_init=normal, dtype=dtype, rngs=rngs
        )
        self.query_tokens = nnx.Param(
            normal(rngs.params(), (config.num_query_tokens, width), jnp.float32)
        )
        self.layernorm = _norm(width, config, dtype, rngs)
        self.layers = stack(
            lambda rngs: QFormerLayer(
                config, rngs=rngs, dtype=dtype, attention=attention
            ),
            config.num_hidden_layers,
            rngs,
        )
        self.projection = nnx.Linear(
            width, output_size, kernel_init=normal, dtype=dtype, rngs=rngs
        )

    def __call__(
        self,
        features: Float[Array, "B L E"],
        positions: Int[Array, "B L"],
        mask: Bool[Array, "B L"],
    ) -> Float[Array, "B Q D"]:
        """Tokens for the decoder, from the features where `mask` is True.

        `positions` are temporal, below `max_positions`. A masked feature leaves no
        trace: neither in the tokens nor, by their gradient, in the tower. A row with
        every feature masked gives finite tokens that depend on parameters alone.
        """
        features = self.encoder_layernorm(features) + self.position_embedding(positions)
        features = jnp.where(mask[..., None], features, 0)
        queries = self.layernorm(self.query_tokens.astype(self.dtype))
        batch, (count, width) = features.shape[0], queries.shape
        # A softmax over nothing is not a number: where all is masked, the queries read
        # the zeros that stand there instead.
        readable = mask | ~mask.any(axis=1, keepdims=True)
        places = jnp.broadcast_to(
            readable[:, None, None, :], (batch, 1, count, mask.shape[1])
        )
        x, _ = scan(
            self.layers,
            lambda layer, x, _: (layer(x, features, places), None),
            jnp.broadcast_to(queries[None], (batch, count, width)),
            remat=self.remat,
        )
        return self.projection(x)


def _norm(
    width: int, config: QFormerConfig, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        width,
        epsilon=config.layer_norm_eps,
        use_fast_variance=False,
        dtype=dtype,
        rngs=rngs,
    )
