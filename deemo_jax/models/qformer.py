"""The connector: a Q-Former that turns a tower's features into the decoder's tokens."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from flax import nnx
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from deemo_jax.architecture import QFormerConfig
from deemo_jax.models.attention import Attention, dot_product_attention
from deemo_jax.models.layers import FAN_IN, PLACES, activation, scan, stack
from deemo_jax.models.loading import read_fields
from deemo_jax.models.names import linear_rows, norm_rows
from deemo_jax.pretrained import PretrainedError, Row
from deemo_jax.sharding import constrain

_LAYER = "qformer.encoder.layer.{layer}."
# The names of the connector in our PyTorch model, whose `qformer` is transformers'
# `Blip2QFormerModel`, beside ours.
TABLE = (
    *norm_rows("encoder_layernorm", "encoder_layernorm"),
    Row("position_embedding.weight", "position_embedding/embedding"),
    Row("query_tokens", "query_tokens"),
    *norm_rows("qformer.layernorm", "layernorm"),
    *(
        row
        for attention in ("attention", "crossattention")
        for part in ("query", "key", "value")
        for row in linear_rows(
            f"{_LAYER}{attention}.attention.{part}", f"layers/{attention}/{part}"
        )
    ),
    *linear_rows(
        f"{_LAYER}intermediate_query.dense", "layers/intermediate_query/dense"
    ),
    *(
        row
        for name in ("attention.output", "crossattention.output", "output_query")
        for path in ["layers/" + name.replace(".", "/")]
        for row in (
            *linear_rows(f"{_LAYER}{name}.dense", f"{path}/dense"),
            *norm_rows(f"{_LAYER}{name}.LayerNorm", f"{path}/LayerNorm"),
        )
    ),
    *linear_rows("projection", "projection"),
)
# A file leaves out what is as in `transformers.Blip2QFormerConfig()`.
ABSENT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "encoder_hidden_size": 1408,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}


def config_from_dict(values: Mapping[str, Any]) -> QFormerConfig:
    """Reads the part of a whole model's `config.json` that describes a connector.

    Raises:
      PretrainedError: if it is of another kind, or a value is not supported here.
    """
    if values.get("model_type") != "blip_2_qformer":
        raise PretrainedError(
            f"model_type {values.get('model_type')!r} in config.json is not supported "
            f"as a connector; supported: blip_2_qformer"
        )
    if values.get("cross_attention_frequency") != 1:
        raise PretrainedError(
            f"cross_attention_frequency {values.get('cross_attention_frequency')!r} in "
            f"config.json is not supported; our connectors have 1, every layer"
        )
    return read_fields(QFormerConfig, values, ABSENT)


def config_to_dict(config: QFormerConfig) -> dict[str, Any]:
    """The inverse of `config_from_dict`."""
    return {
        "model_type": "blip_2_qformer",
        **dataclasses.asdict(config),
        "cross_attention_frequency": 1,
        "use_qformer_text_input": False,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


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
        self.encoder_layernorm = _norm(source, config, dtype, rngs)
        self.position_embedding = nnx.Embed(
            config.max_positions, source, embedding_init=PLACES, dtype=dtype, rngs=rngs
        )
        self.query_tokens = nnx.Param(
            PLACES(rngs.params(), (config.num_query_tokens, width), jnp.float32)
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
            width, output_size, kernel_init=FAN_IN, dtype=dtype, rngs=rngs
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
