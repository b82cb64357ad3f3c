from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deemo_jax.models.self_attention import EncoderLayer, SelfAttention


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


def test_what_is_masked_leaves_no_trace():
    attention = SelfAttention(12, 3, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 5, 12))
    # The first row is three places long, the second five.
    seen = jnp.arange(5)[None] < jnp.array([3, 5])[:, None]
    mask = jnp.broadcast_to(seen[:, None, None], (2, 1, 5, 5))
    mixed = attention(x, mask)
    np.testing.assert_allclose(mixed[:1, :3], attention(x[:1, :3]), atol=1e-6)
    np.testing.assert_allclose(mixed[1], attention(x)[1], atol=1e-6)
    other = attention(jnp.where(seen[..., None], x, 7.0), mask)
    np.testing.assert_allclose(other[:1, :3], mixed[:1, :3], atol=1e-6)


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_layers_norms_stand_where_they_are_asked_for(norm_first):
    layer = EncoderLayer(
        12, 3, 20, hidden_act="gelu", epsilon=1e-5, norm_first=norm_first,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    x = 5 * jax.random.normal(jax.random.key(1), (2, 5, 12)) + 3
    deviation = layer(x).std(axis=-1)
    assert bool((np.abs(deviation - 1) < 1e-3).all()) == (not norm_first)
    # Without what the two parts add, the layer is the identity, or its norms.
    for part in (layer.self_attn.out_proj, layer.fc2):
        part.kernel[...] = jnp.zeros_like(part.kernel[...])
    normal = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    np.testing.assert_allclose(layer(x), x if norm_first else normal, atol=1e-4)


def test_the_keys_bias_is_there_when_asked_for():
    assert SelfAttention(12, 3, rngs=nnx.Rngs(0)).k_proj.bias is not None
    without = SelfAttention(12, 3, key_bias=False, rngs=nnx.Rngs(0))
    assert without.k_proj.bias is None
    assert without.q_proj.bias is not None


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="12 does not divide into 5 attention heads"):
        SelfAttention(12, 5, rngs=nnx.Rngs(0))
