"""Anonymising a voice by the method that the settings name."""

from collections.abc import Callable, Iterable
import functools
import secrets

from jaxtyping import Bool, Float
import numpy as np

from deemo_jax.architecture import SAMPLE_RATE
from deemo_jax.deidentify.drift import draw, drift
from deemo_jax.deidentify.mcadams import mcadams
from deemo_jax.deidentify.settings import Voice
from deemo_jax.deidentify.transcript import Word

AROUND = 0.1  # seconds; with 0.05, names were heard at the ends of what was silenced


def another_voice(
    voice: Voice,
) -> Callable[[Float[np.ndarray, " N"]], Float[np.ndarray, " N"]]:
    """A function by which another voice says the same: drawn anew, and kept nowhere.

    Each utterance is to have its own; the pieces of a long one are given to the same.

    It is drawn from the operating system's entropy, not from a seed: who knows it is
    nearer to undoing the transformation.
    """
    rng = np.random.default_rng(secrets.randbits(128))
    if voice.method == "drift":
        return functools.partial(drift, rng=rng, drawn=draw(rng))
    return functools.partial(mcadams, coefficient=rng.uniform(*voice.coefficients))


def silent(
    piece: Float[np.ndarray, " N"], words: Iterable[Word], first: float
) -> Float[np.ndarray, " N"]:
    """A piece of a voice, from second `first` on, silent where these words are said."""
    piece = piece.copy()
    for word in words:
        start, end = (
            max(0, round((time - first) * SAMPLE_RATE))
            for time in (word.start - AROUND, word.end + AROUND)
        )
        piece[start:end] = 0
    return piece


def audible(clip: Float[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    """Which samples of a clip's sound are in no silence that `silent` may have made.

    Silenced voices are like nobody's: attackers take what is silent away.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], clip == 0, [False]])))
    kept = np.ones(len(clip), bool)
    for start, end in edges.reshape(-1, 2):
        if end - start >= 2 * AROUND * SAMPLE_RATE:
            kept[start:end] = False
    return kept
