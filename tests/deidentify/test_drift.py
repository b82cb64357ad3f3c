"""Another voice says the same: words, melody and loudness stay, who speaks does not."""

import dataclasses

import numpy as np
import pytest

from deemo_jax.deidentify.drift import draw, drift
from deemo_jax.deidentify.transcript import transcribe, word_errors
from deemo_jax.deidentify.vocoder import put_together, take_apart


def drawn(wave: np.ndarray, seed: int = 0) -> np.ndarray:
    return drift(wave, np.random.default_rng(seed))


def test_it_depends_on_the_generator_alone(speech):
    piece = speech[:16_000]
    first = drawn(piece)
    np.random.seed(1)
    np.testing.assert_array_equal(first, drawn(piece))
    assert np.corrcoef(first, drawn(piece, 1))[0, 1] < 0.5


def test_pieces_of_an_utterance_have_one_voice(speech):
    """What comes and goes within it is drawn anew for each."""
    rng = np.random.default_rng(0)
    voice = draw(rng)
    pieces = [drift(speech, rng, voice) for _ in range(3)]
    others = [drift(speech, rng) for _ in range(6)]
    assert not np.allclose(pieces[0], pieces[1])

    def centres(waves):
        pitches = (take_apart(wave).pitch for wave in waves)
        return [np.log(np.median(pitch[pitch > 0])) for pitch in pitches]

    assert np.std(centres(pieces)) < 0.05 < np.std(centres(others))


def test_level_stays_and_nothing_clips(speech):
    for wave in (speech, 0.01 * speech):
        voice = drawn(wave)
        level = np.sqrt(np.mean(voice**2) / np.mean(wave**2))
        assert level == pytest.approx(1.0, abs=0.01)
    assert np.abs(drawn(speech / np.abs(speech).max())).max() <= 1.0


def test_melody_and_loudness_keep_their_course(speech):
    before, after = take_apart(speech), take_apart(drawn(speech))
    voiced = (before.pitch > 0) & (after.pitch > 0)
    assert voiced.sum() > 0.7 * (before.pitch > 0).sum()
    melodies = [np.log(parts.pitch[voiced]) for parts in (before, after)]
    # A frame whose octave is mistaken is no change of melody.
    near = np.abs(np.subtract(*(m - np.median(m) for m in melodies))) < 0.5
    assert near.mean() > 0.9
    assert np.corrcoef([m[near] for m in melodies])[0, 1] > 0.8
    assert np.corrcoef(before.power[voiced], after.power[voiced])[0, 1] > 0.8


def test_pitch_no_longer_tells_high_voices_from_low_ones(speech):
    """One draw moves a voice, and the same voice half an octave up, to one centre."""
    parts = take_apart(speech)
    centres = []
    for factor in (1.0, 1.4):
        other = dataclasses.replace(parts, pitch=factor * parts.pitch)
        pitch = take_apart(drawn(put_together(other, speech))).pitch
        centres.append(np.median(pitch[pitch > 0]))
    assert centres[0] == pytest.approx(centres[1], rel=0.1)


def test_words_are_still_understood(speech):
    said = transcribe(speech)
    errors, words = np.sum(
        [word_errors(said, transcribe(drawn(speech, seed))) for seed in range(3)],
        axis=0,
    )
    assert errors < 0.6 * words


@pytest.mark.parametrize("length", [0, 1, 2, 79, 80, 81, 161, 4799])
def test_any_length_keeps_it(length, speech):
    voice = drawn(speech[5000 : 5000 + length])
    assert (len(voice), voice.dtype) == (length, np.float32)
    assert np.isfinite(voice).all()


@pytest.mark.parametrize(
    "wave",
    [
        np.zeros(5000, np.float32),
        np.ones(5000, np.float32),
        np.eye(1, 5000, 2500, dtype=np.float32)[0],
        np.tile(np.array([1, -1], np.float32), 2500),
        np.sin(np.arange(5000) / 5).astype(np.float32),
        np.random.default_rng(0).normal(0, 0.3, 5000).astype(np.float32),
    ],
    ids=["silence", "constant", "click", "fastest", "sine", "noise"],
)
def test_odd_signals_stay_finite_and_unclipped(wave):
    voice = drawn(wave)
    assert np.isfinite(voice).all()
    assert np.abs(voice).max() <= 1.0
    assert wave.any() or not np.abs(voice).max() > 1e-6


def test_colour_of_the_recording_is_gone(speech):
    """A filter that all of it went through, as a microphone is, leaves no trace."""
    filtered = np.convolve(speech, [1.0, -0.7], "same").astype(np.float32)
    before = [take_apart(wave) for wave in (speech, filtered)]
    after = [take_apart(drawn(wave)) for wave in (speech, filtered)]
    apart = []
    for one, other in (before, after):
        voiced = one.pitch > 0
        shapes = [
            (parts.bands - parts.bands.mean(axis=1, keepdims=True))[voiced].mean(axis=0)
            for parts in (one, other)
        ]
        apart.append(np.abs(np.subtract(*shapes)).mean())
    assert apart[1] < 0.5 * apart[0]
