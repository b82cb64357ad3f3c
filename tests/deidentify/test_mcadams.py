import time

import numpy as np
import pytest
import scipy.signal

from deemo_jax.deidentify.mcadams import ORDER, burg, mcadams

RATE = 16_000


def filtered(poles: np.ndarray, wave: np.ndarray) -> np.ndarray:
    return np.asarray(scipy.signal.lfilter([1.0], poles, wave))


def vowel(formants, pitch=120.0, seconds=1.0, width=60.0) -> np.ndarray:
    """A pulse train through resonances: what a vocal tract does."""
    count = round(seconds * RATE)
    wave = np.zeros(count)
    wave[np.round(np.arange(0, count, RATE / pitch)).astype(int)] = 1.0
    for formant in formants:
        radius = np.exp(-np.pi * width / RATE)
        poles = radius * np.exp(2j * np.pi * formant / RATE)
        wave = filtered(np.poly([poles, poles.conj()]).real, wave)
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


def resonance_near(wave: np.ndarray, frequency: float) -> float:
    """The sharp pole (Hz) nearest to a frequency: the median over many frames."""
    frames = np.lib.stride_tricks.sliding_window_view(wave.astype(float), 640)[
        4000:12000:160
    ]
    found = []
    for coefficients in burg(frames * np.hanning(640), 14):
        poles = np.roots(coefficients)
        poles = poles[(poles.imag > 0) & (np.abs(poles) > 0.9)]
        sharp = np.angle(poles) * RATE / 2 / np.pi
        found.append(sharp[np.abs(sharp - frequency).argmin()])
    return float(np.median(found))


def pitch_of(wave: np.ndarray) -> float:
    wave = wave[4000:12000].astype(float)
    correlation = np.correlate(wave, wave, "full")[len(wave) - 1 :]
    lags = slice(RATE // 300, RATE // 60)
    return RATE / (lags.start + int(correlation[lags].argmax()))


def test_coefficient_one_rebuilds(speech):
    np.testing.assert_allclose(mcadams(speech, 1.0), speech, atol=1e-5)


@pytest.mark.parametrize("coefficient", [0.6, 0.8, 0.9])
@pytest.mark.parametrize("formant", [500.0, 1500.0, 3500.0])
def test_formants_move_as_predicted(formant, coefficient):
    """Below 1 radian (2546 Hz) up, above it down: angle ** coefficient."""
    bent = mcadams(vowel([formant]), coefficient)
    angle = 2 * np.pi * formant / RATE
    expected = angle**coefficient * RATE / 2 / np.pi
    assert resonance_near(vowel([formant]), formant) == pytest.approx(formant, rel=0.04)
    assert resonance_near(bent, expected) == pytest.approx(expected, rel=0.05)
    assert (expected > formant) == (formant < RATE / 2 / np.pi)


@pytest.mark.parametrize("pitch", [90.0, 120.0, 210.0])
def test_pitch_stays(pitch):
    wave = vowel([500.0, 1500.0, 2500.0], pitch)
    assert pitch_of(wave) == pytest.approx(pitch, rel=0.02)
    assert pitch_of(mcadams(wave, 0.7)) == pytest.approx(pitch, rel=0.02)


def test_level_and_its_course_stay(speech):
    bent = mcadams(speech, 0.7)
    level = np.sqrt(np.mean(bent**2) / np.mean(speech**2))
    assert level == pytest.approx(1.0, abs=0.01)
    courses = [np.log(np.square(w).reshape(-1, 1600).mean(1)) for w in (speech, bent)]
    assert np.corrcoef(courses)[0, 1] > 0.8


@pytest.mark.parametrize("length", [0, 1, 2, 159, 160, 161, 319, 320, 321, 4799])
def test_any_length_keeps_it(length, speech):
    bent = mcadams(speech[5000 : 5000 + length], 0.7)
    assert (len(bent), bent.dtype) == (length, np.float32)
    assert np.isfinite(bent).all()
    assert length < 300 or np.abs(bent).max() > 0


@pytest.mark.parametrize(
    "wave",
    [
        np.zeros(5000, np.float32),
        np.ones(5000, np.float32),
        np.eye(1, 5000, 2500, dtype=np.float32)[0],
        np.tile(np.array([1, -1], np.float32), 2500),
        np.sin(np.arange(5000) / 5).astype(np.float32),
    ],
    ids=["silence", "constant", "click", "fastest", "sine"],
)
def test_odd_signals_stay_finite_and_unclipped(wave):
    for coefficient in (0.5, 0.9):
        bent = mcadams(wave, coefficient)
        assert np.isfinite(bent).all()
        assert np.abs(bent).max() <= 1.0
    assert wave.any() or not np.abs(bent).max() > 1e-6


def test_long_signals_are_treated_as_short_ones(speech, monkeypatch):
    whole = mcadams(speech, 0.7)
    monkeypatch.setattr("deemo_jax.deidentify.mcadams.CHUNK", 37)
    np.testing.assert_allclose(mcadams(speech, 0.7), whole, atol=1e-6)


def test_burg_finds_the_process_and_is_stable():
    rng = np.random.default_rng(0)
    truth = np.poly([0.9 * np.exp(0.7j), 0.9 * np.exp(-0.7j), -0.5]).real
    process = filtered(truth, rng.normal(size=(2, 4000)))
    np.testing.assert_allclose(burg(process, 3), np.tile(truth, (2, 1)), atol=0.05)
    for coefficients in burg(rng.normal(size=(20, 320)), ORDER):
        assert np.abs(np.roots(coefficients)).max() <= 1.0


def test_fast_enough(speech):
    begin = time.process_time()
    mcadams(speech, 0.7)
    assert time.process_time() - begin < len(speech) / RATE  # measured: 75 times less
