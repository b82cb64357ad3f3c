"""The synthesised voices: pitch and loudness move as graded, from the subject's."""

import numpy as np
import pytest

from deemo_jax.architecture import SAMPLE_RATE
from deemo_jax.data.synthetic_voice import (
    GLIDE,
    QUIETER,
    SWELL,
    draw_speaker,
    speak,
)


def utterance(subject, grade, seed=0):
    speaker = draw_speaker(np.random.default_rng(subject))
    return speaker, speak(speaker, grade, 3.0, np.random.default_rng(seed))


def loudness(waveform, start, end):
    part = waveform[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    return 10 * np.log10(np.mean(part**2))


def pitch(waveform, start, end):
    """By the first peak of the autocorrelation that is nearly the highest, Hz."""
    part = waveform[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    spectrum = np.fft.rfft(part, 2 * len(part))
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[: len(part)]
    lags = np.arange(SAMPLE_RATE // 500, SAMPLE_RATE // 50)
    peaks = [
        lag
        for lag in lags
        if correlation[lag] == correlation[lag - 8 : lag + 9].max()
        and correlation[lag] > 0.85 * correlation[lags].max()
    ]
    return SAMPLE_RATE / peaks[0]


@pytest.mark.parametrize("subject", range(6))
@pytest.mark.parametrize("grade", GLIDE)
def test_the_voice_moves_as_graded(subject, grade):
    """Between a fifth and four fifths of the utterance: 0.6 of the whole movement."""
    _, waveform = utterance(subject, grade)
    early, late = (0.5, 1.0), (2.0, 2.5)
    share = 1.5 / 2.6
    swell = loudness(waveform, *late) - loudness(waveform, *early)
    assert abs(swell - share * SWELL[grade]) < 4.5
    short = [(start + 0.2, start + 0.3) for start, _ in (early, late)]
    glide = 12 * np.log2(pitch(waveform, *short[1]) / pitch(waveform, *short[0]))
    assert abs(glide - share * GLIDE[grade]) < 2.5


@pytest.mark.parametrize("subject", range(4))
def test_the_middle_is_the_subjects_own_pitch_and_level(subject):
    for grade in GLIDE:
        speaker, waveform = utterance(subject, grade, seed=1)
        found = pitch(waveform, 1.45, 1.55)
        assert abs(12 * np.log2(found / speaker.pitch)) < 3
        assert abs(loudness(waveform, 0, 3) - speaker.level) < 0.5


def test_subjects_differ_more_in_pitch_than_a_slight_glide():
    heights = [draw_speaker(np.random.default_rng(i)).pitch for i in range(40)]
    assert 12 * np.log2(max(heights) / min(heights)) > 2 * GLIDE[1]


def test_it_is_sound_between_two_pauses_of_room_noise():
    for subject in range(4):
        speaker, waveform = utterance(subject, 3)
        assert waveform.dtype == np.float32
        assert waveform.shape == (3 * SAMPLE_RATE,)
        assert np.abs(waveform).max() < 1
        for quiet in ((0, 0.05), (2.95, 3.0)):
            below = speaker.level - loudness(waveform, *quiet)
            assert QUIETER[0] - 1 < below < QUIETER[1] + 1


def test_harmonics_reach_every_part_of_the_band():
    _, waveform = utterance(0, 1)
    power = np.abs(np.fft.rfft(waveform)) ** 2
    bands = [part.mean() for part in np.array_split(power, 8)]
    assert 10 * np.log10(min(bands) / max(bands)) > -60


def test_a_voice_is_a_pure_function_of_the_seed():
    assert np.array_equal(utterance(0, -1)[1], utterance(0, -1)[1])
    assert not np.array_equal(utterance(0, -1)[1], utterance(0, -1, seed=1)[1])
