"""Rotary positions turn pairs, and products depend on distances only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deemo_jax.models.rope import read_theta, rope, rotate


def turned(x, position, theta=100.0):
    positions = jnp.full(x.shape[:2], position)
    return rotate(x, *rope(positions, x.shape[-1], theta))


def draw():
    return jax.random.normal(jax.random.key(0), (2, 3, 2, 6))


def test_each_pair_turns_by_its_frequency():
    x = np.asarray(draw())
    pairs = x[..., :3] + 1j * x[..., 3:]
    expected = pairs * np.exp(1j * 5 * 100.0 ** (-np.arange(3) / 3))
    ours = np.asarray(turned(draw(), 5))
    np.testing.assert_allclose(ours[..., :3] + 1j * ours[..., 3:], expected, atol=1e-5)


def test_products_depend_on_the_distance_only():
    q, k = draw(), draw()[::-1]
    for shift in (0, 3, 1000):
        product = (turned(q, 7 + shift) * turned(k, 2 + shift)).sum(-1)
        np.testing.assert_allclose(
            product, (turned(q, 5) * turned(k, 0)).sum(-1), atol=2e-3
        )


def test_position_zero_stays():
    np.testing.assert_array_equal(turned(draw(), 0), draw())


@pytest.mark.parametrize(
    ("values", "theta"),
    [
        ({}, 10_000.0),
        ({"rope_theta": 500_000}, 500_000.0),
        ({"rope_theta": 5e5, "rope_scaling": None}, 5e5),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "default"}}, 5e5),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, 7.0),
        ({"rope_parameters": {"rope_theta": 7.0}, "rope_theta": 7.0}, 7.0),
    ],
)
def test_the_base_is_read_from_older_and_newer_files(values, theta):
    assert read_theta(values) == theta


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope type 'linear' .* no"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "'llama3' in .* not supported"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "'yarn' .*; supported: default"),
        (
            {"rope_parameters": {"rope_theta": 7.0, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor 0.5 in config.json is not supported",
        ),
        (
            {"rope_parameters": {"rope_theta": 7.0}, "rope_theta": 8.0},
            "rope_theta twice, 7.0 in rope_parameters and 8.0 beside it",
        ),
        ({"rope_theta": "big"}, "rope_theta in config.json is 'big'; it must be a num"),
        ({"rope_parameters": [1]}, r"rope_parameters in config.json is \[1\]; it must"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        read_theta(values)
