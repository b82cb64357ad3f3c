import io
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from deemo_jax.data import audio


def test_what_is_stored_is_decoded(flac):
    rng = np.random.default_rng(0)
    sound = audio.decode(flac(rng))
    expected = np.random.default_rng(0).uniform(-0.5, 0.5, 8000)
    np.testing.assert_allclose(sound, expected, atol=2**-15)
    assert sound.dtype == np.float32
    assert audio.count_samples(flac(rng, 321)) == 321


KNOWN = """
import gc, {module}, soundfile
# What cffi has found out of a library, the object that stands for it refers to.
[known] = [d for d in gc.get_referents(soundfile._snd) if isinstance(d, dict)]
print(*known)
"""


def test_functions_are_found_out_before_several_threads_call_them():
    def known(module):
        script = KNOWN.format(module=module)
        return set(subprocess.check_output([sys.executable, "-c", script]).split())

    wanted = {b"sf_open_virtual", b"sf_readf_float", b"sf_close"}
    assert not wanted & known("io")
    assert wanted <= known("deemo_jax.data.audio")


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (16_000, 2)])
def test_another_rate_or_stereo_is_refused(rate, channels):
    file = io.BytesIO()
    soundfile.write(file, np.zeros((100, channels)), rate, format="FLAC")
    with pytest.raises(ValueError, match=f"{rate} Hz with {channels} channels"):
        audio.decode(file.getvalue())


@pytest.mark.parametrize(
    ("available", "wanted", "expected", "length"),
    [
        (6, 3, [2, 3, 4], 3),
        (7, 3, [3, 4, 5], 3),
        (3, 3, [1, 2, 3], 3),
        (2, 3, [1, 2, 0], 2),
        (0, 3, [0, 0, 0], 0),
    ],
)
def test_the_middle_is_kept_and_the_end_is_padded(available, wanted, expected, length):
    sound = np.arange(1, available + 1, dtype=np.float32)
    samples, kept = audio.fit(sound, wanted)
    assert samples.tolist() == expected
    assert kept == length


def test_augmentation_moves_the_sound_and_adds_little_noise():
    rng = np.random.default_rng(1)
    sound = rng.standard_normal(8000, dtype=np.float32)
    shifts = set()
    for _ in range(20):
        varied = audio.augment(sound, rng)
        products = np.fft.irfft(
            np.fft.rfft(varied, 16_384) * np.conj(np.fft.rfft(sound, 16_384))
        )
        shift = (int(products.argmax()) + 8192) % 16_384 - 8192
        assert abs(shift) <= 1600
        shifts.add(shift)
        kept = slice(max(0, shift), 8000 + min(0, shift))
        noise = varied[kept] - sound[kept.start - shift : kept.stop - shift]
        decibels = -10 * np.log10(np.mean(noise**2) / np.mean(sound**2))
        assert 19.5 < decibels < 40.5
    assert min(shifts) < 0 < max(shifts)


def test_augmentation_is_a_function_of_its_generator():
    sound = np.linspace(-1, 1, 500, dtype=np.float32)
    before = sound.copy()
    one, two, other = (
        audio.augment(sound, np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()
    np.testing.assert_array_equal(sound, before)
    assert one.dtype == np.float32


@pytest.mark.parametrize("length", [0, 1, 10])
def test_short_sounds_are_augmented_too(length):
    sound = np.ones(length, np.float32)
    varied = audio.augment(sound, np.random.default_rng(0))
    assert varied.shape == sound.shape
    assert np.isfinite(varied).all()
