import dataclasses
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deemo_jax.architecture import HubertConfig
from deemo_jax.models.hubert_features import (
    HubertFeatures,
    HubertPositions,
    HubertProjection,
    frames,
    normalise,
    receptive_field,
)
from tests.small import HUBERT, drawn

CONFIG = dataclasses.replace(
    HUBERT, conv_dim=(5, 7, 9), conv_stride=(5, 2, 3), conv_kernel=(10, 3, 4)
)
GROUP = dataclasses.replace(CONFIG, feat_extract_norm="group", conv_bias=False)
BASE = dataclasses.replace(
    CONFIG,
    conv_dim=(512,) * 7,
    conv_stride=(5, 2, 2, 2, 2, 2, 2),
    conv_kernel=(10, 3, 3, 3, 3, 2, 2),
)


def noise(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def made(cls, config: HubertConfig):
    return drawn(lambda: cls(config, rngs=nnx.Rngs(0), dtype=jnp.float32))


@functools.cache
def features(config: HubertConfig) -> HubertFeatures:
    return made(HubertFeatures, config)


@pytest.mark.parametrize(
    ("samples", "count"),
    [(0, -1), (399, 0), (400, 1), (719, 1), (720, 2), (16_000, 49), (480_000, 1499)],
)
def test_a_published_models_frames(samples, count):
    assert frames(BASE, samples) == count
    assert frames(BASE, jnp.array([samples])).tolist() == [count]
    assert receptive_field(BASE) == 400


@pytest.mark.parametrize("samples", [50, 51, 79, 80, 81, 200])
def test_frames_are_counted_as_they_are_made(samples):
    assert receptive_field(CONFIG) == 50
    shape = jax.eval_shape(features(CONFIG), jnp.zeros((2, samples))).shape
    assert shape == (2, frames(CONFIG, samples), 9)


def test_a_waveform_too_short_for_a_frame_is_refused():
    with pytest.raises(ValueError, match="49 samples is too short .* hear 50; pad it"):
        features(CONFIG)(jnp.zeros((1, 49)))


def test_a_frame_hears_its_samples_and_no_others():
    waveform = noise(1, 120)
    convolve = features(CONFIG)
    gradients = jax.jit(jax.jacrev(lambda x: (convolve(x)[0] ** 3).sum(axis=1)))
    for frame, gradient in enumerate(gradients(waveform)):
        heard = np.flatnonzero(np.abs(gradient[0]) > 0)
        assert (heard.min(), heard.max()) == (30 * frame, 30 * frame + 49)


def test_norm_over_time_takes_loudness_and_offset_away():
    waveform = noise(2, 200)
    changed = 3.0 * waveform + 0.5
    group, layer = jax.jit(features(GROUP)), jax.jit(features(CONFIG))
    np.testing.assert_allclose(group(changed), group(waveform), atol=1e-3)
    assert np.abs(layer(changed) - layer(waveform)).max() > 0.01


def test_only_the_first_convolution_has_a_norm_over_time():
    norms = [layer.layer_norm for layer in features(GROUP).conv_layers]
    assert [type(norm) for norm in norms] == [nnx.GroupNorm, type(None), type(None)]
    norms = [layer.layer_norm for layer in features(CONFIG).conv_layers]
    assert [type(norm) for norm in norms] == [nnx.LayerNorm] * 3


def test_the_projection_has_a_norm_when_asked_for():
    x = noise(2, 4, 9)
    for normed in (True, False):
        config = dataclasses.replace(CONFIG, feat_proj_layer_norm=normed)
        project = made(HubertProjection, config)
        same = np.allclose(project(50 * x), project(5 * x), atol=1e-3)
        assert same == normed


def test_normalised_rows_have_mean_zero_and_variance_one():
    waveform = 0.01 * noise(3, 400) + 0.3
    mask = jnp.arange(400)[None] < jnp.array([400, 150, 0])[:, None]
    found = jax.jit(normalise)(waveform, mask)
    for row, length in enumerate((400, 150)):
        np.testing.assert_allclose(found[row, :length].mean(), 0.0, atol=1e-4)
        np.testing.assert_allclose(found[row, :length].std(), 1.0, atol=1e-2)
        assert not np.any(found[row, length:])
    assert not np.any(found[2])
    padded = jax.jit(normalise)(jnp.where(mask, waveform, 9.0), mask)
    np.testing.assert_array_equal(padded, found)


@pytest.mark.parametrize(("taps", "before", "after"), [(6, 3, 2), (7, 3, 3), (1, 0, 0)])
def test_places_come_of_neighbours(taps, before, after):
    config = dataclasses.replace(CONFIG, num_conv_pos_embeddings=taps)
    places = made(HubertPositions, config)
    x = noise(1, 20, 12)
    assert places(x).shape == x.shape
    gradient = jax.jit(jax.grad(lambda x: (places(x)[0, 10] ** 3).sum()))(x)
    seen = np.flatnonzero(np.abs(gradient[0]).max(axis=1) > 0)
    assert (seen.min(), seen.max()) == (10 - before, 10 + after)


def test_channels_of_a_place_come_of_their_group():
    places = made(HubertPositions, CONFIG)
    gradient = jax.grad(lambda x: (places(x)[..., 4] ** 3).sum())(noise(1, 20, 12))
    seen = np.flatnonzero(np.abs(gradient[0]).max(axis=0) > 0)
    assert seen.tolist() == [3, 4, 5]  # 12 channels in 4 groups


def test_a_gain_is_the_length_of_its_tap():
    places = HubertPositions(CONFIG, rngs=nnx.Rngs(0), dtype=jnp.float32)
    lengths = np.linalg.norm(np.asarray(places.kernel[...]), axis=(1, 2))
    np.testing.assert_allclose(places.gain[...][:, 0, 0], lengths, rtol=1e-5)
    x = noise(1, 20, 12)
    before = places(x)
    places.kernel[...] = 5.0 * places.kernel[...]
    np.testing.assert_allclose(places(x), before, atol=1e-6)
    places.gain[...] = 0.0 * places.gain[...]
    np.testing.assert_array_equal(places(x), 0.0)
