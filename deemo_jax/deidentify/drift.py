"""A voice levelled to one that all share, then made another that drifts."""

import dataclasses

from jaxtyping import Float
import numpy as np

from deemo_jax.deidentify.vocoder import (
    BANDS,
    HIGHEST,
    PITCHES,
    Parts,
    band_of,
    hertz_of,
    put_together,
    read,
    take_apart,
)

ORDER = 18  # cepstral coefficients kept: formants, and nothing finer
QUIET = 6.0  # nepers of power below the loudest twentieth; quieter is no speech

# The voice that all are levelled to: means and deviations of the cepstrum, by order.
MEAN = np.zeros(ORDER)
MEAN[1:3] = 12.0, -2.0
DEVIATION = 7.0 / (1 + 0.45 * np.arange(ORDER))
FARTHEST = 3.5  # deviations from the mean
RANGE = 0.2  # deviation of the logarithm of its pitch
WIDEN = 0.6, 1.5  # limits of what a range is multiplied by: who is moved stays so

# The drawn voice. Deviations of what is drawn for a whole utterance, and of what comes
# and goes within it, anew at each knot.
KNOT = 120  # frames, 0.6 s
CENTRE = 85.0, 250.0  # Hz, of its pitch
WANDER = 0.05  # of the logarithm of the pitch, within an utterance alone
ANCHORS = np.array([0.0, 900.0, 2000.0, 3300.0, HIGHEST])  # Hz; the inner ones move
ALIKE = 0.1  # of the logarithm of the factor by which all of them do
MOVE = 0.1, 0.08  # of what is added to it for each one
NEIGHBOURS = (-2, -1, 0, 1, 2)  # orders that a coefficient takes something of
MIX = 0.12, 0.12  # of how much


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
    """What is drawn for a whole utterance.

    Attributes:
        move: of the logarithms of the factors by which the inner anchors move.
        mix: parts that a coefficient takes of its neighbours.
        centre: logarithm of the pitch's.
    """

    move: Float[np.ndarray, " A"]
    mix: Float[np.ndarray, "N K"]
    centre: float


def draw(rng: np.random.Generator) -> Drawn:
    """A voice for an utterance."""
    inner = len(ANCHORS) - 2
    return Drawn(
        move=rng.normal(0, ALIKE) + rng.normal(0, MOVE[0], inner),
        mix=rng.normal(0, MIX[0], (len(NEIGHBOURS), ORDER)),
        centre=rng.uniform(*np.log(CENTRE)),
    )


def drift(
    waveform: Float[np.ndarray, " N"],
    rng: np.random.Generator,
    drawn: Drawn | None = None,
) -> Float[np.ndarray, " N"]:
    """Says the same in the same rhythm and melody with a voice that nobody has.

    A vocoder takes the voice apart: pitch, envelope, breath. What of them tells a
    speaker is levelled: envelopes are smoothed and given the same means and deviations,
    the pitch the same centre and about the same range, breath is replaced. What is gone
    cannot be put back by an inverse. Then formants and pitch are moved by drawn factors
    that drift, so that no two utterances share a voice and no one inverse fits a whole
    utterance.

    Loudness and its course stay, and so does the course of the pitch.

    Args:
        waveform: 16 kHz, mono; of any length.
        rng: all that is drawn comes from it.
        drawn: of the utterance, where the waveform is a piece of one.
    """
    if not len(waveform):
        return waveform
    drawn = drawn or draw(rng)
    parts = take_apart(waveform)
    moved = _moved(parts.bands, drawn.move, rng)
    cepstrum = _levelled(moved @ _cosines().T, parts.power)
    cepstrum = MEAN + DEVIATION * _mixed(cepstrum, drawn.mix, rng)
    pitch = _sung(parts.pitch, drawn.centre, rng)
    changed = Parts(pitch=pitch, bands=cepstrum @ _cosines(), power=parts.power)
    return put_together(changed, waveform)


def _moved(
    bands: Float[np.ndarray, "F M"],
    move: Float[np.ndarray, " A"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "F M"]:
    """Envelopes whose frequencies are stretched and squeezed between moving anchors."""
    factors = np.exp(move + _path(rng, len(bands), len(move), MOVE[1]))
    source = np.tile(ANCHORS, (len(bands), 1))
    source[:, 1:-1] *= factors
    source[:, 1:-1] = np.maximum.accumulate(source[:, 1:-1], axis=1)
    source = np.minimum(source, ANCHORS[-1])
    target = hertz_of(np.arange(BANDS))
    left = np.searchsorted(ANCHORS, target, side="right") - 1
    share = (target - ANCHORS[left]) / np.diff(ANCHORS)[left]
    hertz = (1 - share) * source[:, left] + share * source[:, left + 1]
    return read(bands, band_of(hertz))


def _levelled(
    cepstrum: Float[np.ndarray, "F K"], power: Float[np.ndarray, " F"]
) -> Float[np.ndarray, "F K"]:
    """Coefficients less their mean, over their deviation, in what is loud enough."""
    heard = cepstrum[power >= np.quantile(power, 0.95) - QUIET]
    spread = np.maximum(heard.std(axis=0), DEVIATION / 5)  # of noise, there is little
    levelled = (cepstrum - heard.mean(axis=0)) / spread
    levelled[:, 0] = 0  # loudness; it is kept as power
    return np.clip(levelled, -FARTHEST, FARTHEST)


def _mixed(
    levelled: Float[np.ndarray, "F K"],
    mix: Float[np.ndarray, "N K"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "F K"]:
    """Coefficients that take drawn parts of their neighbours, and of themselves."""
    frames, orders = levelled.shape
    mixed = levelled.copy()
    for away, part in zip(NEIGHBOURS, mix, strict=True):
        parts = (part + _path(rng, frames, orders, MIX[1])) * np.exp(-abs(away) / 2)
        mixed += parts * np.roll(levelled, away, axis=1)
    mixed[:, 0] = 0
    return mixed


def _sung(
    pitch: Float[np.ndarray, " F"], centre: float, rng: np.random.Generator
) -> Float[np.ndarray, " F"]:
    """The same melody around a drawn centre; 0 stays where there is no voice."""
    voiced = pitch > 0
    if not voiced.any():
        return pitch
    course = centre + _path(rng, len(pitch), 1, WANDER)[:, 0]
    melody = np.log(pitch[voiced])
    widen = np.clip(RANGE / max(melody.std(), 1e-3), *WIDEN)
    melody = course[voiced] + widen * (melody - np.median(melody))
    sung = np.zeros_like(pitch)
    sung[voiced] = np.clip(np.exp(melody), *PITCHES)
    return sung


def _path(
    rng: np.random.Generator, frames: int, width: int, deviation: float
) -> Float[np.ndarray, "F W"]:
    """Smooth random courses around 0."""
    knots = rng.normal(0, deviation, (frames // KNOT + 2, width))
    at = np.linspace(0, len(knots) - 1, frames, endpoint=False)
    left = at.astype(int)
    share = (1 - np.cos(np.pi * (at - left)))[:, None] / 2
    return (1 - share) * knots[left] + share * knots[left + 1]


def _cosines() -> Float[np.ndarray, "K M"]:
    """What a cepstrum is made of: cosines over the bands, orthonormal but the first."""
    angle = np.pi * (np.arange(BANDS) + 0.5) / BANDS
    return np.cos(np.arange(ORDER)[:, None] * angle) * np.sqrt(2 / BANDS)
