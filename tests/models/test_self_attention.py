from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deemo_jax.models.self_attention import SelfAttention


def test_places_have_no_order():
    attention = SelfAttention(12, 3, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 7, 12))
    order = np.array([3, 1, 6, 0, 5, 2, 4])
    np.testing.assert_allclose(
        attention(x[:, order]), attention(x)[:, order], atol=1e-6
    )


def test_one_place_gets_its_own_value_projected():
    attention = SelfAttention(12, 3, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 1, 12))
    expected = attention.out_proj(attention.v_proj(x))
    np.testing.assert_allclose(attention(x), expected, atol=1e-6)


def test_the_given_attention_is_used():
    attention = SelfAttention(
        12, 3, rngs=nnx.Rngs(0), attention=lambda q, k, v, mask: jnp.zeros_like(q)
    )
    x = jax.random.normal(jax.random.key(1), (2, 5, 12))
    bias = attention.out_proj.bias
    assert bias is not None
    np.testing.assert_array_equal(
        attention(x), np.broadcast_to(np.asarray(bias[...]), x.shape)
    )


def test_the_keys_bias_is_there_when_asked_for():
    assert SelfAttention(12, 3, rngs=nnx.Rngs(0)).k_proj.bias is not None
    without = SelfAttention(12, 3, key_bias=False, rngs=nnx.Rngs(0))
    assert without.k_proj.bias is None
    assert without.q_proj.bias is not None


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="12 does not divide into 5 attention heads"):
        SelfAttention(12, 5, rngs=nnx.Rngs(0))
