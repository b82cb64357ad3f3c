"""Stacked, scanned, recomputed: the same function as layer after layer."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.activations import ACT2FN

from deemo_jax.models.layers import (
    ACTIVATIONS,
    REMAT_POLICIES,
    activation,
    layer_norm,
    linear,
    scan,
    stack,
    within,
)


class Layer(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(5, 7, rngs=rngs)
        self.down = nnx.Linear(7, 5, rngs=rngs)

    def __call__(self, x):
        return x + self.down(jnp.tanh(self.up(x)))


@pytest.fixture(scope="module")
def layers():
    return stack(Layer, 3, nnx.Rngs(0))


def body(layer, x, scale):
    x = layer(x)
    return x, x * (1 if scale is None else scale)


def value_and_gradients(layers, x, remat):
    graphdef, params = nnx.split(layers)

    def loss(params, x):
        carry, _ = scan(nnx.merge(graphdef, params), body, x, remat=remat)
        return jnp.square(carry).sum()

    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(params, x)
    return [value, *jax.tree.leaves(gradients)]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_transformers(name):
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    theirs = ACT2FN[name](torch.tensor(x)).numpy()
    np.testing.assert_allclose(activation(name)(jnp.asarray(x)), theirs, atol=1e-6)


def test_unknown_activation_is_refused_by_name():
    with pytest.raises(ValueError, match="activation 'relu6' is not supported; .*silu"):
        activation("relu6")


def test_layers_of_a_stack_differ_and_lead_with_their_axis(layers):
    kernel = layers.up.kernel[...]
    assert kernel.shape == (3, 5, 7)
    assert not np.allclose(kernel[0], kernel[1])


def test_scan_is_layer_after_layer(layers):
    x = jax.random.normal(jax.random.key(1), (2, 5))
    scales = jnp.arange(3.0)
    carry, outputs = scan(layers, body, x, scales)
    graphdef, params = nnx.split(layers)
    for number in range(3):
        layer = nnx.merge(graphdef, jax.tree.map(lambda p, n=number: p[n], params))
        x = layer(x)
        np.testing.assert_allclose(outputs[number], x * scales[number], atol=1e-6)
    np.testing.assert_allclose(carry, x, atol=1e-6)


@pytest.mark.parametrize("remat", REMAT_POLICIES)
def test_what_is_recomputed_is_the_same(layers, remat):
    x = jax.random.normal(jax.random.key(1), (2, 5))
    kept = value_and_gradients(layers, x, "none")
    recomputed = value_and_gradients(layers, x, remat)
    for ours, theirs in zip(recomputed, kept, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_policies_keep_less_and_less(layers):
    x = jax.random.normal(jax.random.key(1), (64, 5))
    graphdef, params = nnx.split(layers)

    def kept(remat):
        """Bytes that the forward pass hands to the backward pass."""

        def loss(x):
            carry, _ = scan(nnx.merge(graphdef, params), body, x, remat=remat)
            return carry.sum()

        return sum(leaf.nbytes for leaf in jax.tree.leaves(jax.vjp(loss, x)[1]))

    assert kept("none") > kept("dots") > kept("full")


def test_unknown_policy_is_refused_by_name(layers):
    with pytest.raises(ValueError, match="remat 'some' is not a policy; .*dots, full"):
        scan(layers, body, jnp.ones((2, 5)), remat="some")


def test_a_norm_of_numbers_far_from_zero_is_exact():
    x = 1000.0 + np.linspace(-1, 1, 12, dtype=np.float32)[None]
    norm = layer_norm(12, 1e-3, rngs=nnx.Rngs(0), dtype=jnp.float32)
    theirs = torch.nn.functional.layer_norm(torch.tensor(x), (12,), eps=1e-3).numpy()
    np.testing.assert_allclose(norm(jnp.asarray(x)), theirs, atol=1e-4)


def test_within_a_length_is_not_padding():
    expected = [
        [1, 1, 1, 0],
        [0, 0, 0, 0],
        [1, 1, 1, 1],
        [0, 0, 0, 0],
    ]
    found = within(jnp.array([3, 0, 9, -2]), 4)
    assert found.astype(int).tolist() == expected


def test_new_kernels_are_normal_and_new_biases_zero():
    module = linear(100, 300, bias=True, rngs=nnx.Rngs(0), dtype=jnp.float32)
    assert np.std(module.kernel[...]) == pytest.approx(100**-0.5, rel=0.03)
    assert module.bias is not None
    assert not np.any(module.bias[...])
    module = linear(2, 3, bias=False, rngs=nnx.Rngs(0), dtype=jnp.float32)
    assert module.bias is None
