"""Attention: the one function that mixes places, and the mask that packs rows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# What a tower takes as `attention`: the signature of `dot_product_attention`.
Attention = Callable[..., jax.Array]


def dot_product_attention(
    q: Float[Array, "B S H K"],
    k: Float[Array, "B L G K"],
    v: Float[Array, "B L G K"],
    *,
    mask: Bool[Array, "B #H S L"] | None,
    scale: float | None = None,
) -> Float[Array, "B S H K"]:
    """Scaled dot-product attention, the softmax in float32 (Vaswani et al., 2017).

    `H` query heads share `G` heads of keys and values, `H / G` neighbours each
    (grouped queries, Ainslie et al., 2023). `mask` says which of the `L` places each
    of the `S` queries sees, for all heads (`#H` is 1) or each; None is all of them. A
    query that sees nothing gets the mean of all values: of no meaning, but finite, as
    its gradient is. `scale` is `K ** -0.5` unless given.

    Raises:
      ValueError: if the key heads do not divide the query heads.
    """
    heads, groups = q.shape[2], k.shape[2]
    if heads % groups:
        raise ValueError(
            f"{heads} query heads cannot share {groups} key-value heads evenly; "
            f"make the number of query heads a multiple of the other"
        )
    # Scaled before the product, where there are fewer numbers to scale.
    q = q * (q.shape[3] ** -0.5 if scale is None else scale)
    q = q.reshape(*q.shape[:2], groups, heads // groups, q.shape[3])
    scores = jnp.einsum("bsghk,blgk->bghsl", q, k, preferred_element_type=jnp.float32)
    if mask is not None:
        mask = mask[:, :, None] if mask.shape[1] == 1 else _by_group(mask, groups)
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    mixed = jnp.einsum("bghsl,blgk->bsghk", weights, v)
    return mixed.reshape(*mixed.shape[:2], heads, mixed.shape[4])


def _by_group(mask: Bool[Array, "B H S L"], groups: int) -> Bool[Array, "B G N S L"]:
    batch, heads, *rest = mask.shape
    return mask.reshape(batch, groups, heads // groups, *rest)


def causal_mask(
    query_segments: Int[Array, "B S"],
    key_segments: Int[Array, "B L"],
    first: Int[Array, ""] | int = 0,
) -> Bool[Array, "B 1 S L"]:
    """Which places a decoder's queries see: earlier ones of their own segment.

    Query `s` stands at place `first + s` of its row (places before `first` are in the
    cache). Segment 0 is padding: it sees nothing and nobody sees it. Two segments of a
    row and a place of padding:

        segment    1 1 1 2 2 0
                 1 x . . . . .
                 1 x x . . . .
                 1 x x x . . .
                 2 . . . x . .
                 2 . . . x x .
                 0 . . . . . .
    """
    places = jnp.arange(query_segments.shape[1]) + first
    earlier = places[:, None] >= jnp.arange(key_segments.shape[1])[None, :]
    same = query_segments[:, :, None] == key_segments[:, None, :]
    real = (query_segments != 0)[:, :, None]
    return (earlier[None] & same & real)[:, None]
