"""Anonymising a voice by the method that the settings name."""

import secrets

from jaxtyping import Float
import numpy as np

from deemo_jax.deidentify.drift import drift
from deemo_jax.deidentify.mcadams import mcadams
from deemo_jax.deidentify.settings import Voice


def anonymise(
    waveform: Float[np.ndarray, " N"], voice: Voice
) -> Float[np.ndarray, " N"]:
    """Another voice says the same: drawn for this utterance, and kept nowhere.

    It is drawn from the operating system's entropy, not from a seed: who knows it is
    nearer to undoing the transformation.
    """
    rng = np.random.default_rng(secrets.randbits(128))
    if voice.method == "drift":
        return drift(waveform, rng)
    return mcadams(waveform, rng.uniform(*voice.coefficients))
