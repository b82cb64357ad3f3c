import numpy as np
import pytest

from deemo_jax.deidentify import likeness
from deemo_jax.deidentify.likeness import voice_likeness
from deemo_jax.deidentify.settings import Audit, Voice
from deemo_jax.deidentify.transcript import Word
from deemo_jax.deidentify.voice import another_voice, silent
from deemo_jax.media import write_audio


@pytest.fixture
def liken(tmp_path):
    """The likeness of two waveforms, the one from a second of its file on."""

    def found(before, after, end=None):
        lead = np.zeros(16_000, np.float32)
        write_audio(tmp_path / "raw.flac", np.concatenate([lead, before]))
        write_audio(tmp_path / "clip.flac", after)
        raw, clip = tmp_path / "raw.flac", tmp_path / "clip.flac"
        likeness = voice_likeness(raw, 1.0, end, clip)
        loud = np.abs(before[: end and round((end - 1) * 16_000)]).max() > 1e-4
        assert likeness.audible == loud
        return likeness.cosine

    return found


def test_a_voice_as_it_was_is_recognised(liken, speech):
    assert liken(speech, speech) > 0.99
    assert liken(speech, 0.5 * speech) > 0.9


def test_a_changed_voice_is_not(liken, speech):
    found = [liken(speech, another_voice(Voice())(speech)) for _ in range(3)]
    assert max(found) < Audit().voice


@pytest.mark.parametrize("level", [0.3, 0.01, 0.003])
def test_a_low_voice_is_recognised_too(liken, speech, level):
    """As the detector of speech would not hear it where it is so low."""
    assert liken(level * speech, level * speech) > 0.9


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_voice_that_is_silenced_in_places_is_recognised_in_the_others(
    liken, speech, share
):
    """As one that names somebody is; of zeros the verifier knows nobody."""
    words = [Word("Sheila", k + 0.1, k + 0.1 + 0.9 * share) for k in range(4)]
    both = np.concatenate([speech, speech])
    words += [word._replace(start=word.start + 4, end=word.end + 4) for word in words]
    assert liken(both, silent(both, words, 0.0)) > 0.99
    assert liken(both, 0 * both) is None


def test_half_a_second_is_enough_and_less_is_none(liken, speech):
    assert liken(speech[:16_000], speech[:16_000]) > 0.9
    assert liken(speech[:7_000], speech[:7_000]) is None


def test_noise_and_silence_are_no_voice(liken):
    rng = np.random.default_rng(0)
    for level in (0.0, 1e-4, 0.1):
        noise = rng.normal(0, level, 48_000).astype(np.float32)
        assert liken(noise, noise) is None


def test_what_speaks_counts_and_not_the_noise_around(liken, speech):
    noise = np.random.default_rng(0).normal(0, 0.02, 160_000).astype(np.float32)
    changed = np.concatenate([noise, another_voice(Voice())(speech)])
    assert liken(np.concatenate([noise, speech]), changed) < Audit().voice


def test_who_speaks_late_is_compared_where_he_speaks(liken, speech, monkeypatch):
    monkeypatch.setattr(likeness, "LONGEST", 3.0)
    late = np.concatenate([np.zeros(48_000, np.float32), speech])
    assert liken(late, late) > 0.99
    assert liken(late, np.concatenate([speech, speech])) < 0.99
    assert liken(late, late, end=3.0) is None


def test_who_speaks_after_another_is_compared_too(liken, speech, monkeypatch):
    """The one who asks is hidden, the one who answers is not."""
    monkeypatch.setattr(likeness, "LONGEST", len(speech) / 16_000)
    hidden = another_voice(Voice())(speech)
    both = np.concatenate([speech, speech])
    assert liken(both, np.concatenate([hidden, hidden])) < Audit().voice
    assert liken(both, np.concatenate([hidden, speech])) > 0.99


def test_a_clip_without_a_track_has_no_likeness(liken, speech, tmp_path, carphone):
    write_audio(tmp_path / "raw.flac", speech)
    found = voice_likeness(tmp_path / "raw.flac", 0.0, None, carphone)
    assert found == (None, False)
