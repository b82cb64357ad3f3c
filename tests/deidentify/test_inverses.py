"""Guesses at the original: one of McAdams' is right, and all are sound signals."""

import numpy as np
import pytest

from deemo_jax.deidentify.inverses import (
    CENTRES,
    COEFFICIENTS,
    FACTORS,
    inverses,
)
from deemo_jax.deidentify.mcadams import mcadams
from deemo_jax.deidentify.vocoder import take_apart


def spectrum(wave: np.ndarray) -> np.ndarray:
    bands = take_apart(wave).bands
    return bands - bands.mean(axis=1, keepdims=True)


def test_who_guesses_the_coefficient_has_the_original_back(speech):
    piece = speech[:24_000]
    changed = mcadams(piece, 0.7)
    apart = [
        np.abs(spectrum(guess) - spectrum(piece)).mean() for guess in inverses(changed)
    ]
    assert np.argmin(apart) == 1 + COEFFICIENTS.index(0.7)
    assert min(apart) < 0.5 * apart[0]


def test_each_guess_is_another(speech):
    guesses = list(inverses(speech[:16_000]))
    assert len(guesses) == 1 + len(COEFFICIENTS) + len(FACTORS) * len(CENTRES)
    for index, guess in enumerate(guesses):
        assert guess.shape == (16_000,)
        assert np.isfinite(guess).all()
        assert not any(np.allclose(guess, other) for other in guesses[:index])


@pytest.mark.parametrize("length", [0, 1, 500])
def test_silence_and_nothing_have_guesses_too(length):
    for guess in inverses(np.zeros(length, np.float32)):
        assert guess.shape == (length,)
        assert np.isfinite(guess).all()
