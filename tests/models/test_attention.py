"""Attention against PyTorch's and against what its mask promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from deemo_jax.models.attention import causal_mask, dot_product_attention


def draw(heads=6, groups=2, batch=2, queries=5, keys=7, width=4):
    shapes = [(batch, queries, heads, width)] + [(batch, keys, groups, width)] * 2
    seeds = jax.random.split(jax.random.key(0), 3)
    return [
        jax.random.normal(seed, shape)
        for seed, shape in zip(seeds, shapes, strict=True)
    ]


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("mask_heads", [None, 1, 6])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_agrees_with_pytorch(groups, mask_heads, scale):
    q, k, v = draw(groups=groups)
    mask = None
    if mask_heads:
        mask = np.random.default_rng(0).random((2, mask_heads, 5, 7)) < 0.6
        mask[..., 0] = True
    ours = dot_product_attention(
        q, k, v, mask=None if mask is None else jnp.asarray(mask), scale=scale
    )
    tensors = [torch.tensor(np.asarray(x)).transpose(1, 2) for x in (q, k, v)]
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *tensors,
        attn_mask=None if mask is None else torch.tensor(mask),
        scale=scale,
        enable_gqa=True,
    )
    np.testing.assert_allclose(ours, theirs.transpose(1, 2), atol=1e-6)


def test_a_query_that_sees_nothing_is_finite_and_so_is_its_gradient():
    q, k, v = draw()
    mask = jnp.zeros((2, 1, 5, 7), bool)

    def total(q, k, v):
        return jnp.square(dot_product_attention(q, k, v, mask=mask)).sum()

    value, gradients = jax.value_and_grad(total, argnums=(0, 1, 2))(q, k, v)
    assert all(np.isfinite(x).all() for x in (value, *gradients))


def test_softmax_of_bfloat16_is_taken_in_float32():
    q, k, v = draw()
    exact = dot_product_attention(q, k, v, mask=None)
    q, k, v = (x.astype(jnp.bfloat16) for x in (q, k, v))
    rounded = dot_product_attention(q, k, v, mask=None)
    assert rounded.dtype == jnp.bfloat16
    # Only the inputs and the outputs are rounded: 8 bits of mantissa.
    np.testing.assert_allclose(rounded.astype(jnp.float32), exact, atol=0.03)
    wide = dot_product_attention(jnp.full((1, 1, 1, 1), 1e3), *[
        jnp.asarray([1e3, 1e3 - 4, 0]).reshape(1, 3, 1, 1)
    ] * 2, mask=None)  # fmt: skip
    assert np.isfinite(wide).all()


def test_uneven_groups_are_refused():
    q, k, v = draw(groups=4)
    with pytest.raises(ValueError, match="6 query heads cannot share 4 key-value"):
        dot_product_attention(q, k, v, mask=None)


def test_causal_mask_is_the_drawn_one():
    segments = jnp.asarray([[1, 1, 1, 2, 2, 0]])
    drawn = """
        x . . . . .
        x x . . . .
        x x x . . .
        . . . x . .
        . . . x x .
        . . . . . ."""
    expected = [[c == "x" for c in row.split()] for row in drawn.strip().splitlines()]
    np.testing.assert_array_equal(causal_mask(segments, segments)[0, 0], expected)


def test_causal_mask_of_a_cached_step_is_the_row_of_the_whole():
    segments = jnp.asarray([[0, 1, 1, 1, 1], [1, 1, 2, 2, 2]])
    whole = causal_mask(segments, segments)
    for place in range(5):
        step = causal_mask(segments[:, place : place + 1], segments, jnp.asarray(place))
        np.testing.assert_array_equal(step, whole[:, :, place : place + 1])
