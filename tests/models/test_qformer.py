import dataclasses
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deemo_jax.architecture import QFormerConfig
from deemo_jax.models.qformer import QFormer

CONFIG = QFormerConfig(
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=3,
    encoder_hidden_size=9,
    max_positions=5,
    num_query_tokens=4,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
)
FEATURES = jax.random.normal(jax.random.key(1), (3, 11, 9))
POSITIONS = jnp.broadcast_to((jnp.arange(11) * 5 // 11)[None], (3, 11))
ALL = jnp.ones((3, 11), bool)
# A whole row, a row with its end masked, a row with nothing.
MASK = jnp.arange(11)[None] < jnp.array([11, 6, 0])[:, None]


# Compiled whole: operation by operation takes several times as long.
run = nnx.jit(lambda module, *given: module(*given))


@functools.cache
def connector(**changes) -> QFormer:
    return QFormer(dataclasses.replace(CONFIG, **changes), 7, rngs=nnx.Rngs(0))


def test_as_many_tokens_as_queries_however_long_the_features():
    for length in (1, 5, 11):
        cut = (x[:, :length] for x in (FEATURES, POSITIONS, MASK))
        tokens = run(connector(), *cut)
        assert tokens.shape == (3, 4, 7)


def test_tokens_differ_from_each_other_and_from_row_to_row():
    tokens = run(connector(), FEATURES, POSITIONS, ALL)
    for axis in (0, 1):
        assert np.abs(np.diff(tokens, axis=axis)).max(axis=(1 - axis, 2)).min() > 1e-3


def test_masked_features_leave_no_trace():
    module = connector()
    other = jnp.where(MASK[..., None], FEATURES, 100.0 * FEATURES + 3.0)
    np.testing.assert_array_equal(
        run(module, FEATURES, POSITIONS, MASK), run(module, other, POSITIONS, MASK)
    )
    shorter = run(module, FEATURES[1:2, :6], POSITIONS[1:2, :6], ALL[:1, :6])
    np.testing.assert_allclose(
        run(module, FEATURES, POSITIONS, MASK)[1:2], shorter, atol=1e-6
    )


def test_a_row_with_nothing_is_finite_and_so_are_all_gradients():
    def loss(module, features):
        return (module(features, POSITIONS, MASK) ** 2).sum()

    module = connector()
    assert np.isfinite(run(module, FEATURES, POSITIONS, MASK)).all()
    gradients, by_feature = nnx.jit(nnx.grad(loss, argnums=(0, 1)))(module, FEATURES)
    for leaf in jax.tree.leaves(gradients):
        assert np.isfinite(leaf).all()
    reached = np.abs(by_feature).max(axis=2) > 0
    np.testing.assert_array_equal(reached, MASK)


def test_features_have_no_order_but_their_positions():
    module, order = connector(), np.random.default_rng(0).permutation(11)
    straight = run(module, FEATURES, POSITIONS, ALL)
    shuffled = run(module, FEATURES[:, order], POSITIONS[:, order], ALL)
    np.testing.assert_allclose(shuffled, straight, atol=1e-6)
    moved = run(module, FEATURES[:, order], POSITIONS, ALL)
    assert np.abs(moved - straight).max() > 1e-4


def test_every_parameter_receives_a_gradient():
    module = connector()
    weights = jax.random.normal(jax.random.key(2), (3, 4, 7))
    gradients = nnx.jit(
        nnx.grad(lambda module: (module(FEATURES, POSITIONS, MASK) * weights).sum())
    )(module)
    for path, gradient in nnx.to_flat_state(gradients):
        assert np.abs(gradient[...]).max() > 0, path


def test_rematerialisation_changes_memory_not_values():
    def gradients(remat):
        module = QFormer(CONFIG, 7, rngs=nnx.Rngs(0), remat=remat)
        return nnx.jit(nnx.grad(lambda m: (m(FEATURES, POSITIONS, MASK) ** 3).sum()))(
            module
        )

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        gradients("full"),
        gradients("none"),
    )


def test_half_precision_computes_in_it():
    module = QFormer(CONFIG, 7, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    tokens = run(module, FEATURES.astype(jnp.bfloat16), POSITIONS, MASK)
    assert tokens.dtype == jnp.bfloat16
    assert np.isfinite(tokens.astype(jnp.float32)).all()


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="hidden_size of 12 does not divide into 5"):
        connector(num_attention_heads=5)
