"""How like a clip's voice is to its original's, to the verifier of speakers."""

import functools
import math
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
import numpy as np
import soundfile

from deemo_jax.deidentify.speakers import SHORTEST, SpeakerVerifier
from deemo_jax.deidentify.transcript import speech_in
from deemo_jax.deidentify.voice import audible
from deemo_jax.media import read_audio

LONGEST = 30.0  # seconds that are compared at once; bounds memory
PARTS = 3  # of a clip, in each of which some are; others may speak in its beginning
SILENCE = 1e-4  # of full scale: three steps of 16 bits; a voice can be told at ten
LEVEL = 0.25  # that all but one in a hundred samples are below, where speech is sought


class Likeness(NamedTuple):
    """Of two voices: a cosine, if there is speech, and whether there is any sound."""

    cosine: float | None
    audible: bool


def voice_likeness(
    media: Path, start: float, end: float | None, audio: Path
) -> Likeness:
    """Cosine between the embeddings of the original's voice and of the clip's, to 0.01.

    Of each third of the clip, the first half minute that holds half a second of speech
    and more, however low, is compared; the greatest cosine counts. None if there is
    none: noise is like itself, whoever made it. What is silent in the clip is left out
    of both.

    Args:
        media: the original.
        start: seconds of `media` that the clip begins at.
        end: and ends at.
        audio: the clip's sound.

    Raises:
        Refusal: one of the two cannot be read.
        ValueError: the verifier is not installed.
    """
    length = _seconds(audio) if end is None else min(_seconds(audio), end - start)
    pieces = np.arange(math.ceil(length / LONGEST)) * LONGEST
    found, sounds = [], False
    for part in np.array_split(pieces, PARTS):
        for first in map(float, part):
            last = min(first + LONGEST, length)
            before = read_audio(media, start + first, start + last)
            after = read_audio(audio, first, last)
            if before is None or after is None or np.abs(before).max() < SILENCE:
                continue
            sounds = True
            cosine = _compared(before, after)
            if cosine is not None:
                found.append(cosine)
                break
    # Of a finer figure, who has the original could tell what was drawn.
    return Likeness(round(float(np.max(found)), 2) if found else None, sounds)


def _compared(
    before: Float[np.ndarray, " N"], after: Float[np.ndarray, " _"]
) -> float | None:
    """The cosine of what is spoken in the same seconds; None without half a one."""
    length = min(len(before), len(after))
    kept = audible(after[:length])
    before, after = before[:length][kept], after[:length][kept]
    if not len(before):
        return None
    loud = float(np.quantile(np.abs(before), 0.99))
    spoken = speech_in(np.clip(before * LEVEL / max(loud, SILENCE), -1, 1))
    if sum(span.stop - span.start for span in spoken) < SHORTEST:
        return None
    one, other = (
        _verifier()(np.concatenate([waveform[span] for span in spoken]))
        for waveform in (before, after)
    )
    return float(one @ other)


def _seconds(audio: Path) -> float:
    """The length of the clip's sound; 0 of a file that is none."""
    try:
        return soundfile.info(audio).duration
    except soundfile.LibsndfileError:
        return 0.0


@functools.cache
def _verifier() -> SpeakerVerifier:
    """One for all clips of a process: reading the network takes a while."""
    return SpeakerVerifier()
