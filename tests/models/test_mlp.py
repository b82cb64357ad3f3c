from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deemo_jax.architecture import MlpConfig
from deemo_jax.models.mlp import Mlp, config_from_dict, config_to_dict
from deemo_jax.pretrained import PretrainedError

CONFIG = MlpConfig(
    hidden_size=12,
    encoder_hidden_size=9,
    max_positions=6,
    num_query_tokens=3,
    hidden_act="gelu",
)
FEATURES = jax.random.normal(jax.random.key(1), (2, 7, 9))
POSITIONS = jnp.array([[0, 0, 1, 2, 3, 4, 5]] * 2)
MASK = jnp.array([[1, 1, 1, 1, 0, 0, 0], [0] * 7]) == 1


@pytest.fixture
def connector() -> Mlp:
    module = Mlp(CONFIG, 5, rngs=nnx.Rngs(0))
    # New biases are zero, which would hide where they are added.
    assert module.linear_1.bias is not None
    module.linear_1.bias[...] = jax.random.normal(jax.random.key(2), (12,))
    return module


def mapped(module: Mlp, pooled: jax.Array) -> jax.Array:
    return module.linear_2(jax.nn.gelu(module.linear_1(pooled), approximate=False))


def test_a_token_is_the_mean_of_its_part_of_the_time(connector):
    tokens = connector(FEATURES, POSITIONS, jnp.ones((2, 7), bool))
    pooled = [FEATURES[:, :3], FEATURES[:, 3:5], FEATURES[:, 5:]]
    expected = mapped(connector, jnp.stack([part.mean(1) for part in pooled], 1))
    np.testing.assert_allclose(tokens, expected, atol=1e-6)


def test_masked_features_leave_no_trace_and_empty_parts_are_zeros(connector):
    broken = jnp.where(MASK[..., None], FEATURES, jnp.nan)
    tokens = connector(broken, POSITIONS, MASK)
    pooled = jnp.zeros((2, 3, 9))
    pooled = pooled.at[0, 0].set(FEATURES[0, :3].mean(0)).at[0, 1].set(FEATURES[0, 3])
    np.testing.assert_allclose(tokens, mapped(connector, pooled), atol=1e-6)


def test_no_gradient_flows_into_masked_features(connector):
    gradient = jax.grad(lambda x: (connector(x, POSITIONS, MASK) ** 2).sum())(FEATURES)
    reached = np.abs(gradient).max(axis=-1) > 0
    np.testing.assert_array_equal(reached, MASK)


def test_positions_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="max_positions is 7, which does not divide"):
        MlpConfig(
            hidden_size=12,
            encoder_hidden_size=9,
            max_positions=7,
            num_query_tokens=3,
            hidden_act="gelu",
        )


def test_the_configuration_comes_back_and_a_gap_is_named():
    values = config_to_dict(CONFIG)
    assert values["model_type"] == "deemo_mlp"
    assert config_from_dict(values) == CONFIG
    del values["hidden_size"]
    with pytest.raises(PretrainedError, match="no 'hidden_size'"):
        config_from_dict(values)
