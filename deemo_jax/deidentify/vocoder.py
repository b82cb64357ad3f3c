"""WORLD in bands: a voice taken apart into pitch, envelope and power, and back."""

import dataclasses

from jaxtyping import Float
import numpy as np

from deemo_jax.architecture import SAMPLE_RATE

PERIOD = 5.0  # milliseconds from frame to frame
PITCHES = 60.0, 500.0  # Hz, of the lowest and the highest voice
HIGHEST = SAMPLE_RATE / 2  # Hz
BINS = 513  # of the envelopes that WORLD estimates at 16 kHz
BANDS = 64  # of the mel scale, which envelopes are read at
BREATH = 3000.0, 7000.0  # Hz: none below the first in voiced frames, all from the other
CHUNK = 6000  # frames (30 s) whose envelopes are held at once; bounds memory
OVERLAP = 8  # frames in which one chunk fades into the next
FLOOR = 1e-12  # added to power, so that silence has a logarithm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """A voice in frames of 5 ms; what WORLD calls aperiodicity is not kept.

    Attributes:
        pitch: Hz; 0 where the voice does not sound.
        bands: logarithms of the power at each band.
        power: logarithms of each frame's mean power, which `bands` need not agree with.
    """

    pitch: Float[np.ndarray, " F"]
    bands: Float[np.ndarray, "F M"]
    power: Float[np.ndarray, " F"]


def take_apart(waveform: Float[np.ndarray, " N"]) -> Parts:
    """What a 16 kHz voice of one or more samples consists of.

    DIO, StoneMask and CheapTrick of WORLD: Morise, Yokomori and Ozawa, "WORLD: A
    Vocoder-Based High-Quality Speech Synthesis System", 2016.
    """
    import pyworld

    signal = waveform.astype(np.float64)
    pitch, times = pyworld.dio(signal, SAMPLE_RATE, *PITCHES, frame_period=PERIOD)
    pitch = pyworld.stonemask(signal, pitch, times, SAMPLE_RATE)
    bands, power = [], []
    for first in range(0, len(pitch), CHUNK):
        part = slice(first, first + CHUNK)
        envelope = pyworld.cheaptrick(signal, pitch[part], times[part], SAMPLE_RATE)
        at = hertz_of(np.arange(BANDS)) / HIGHEST * (BINS - 1)
        at = np.tile(at, (len(envelope), 1))
        bands.append(read(np.log(envelope + FLOOR), at))
        power.append(np.log(envelope.mean(axis=1) + FLOOR))
    return Parts(pitch=pitch, bands=np.concatenate(bands), power=np.concatenate(power))


def put_together(
    parts: Parts, like: Float[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """The voice of these parts, as long and as loud as the waveform `like`.

    It is not louder than 1, though. All voices have the same breath.
    """
    voice = _synthesised(parts)[: len(like)]
    level, wanted = (
        np.sqrt(np.mean(np.square(w, dtype=np.float64))) for w in (voice, like)
    )
    voice *= wanted / max(level, FLOOR)
    voice /= max(1.0, np.abs(voice).max())
    return voice.astype(like.dtype)


def _synthesised(parts: Parts) -> Float[np.ndarray, " N"]:
    """The voice of whole frames, chunk by chunk."""
    import pyworld

    pitch = parts.pitch

    hop = round(SAMPLE_RATE * PERIOD / 1000)
    hertz = np.linspace(0, HIGHEST, BINS)
    breath = np.clip((hertz - BREATH[0]) / (BREATH[1] - BREATH[0]), 1e-3, 1.0)
    voice = np.zeros(len(pitch) * hop)
    fade = np.arange(OVERLAP * hop) / (OVERLAP * hop)
    for first in range(0, len(pitch), CHUNK):
        part = slice(first, first + CHUNK + OVERLAP)
        at = np.tile(band_of(hertz), (len(pitch[part]), 1))
        envelope = np.exp(read(parts.bands[part], at))
        envelope *= (np.exp(parts.power[part]) / envelope.mean(axis=1))[:, None]
        noise = np.where(pitch[part, None] > 0, breath, 1.0)
        piece = pyworld.synthesize(pitch[part], envelope, noise, SAMPLE_RATE, PERIOD)
        piece = piece[: len(voice) - first * hop]
        if first:
            piece[: len(fade)] *= fade[: len(piece)]
        if len(pitch) > first + CHUNK:
            piece[CHUNK * hop :] *= 1 - fade[: len(piece) - CHUNK * hop]
        voice[first * hop :][: len(piece)] += piece
    return voice


def read(
    rows: Float[np.ndarray, "F A"], at: Float[np.ndarray, "F B"]
) -> Float[np.ndarray, "F B"]:
    """Each row at fractional places of it, between its values in a straight line."""
    at = np.clip(at, 0, rows.shape[1] - 1)
    left = np.minimum(at.astype(int), rows.shape[1] - 2)
    share = at - left
    return (1 - share) * np.take_along_axis(
        rows, left, axis=1
    ) + share * np.take_along_axis(rows, left + 1, axis=1)


def band_of(hertz: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """Which band frequencies lie in, as a fraction; on the mel scale."""
    return BANDS * np.log1p(hertz / 700) / np.log1p(HIGHEST / 700) - 0.5


def hertz_of(band: np.ndarray) -> np.ndarray:
    """The frequency of bands; undoes `band_of`."""
    return 700 * np.expm1((band + 0.5) / BANDS * np.log1p(HIGHEST / 700))
