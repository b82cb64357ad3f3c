import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deemo_jax.architecture import SAMPLE_RATE, WhisperEncoderConfig
from deemo_jax.models.whisper import WhisperEncoder, log_mel, mel_filters, sinusoids
from tests.small import drawn

CONFIG = WhisperEncoderConfig(
    d_model=12,
    encoder_layers=3,
    encoder_attention_heads=3,
    encoder_ffn_dim=20,
    num_mel_bins=7,
    max_source_positions=25,
    activation_function="gelu",
)
LARGE_V3 = WhisperEncoderConfig(
    d_model=1280,
    encoder_layers=32,
    encoder_attention_heads=20,
    encoder_ffn_dim=5120,
    num_mel_bins=128,
    max_source_positions=1500,
    activation_function="gelu",
)


# Compiled whole: operation by operation takes several times as long.
mel = jax.jit(log_mel, static_argnums=1)
run = nnx.jit(lambda encoder, heard: encoder(heard))
hear = nnx.jit(lambda encoder, waveform, length: encoder.hear(waveform, length))


def noise(rows: int, samples: int, seed: int = 0) -> jax.Array:
    return 0.1 * jax.random.normal(jax.random.key(seed), (rows, samples))


@pytest.mark.parametrize("samples", [201, 320, 401, 4000, 4079, 4081])
def test_a_mel_frame_every_ten_milliseconds(samples):
    assert mel(noise(2, samples), 5).shape == (2, samples // 160, 5)


def test_a_tone_stands_out_in_the_bin_of_its_frequency():
    time = np.arange(8000) / SAMPLE_RATE
    peaks = np.argmax(mel_filters(40), axis=0) * SAMPLE_RATE / 400
    for hertz in (300, 1000, 3000):
        tone = jnp.asarray(np.sin(2 * np.pi * hertz * time), jnp.float32)
        loudest = int(mel(tone[None], 40)[0, 25].argmax())
        assert abs(peaks[loudest] - hertz) <= max(50, 0.06 * hertz)


def test_rows_and_far_frames_are_independent():
    waveform = noise(3, 4000)
    together = mel(waveform, 8)
    alone = mel(waveform[1:2], 8)
    np.testing.assert_allclose(together[1:2], alone, atol=1e-6)
    # Silence after the end changes only frames whose window reaches into it.
    padded = mel(jnp.pad(waveform, ((0, 0), (0, 1600))), 8)
    np.testing.assert_allclose(padded[:, :23], together[:, :23], atol=1e-6)


def test_ten_times_as_loud_is_half_a_unit_more():
    soft = mel(noise(1, 3200), 6)
    np.testing.assert_allclose(mel(10 * noise(1, 3200), 6), soft + 0.5, atol=1e-5)


def test_silence_is_finite_and_flat():
    assert np.unique(mel(jnp.zeros((2, 3200)), 6)) == [-1.5]


def test_a_waveform_too_short_to_mirror_is_refused():
    with pytest.raises(ValueError, match=r"200 samples is too short.*201"):
        mel(noise(1, 200), 6)


def make(**options):
    return drawn(lambda: WhisperEncoder(CONFIG, rngs=nnx.Rngs(0), **options))


@pytest.mark.parametrize(("frames", "length"), [(1, 1), (13, 7), (14, 7), (50, 25)])
def test_the_encoder_halves_the_frames(frames, length):
    encoder = make()
    assert run(encoder, jnp.ones((2, frames, 7))).shape == (2, length, 12)


def test_an_input_longer_than_the_positions_is_refused():
    encoder = make()
    with pytest.raises(ValueError, match=r"51 mel frames \(0.51 s\).*positions 25"):
        encoder(jnp.ones((2, 51, 7)))


def test_what_is_beyond_the_length_is_silence():
    encoder = make()
    waveform, length = noise(3, 4800), jnp.array([4800, 3201, 0])
    features, heard = hear(encoder, waveform, length)
    assert features.shape == (3, 15, 12)
    assert heard.sum(axis=1).tolist() == [15, 11, 0]  # a feature every 320 samples
    assert heard[1].tolist() == [True] * 11 + [False] * 4
    loud = jnp.where(jnp.arange(4800)[None] < length[:, None], waveform, 7.0)
    np.testing.assert_array_equal(hear(encoder, loud, length)[0], features)
    silent = run(encoder, mel(jnp.zeros((1, 4800)), 7))
    np.testing.assert_allclose(features[2], silent[0], atol=1e-6)


def test_positions_are_sines_and_cosines_of_falling_rate():
    table = np.asarray(sinusoids(9, 8))
    angle = np.arange(9)
    np.testing.assert_allclose(table[:, 0], np.sin(angle), atol=1e-6)
    np.testing.assert_allclose(table[:, 4], np.cos(angle), atol=1e-6)
    np.testing.assert_allclose(table[:, 7], np.cos(angle / 10_000), atol=1e-6)
    np.testing.assert_allclose(table[:, :4] ** 2 + table[:, 4:] ** 2, 1.0, atol=1e-6)
    with pytest.raises(ValueError, match="even width of at least 4, not 7"):
        sinusoids(9, 7)


def test_every_parameter_receives_a_gradient():
    encoder = make()
    heard = jax.random.normal(jax.random.key(1), (2, 21, 7))
    weights = jax.random.normal(jax.random.key(2), (2, 11, 12))
    gradients = nnx.jit(nnx.grad(lambda encoder: (encoder(heard) * weights).sum()))(
        encoder
    )
    for path, gradient in nnx.to_flat_state(gradients):
        assert np.abs(gradient[...]).max() > 0, path


def test_rematerialisation_changes_memory_not_values():
    heard = jax.random.normal(jax.random.key(1), (2, 21, 7))

    def gradients(remat):
        encoder = make(remat=remat)
        return nnx.jit(nnx.grad(lambda encoder: (encoder(heard) ** 3).sum()))(encoder)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        gradients("full"),
        gradients("none"),
    )


def test_half_precision_computes_in_it_and_stays_near():
    heard = jax.random.normal(jax.random.key(1), (2, 20, 7))
    full = run(make(), heard)
    half = run(make(dtype=jnp.bfloat16), heard)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), full, atol=0.1)


def test_a_width_that_the_heads_do_not_divide_is_refused():
    config = dataclasses.replace(CONFIG, encoder_attention_heads=5)
    with pytest.raises(ValueError, match="12 does not divide into 5 attention heads"):
        WhisperEncoder(config, rngs=nnx.Rngs(0))


def test_large_v3_has_the_right_shapes_without_memory():
    encoder = nnx.eval_shape(lambda: WhisperEncoder(LARGE_V3, rngs=nnx.Rngs(0)))
    count = sum(p.size for p in jax.tree.leaves(nnx.state(encoder)))
    assert count == 636_968_960  # openai/whisper-large-v3's encoder
    graphdef, params = nnx.split(encoder)
    features = jax.eval_shape(
        lambda params, mel: nnx.merge(graphdef, params)(mel),
        params,
        jax.ShapeDtypeStruct((1, 3000, 128), jnp.float32),
    )
    assert features.shape == (1, 1500, 1280)
