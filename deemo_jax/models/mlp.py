"""The simpler connector: features pooled over time, then two linear maps."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import nnx
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from deemo_jax.architecture import MlpConfig
from deemo_jax.models.layers import activation, linear
from deemo_jax.models.loading import read_fields
from deemo_jax.models.names import linear_rows
from deemo_jax.sharding import constrain

# The names of the connector in our PyTorch model beside ours.
TABLE = (*linear_rows("linear_1", "linear_1"), *linear_rows("linear_2", "linear_2"))


def config_from_dict(values: Mapping[str, Any]) -> MlpConfig:
    """Reads the part of a whole model's `config.json` that describes a connector.

    Raises:
      PretrainedError: if a value is missing or of the wrong type.
    """
    return read_fields(MlpConfig, values, {})


def config_to_dict(config: MlpConfig) -> dict[str, Any]:
    """The inverse of `config_from_dict`."""
    return dataclasses.asdict(config)


class Mlp(nnx.Module):
    """Each token is made of the mean of the features of one part of the time.

    Two linear maps with an activation between, as LLaVA-1.5 (Liu et al., 2023, section
    3.2) and the audio branch of VideoLLaMA 2 (Cheng et al., 2024, section 2.2) have
    them; here pooled, so that the number of tokens is fixed.
    """

    def __init__(
        self,
        config: MlpConfig,
        output_size: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
    ):
        self.config = config
        self.dtype = dtype
        width, inner = config.encoder_hidden_size, config.hidden_size
        self.activation = activation(config.hidden_act)
        self.linear_1 = linear(width, inner, bias=True, rngs=rngs, dtype=dtype)
        self.linear_2 = linear(inner, output_size, bias=True, rngs=rngs, dtype=dtype)

    def __call__(
        self,
        features: Float[Array, "B L E"],
        positions: Int[Array, "B L"],
        mask: Bool[Array, "B L"],
    ) -> Float[Array, "B Q D"]:
        """Tokens for the decoder, from the features where `mask` is True.

        `positions` are temporal, below `max_positions`. With 6 of them and 3 tokens:

            positions    0  0  1  2  3  4  5
            mask         x  x  x  x  .  .  .
            token        0  0  0  1

        A part of the time without any feature gives the token of zeros, as a row does
        that has every feature masked.
        """
        config = self.config
        part = positions * config.num_query_tokens // config.max_positions
        token = jnp.arange(config.num_query_tokens)
        taken = (part[:, None] == token[None, :, None]) & mask[:, None]
        count = jnp.maximum(taken.sum(axis=2, keepdims=True), 1)
        # Where a masked feature is not a number, its zero weight would not help.
        features = jnp.where(mask[..., None], features.astype(self.dtype), 0)
        weights = (taken / count).astype(self.dtype)
        pooled = jnp.einsum("bql,ble->bqe", weights, features)
        inner = self.activation(self.linear_1(pooled))
        return self.linear_2(constrain(inner, ("batch", "sequence", "mlp")))
