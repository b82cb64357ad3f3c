"""The encoders' self-attention: four projections, every place sees every place."""

from flax import nnx
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from deemo_jax.models.attention import Attention, dot_product_attention
from deemo_jax.sharding import constrain


class SelfAttention(nnx.Module):
    """Multi-head attention without mask, as CLIP and Whisper have it.

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

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Mixes the places of each row of `x`."""
        names = ("batch", "sequence", "heads", "head_dim")
        shape = (*x.shape[:2], self.heads, -1)
        q, k, v = (
            constrain(projection(x).reshape(shape), names)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(self.attention(q, k, v, mask=None).reshape(x.shape))
