"""Rotary positions turn pairs, and products depend on distances only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deemo_jax.architecture import RopeScaling
from deemo_jax.models.rope import frequencies, read_rope, rope, rotate, write_rope
from deemo_jax.pretrained import PretrainedError

LINEAR = RopeScaling(
    rope_type="linear",
    factor=4.0,
    low_freq_factor=None,
    high_freq_factor=None,
    original_max_position_embeddings=None,
)
LLAMA3 = RopeScaling(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
LINEAR_FILE = {"rope_type": "linear", "factor": 4}
LLAMA3_FILE = {
    "rope_type": "llama3",
    "factor": 8,
    "low_freq_factor": 1,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def turned(x, position, theta=100.0):
    positions = jnp.full(x.shape[:2], position)
    return rotate(x, *rope(positions, x.shape[-1], theta, None))


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


def test_a_linear_scaling_slows_every_pair():
    plain, slow = frequencies(6, 100.0, None), frequencies(6, 100.0, LINEAR)
    np.testing.assert_allclose(slow, plain / 4, rtol=1e-6)


def test_llama3_keeps_what_turns_often_and_slows_what_turns_rarely():
    plain = np.asarray(frequencies(12, 1e4, None))
    turns = 64 * plain / (2 * np.pi)
    # Turns within the rows of pretraining: often, in between, less than once.
    assert (turns > 4).tolist() == [True, False, False, False, False, False]
    assert (turns < 1).tolist() == [False, False, True, True, True, True]
    expected = np.where(turns > 4, plain, plain / 8)
    share = (turns[1] - 1) / (4 - 1)
    expected[1] = share * plain[1] + (1 - share) * plain[1] / 8
    np.testing.assert_allclose(frequencies(12, 1e4, LLAMA3), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "theta", "scaling"),
    [
        ({},                                                       10_000.0, None),
        ({"rope_theta": 500_000},                                  5e5,      None),
        ({"rope_theta": 5e5, "rope_scaling": None},                5e5,      None),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "default"}}, 5e5,      None),
        ({"rope_parameters": {"rope_theta": 7.0}},                 7.0,      None),
        ({"rope_parameters": {"rope_theta": 7}, "rope_theta": 7},  7.0,      None),
        ({"rope_scaling": {"type": "linear", "factor": 4}},        10_000.0, LINEAR),
        ({"rope_parameters": LINEAR_FILE | {"rope_theta": 7.0}},   7.0,      LINEAR),
        ({"rope_scaling": LLAMA3_FILE, "rope_theta": 5e5},         5e5,      LLAMA3),
        ({"rope_parameters": LLAMA3_FILE | {"rope_theta": 5e5}},   5e5,      LLAMA3),
        (write_rope(7.0, None),                                    7.0,      None),
        (write_rope(7.0, LINEAR),                                  7.0,      LINEAR),
        (write_rope(7.0, LLAMA3),                                  7.0,      LLAMA3),
    ],
)  # fmt: skip
def test_both_are_read_from_older_and_newer_files(values, theta, scaling):
    assert read_rope(values) == (theta, scaling)


def test_pretraining_length_of_llama3_is_the_models_where_it_is_not_stated():
    stated = {k: v for k, v in LLAMA3_FILE.items() if not k.startswith("original")}
    values = {"rope_scaling": stated, "max_position_embeddings": 64}
    assert read_rope(values) == (10_000.0, LLAMA3)


def test_the_first_readers_of_linear_scaling_find_the_two_keys_they_take():
    assert write_rope(7.0, LINEAR)["rope_scaling"] == {"type": "linear", "factor": 4.0}


def without(key):
    return {"rope_scaling": {k: v for k, v in LLAMA3_FILE.items() if k != key}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "'dynamic' in .* not sup"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "'yarn' .*: default, linear, lla"),
        ({"rope_scaling": {"type": "linear"}}, "factor in rope_scaling .* is None; it"),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "factor is 0.5; it must"),
        (
            {"rope_scaling": {"type": "linear", "factor": "2"}},
            "factor in .* is '2';",
        ),
        (without("low_freq_factor"), "low_freq_factor in rope_scaling .* is None"),
        (without("original_max_position_embeddings"), "original_max.* is None; .* int"),
        (
            {"rope_scaling": LLAMA3_FILE | {"high_freq_factor": 1}},
            "low_freq_factor is 1.0 and its high_freq_factor 1.0; .* the high one",
        ),
        (
            {"rope_parameters": LLAMA3_FILE, "rope_scaling": LINEAR_FILE},
            "rope twice, .* in rope_parameters and .* in rope_scaling",
        ),
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
    with pytest.raises(PretrainedError, match=message):
        read_rope(values)
