"""The encoders' self-attention, and the layer that the audio towers make of it."""

from flax import nnx
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from deemo_jax.models.attention import Attention, dot_product_attention
from deemo_jax.models.layers import activation, layer_norm
from deemo_jax.sharding import constrain


class SelfAttention(nnx.Module):
    """Multi-head attention in which every place sees every place, padding apart.

    Parameters are `{q_proj,k_proj,v_proj,out_proj}/{kernel,bias}`; Whisper's keys
    have no bias (`key_bias=False`).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        key_bias: bool = True,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        attention: Attention = dot_product_attention,
    ):
        if width % heads:
            raise ValueError(
                f"a width of {width} does not divide into {heads} attention heads; "
                f"make the width a multiple of the number of heads"
            )
        self.heads = heads
        self.attention = attention
        self.q_proj = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.k_proj = nnx.Linear(
            width, width, use_bias=key_bias, dtype=dtype, rngs=rngs
        )
        self.v_proj = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.out_proj = nnx.Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B L D"], mask: Bool[Array, "B 1 L L"] | None = None
    ) -> Float[Array, "B L D"]:
        """Mixes the places of each row of `x`, those that `mask` lets each one see."""
        shape = (*x.shape[:2], self.heads, -1)
        q, k, v = (
            constrain(projection(x).reshape(shape), ("batch", places, "heads", None))
            for projection, places in (
                (self.q_proj, "sequence"),
                (self.k_proj, "keys"),
                (self.v_proj, "keys"),
            )
        )
        return self.out_proj(self.attention(q, k, v, mask=mask).reshape(x.shape))


class EncoderLayer(nnx.Module):
    """Self-attention, then two linear maps, each added back; of Whisper and HuBERT.

    A norm stands before each of the two parts (`norm_first`), or after each sum, as in
    the first Transformer (Vaswani et al., 2017, section 3.1).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        inner: int,
        *,
        hidden_act: str,
        epsilon: float,
        norm_first: bool = True,
        key_bias: bool = True,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        attention: Attention = dot_product_attention,
    ):
        self.activation = activation(hidden_act)
        self.norm_first = norm_first
        self.self_attn_layer_norm = layer_norm(width, epsilon, rngs=rngs, dtype=dtype)
        self.self_attn = SelfAttention(
            width,
            heads,
            key_bias=key_bias,
            rngs=rngs,
            dtype=dtype,
            attention=attention,
        )
        self.final_layer_norm = layer_norm(width, epsilon, rngs=rngs, dtype=dtype)
        self.fc1 = nnx.Linear(width, inner, dtype=dtype, rngs=rngs)
        self.fc2 = nnx.Linear(inner, width, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B L D"], mask: Bool[Array, "B 1 L L"] | None = None
    ) -> Float[Array, "B L D"]:
        """One layer; `mask` as `SelfAttention` takes it."""
        if self.norm_first:
            x = x + self.self_attn(self.self_attn_layer_norm(x), mask)
            x = x + self._widened(self.final_layer_norm(x))
        else:
            x = self.self_attn_layer_norm(x + self.self_attn(x, mask))
            x = self.final_layer_norm(x + self._widened(x))
        return constrain(x, ("batch", "sequence", "embed"))

    def _widened(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        inner = self.activation(self.fc1(x))
        return self.fc2(constrain(inner, ("batch", "sequence", "mlp")))
