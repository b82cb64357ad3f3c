"""Anonymising a voice by the method that the settings name."""

from collections.abc import Callable
import functools
import secrets

from jaxtyping import Float
import numpy as np

from deemo_jax.deidentify.drift import draw, drift
from deemo_jax.deidentify.mcadams import mcadams
from deemo_jax.deidentify.settings import Voice


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
