"""What an attacker tries who knows the methods, but not what was drawn."""

from collections.abc import Iterator
import dataclasses
import itertools

from jaxtyping import Float
import numpy as np

from deemo_jax.deidentify.mcadams import mcadams
from deemo_jax.deidentify.vocoder import (
    BANDS,
    band_of,
    hertz_of,
    put_together,
    read,
    take_apart,
)

COEFFICIENTS = 0.5, 0.6, 0.7, 0.8, 0.9  # of McAdams'
FACTORS = 0.8, 0.9, 1.0, 1.11, 1.25  # by which all frequencies are put back
CENTRES = 110.0, 200.0  # Hz of the pitch put back


def inverses(
    waveform: Float[np.ndarray, " N"],
) -> Iterator[Float[np.ndarray, " N"]]:
    """Guesses at the original of an anonymised voice, by either method.

    First the voice as it is; then with each of McAdams' coefficients undone; then with
    formants moved back by each factor and the pitch to each centre, which is what can
    be undone of "drift": the means and deviations that it levels are gone.
    """
    yield waveform
    for coefficient in COEFFICIENTS:
        yield mcadams(waveform, 1 / coefficient)
    if not len(waveform):
        return
    parts = take_apart(waveform)
    voiced = parts.pitch[parts.pitch > 0]
    middle = float(np.median(voiced)) if len(voiced) else CENTRES[0]
    hertz = hertz_of(np.arange(BANDS))
    for factor, centre in itertools.product(FACTORS, CENTRES):
        at = np.tile(band_of(hertz * factor), (len(parts.bands), 1))
        guess = dataclasses.replace(
            parts, bands=read(parts.bands, at), pitch=parts.pitch * centre / middle
        )
        yield put_together(guess, waveform)
