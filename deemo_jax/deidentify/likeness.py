"""How like a clip's voice is to its original's, to the verifier of speakers."""

from collections.abc import Iterator
import functools
import itertools
from pathlib import Path

from jaxtyping import Float
import numpy as np

from deemo_jax.deidentify.speakers import SHORTEST, SpeakerVerifier
from deemo_jax.deidentify.transcript import speech_in
from deemo_jax.media import read_audio

LONGEST = 30.0  # seconds that are compared; bounds memory


def voice_likeness(
    media: Path, start: float, end: float | None, audio: Path
) -> float | None:
    """Cosine between the embeddings of the original's voice and of the clip's, to 0.01.

    Of what is spoken in the first half minute that holds half a second of speech and
    more; None if there is none: noise is like itself, whoever made it.

    Args:
        media: the original.
        start: seconds of `media` that the clip begins at.
        end: and ends at.
        audio: the clip's sound.

    Raises:
        Refusal: one of the two cannot be read.
        ValueError: the verifier is not installed.
    """
    for first, before in _pieces(media, start, end):
        spoken = speech_in(before)
        if sum(span.stop - span.start for span in spoken) < SHORTEST:
            continue
        after = read_audio(audio, first, first + LONGEST)
        if after is None:
            return None
        one, other = (
            _verifier()(np.concatenate([waveform[span] for span in spoken]))
            for waveform in (before, after)
        )
        # Of a finer figure, who has the original could tell what was drawn.
        return round(float(one @ other), 2)
    return None


def _pieces(
    media: Path, start: float, end: float | None
) -> Iterator[tuple[float, Float[np.ndarray, " N"]]]:
    """Half minutes of the original, each with the second of the clip it begins at."""
    for first in itertools.count(0.0, LONGEST):
        begin = start + first
        last = begin + LONGEST if end is None else min(end, begin + LONGEST)
        piece = read_audio(media, begin, last) if last > begin else None
        if piece is None:
            return
        yield first, piece


@functools.cache
def _verifier() -> SpeakerVerifier:
    """One for all clips of a process: reading the network takes a while."""
    return SpeakerVerifier()
