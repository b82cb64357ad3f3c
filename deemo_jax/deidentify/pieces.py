"""Long sounds in pieces cut in their pauses: what is held does not grow with them."""

from collections.abc import Iterable, Iterator

from jaxtyping import Float
import numpy as np

from deemo_jax.architecture import SAMPLE_RATE

LONGEST = 60 * SAMPLE_RATE  # of a piece; but for what ends soon after
SHORTEST = 15 * SAMPLE_RATE  # of what is cut off, and of what is left
STEP = SAMPLE_RATE // 100  # in which the loudness is looked at
PAUSE = 5  # steps of a pause


def in_pieces(
    blocks: Iterable[Float[np.ndarray, " _"]],
) -> Iterator[Float[np.ndarray, " _"]]:
    """The same samples in pieces of 45 to 60 seconds, of which the last has 15 to 75.

    A piece ends where it is quietest; a sound of up to 75 seconds is one piece.
    """
    held: list[np.ndarray] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block)
        while count > LONGEST + SHORTEST:
            sound = np.concatenate(held)
            cut = _pause(sound[:LONGEST])
            yield sound[:cut]
            held, count = [sound[cut:].copy()], count - cut
    if count:
        yield np.concatenate(held)


def _pause(sound: Float[np.ndarray, " N"]) -> int:
    """The sample in the middle of the quietest moment that the end has."""
    steps = sound[-SHORTEST:].reshape(-1, STEP)
    power = np.convolve(np.square(steps).mean(axis=1), np.ones(PAUSE), "valid")
    return len(sound) - SHORTEST + (int(power.argmin()) * 2 + PAUSE) * STEP // 2
