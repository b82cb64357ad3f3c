"""Synthesises the generated corpus's voices, whose melody and loudness carry a cue.

Source and filter: a band-limited train of pulses (all harmonics at once, in closed
form) and some breath pass through resonances that move from vowel to vowel.
"""

import dataclasses
import math

from jaxtyping import Float
import numpy as np

from deemo_jax.architecture import SAMPLE_RATE

# Per grade, over the utterance: the glide of the pitch, semitones, and the change of
# the level, decibels. Both are relative, for subjects differ in pitch and loudness.
GLIDE = {3: 12.0, 1: 4.0, -1: -4.0, -3: -12.0}
SWELL = {3: 18.0, 1: 6.0, -1: -6.0, -3: -18.0}

# The first three resonances of five vowels, Hz.
VOWELS = np.array(
    [
        (730, 1090, 2440),
        (530, 1840, 2480),
        (270, 2290, 3010),
        (570, 840, 2410),
        (300, 870, 2240),
    ]
)
BANDWIDTHS = np.array([90, 110, 170], np.float32)  # Hz
FRAME, HOP = 512, 256
QUIETER = (20.0, 30.0)  # decibels that the room's noise is below the voice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speaker:
    """How one subject sounds.

    Attributes:
        pitch: in the middle of an utterance, Hz.
        tract: factor on the resonances; above 1 the vocal tract is shorter.
        level: root mean square of the voice, decibels below full scale.
        rate: syllables a second.
        breath: level of the breath against the pulses, a factor.
    """

    pitch: float
    tract: float
    level: float
    rate: float
    breath: float


def draw_speaker(rng: np.random.Generator) -> Speaker:
    """A subject's voice; a high one tends to come with a short vocal tract."""
    height = rng.uniform(0, 1)
    return Speaker(
        pitch=100 * 2 ** (height * 1.1),
        tract=0.92 + 0.2 * height + rng.uniform(-0.04, 0.04),
        level=rng.uniform(-36, -27),
        rate=rng.uniform(3.6, 5.2),
        breath=rng.uniform(0.02, 0.12),
    )


def speak(
    speaker: Speaker, grade: int, seconds: float, rng: np.random.Generator
) -> Float[np.ndarray, " N"]:
    """An utterance of syllables, float32 at 16 kHz, pitch and loudness by `grade`.

    Args:
        grade: a key of `GLIDE` and `SWELL`.
        seconds: length of the clip; the utterance fills it up to a short silence at
            each end.
        rng: draws the vowels, the rhythm and the small movements of the melody.
    """
    samples = round(seconds * SAMPLE_RATE)
    time = np.arange(samples, dtype=np.float32) / SAMPLE_RATE
    start, stop = rng.uniform(0.1, 0.3), seconds - rng.uniform(0.1, 0.3)
    done = np.clip((time - start) / (stop - start), 0, 1)  # of the utterance
    syllables = round((stop - start) * speaker.rate)
    spoken = done * syllables

    accents = np.interp(
        spoken, np.arange(syllables + 1), rng.normal(0, 0.5, syllables + 1)
    ).astype(np.float32)
    semitones = GLIDE[grade] * (done - 0.5) + accents + rng.normal(0, 0.7)
    pitch = speaker.pitch * np.exp2(semitones / 12)
    breath = rng.standard_normal(samples, np.float32)
    source = _pulses(pitch) + speaker.breath * breath

    stress = rng.normal(0, 1.0, syllables + 1).astype(np.float32)  # decibels
    level = SWELL[grade] * (done - 0.5) + stress[spoken.astype(int)]
    opening = np.abs(np.sin(np.pi * spoken)) ** np.float32(0.6)
    voice = _resonate(source * opening, speaker.tract, syllables, done, rng)
    voice *= np.exp(level * (math.log(10) / 20))
    voice *= _factor(speaker.level) / np.sqrt(np.mean(voice**2))
    # A room's noise: in clean sound the quiet end of a swell would be far quieter than
    # in the same sound with noise added, as augmentation does.
    room = _factor(speaker.level - rng.uniform(*QUIETER))
    return np.clip(voice + room * rng.standard_normal(samples, np.float32), -1, 1)


def _factor(decibels: float) -> float:
    """What a level multiplies a signal with."""
    return 10 ** (decibels / 20)


def _pulses(pitch: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Every harmonic below 7.6 kHz in equal strength.

    cos x + cos 2x + … + cos nx = (sin((n + 1/2) x) / sin(x / 2) - 1) / 2
    """
    # A whole turn changes the sign of both sines, so the angle may begin anew: float32
    # keeps a small one as it is.
    turns = np.cumsum(pitch, dtype=np.float64) / SAMPLE_RATE
    phase = (2 * np.pi * (turns % 1)).astype(np.float32)
    count = np.floor(7600 / pitch)
    below = np.sin(phase / 2)
    tiny = np.abs(below) < 1e-4
    ratio = np.sin((count + 0.5) * phase) / np.where(tiny, 1, below)
    return (np.where(tiny, 2 * count + 1, ratio) - 1) / 2 / np.sqrt(count)


def _resonate(
    source: Float[np.ndarray, " N"],
    tract: float,
    syllables: int,
    done: Float[np.ndarray, " N"],
    rng: np.random.Generator,
) -> Float[np.ndarray, " N"]:
    """Filters frame by frame in the frequency domain, overlapped and added."""
    window = np.sqrt(np.hanning(FRAME + 1)[:-1]).astype(np.float32)
    padded = np.pad(source, (HOP, FRAME))
    count = (len(padded) - FRAME) // HOP + 1
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP][:count]

    targets = VOWELS[rng.integers(len(VOWELS), size=syllables + 1)] * tract
    centres = np.minimum(np.arange(count) * HOP, len(done) - 1)
    place = done[centres] * syllables
    formants = np.stack(
        [np.interp(place, np.arange(syllables + 1) + 0.5, row) for row in targets.T], 1
    ).astype(np.float32)
    hertz = np.fft.rfftfreq(FRAME, 1 / SAMPLE_RATE).astype(np.float32)
    peaks = 1 / (
        1
        + ((hertz[None, None] - formants[:, :, None]) / BANDWIDTHS[None, :, None]) ** 2
    )
    # The glottis and the lips together fall by about 6 dB an octave.
    slope = 1 / np.sqrt(1 + (hertz / 500) ** 2)
    gain = (peaks.sum(axis=1) + 0.05) * slope[None]
    # All vowels are about as loud, or else they would drown a slight swell.
    gain /= np.sqrt(np.mean(gain**2, axis=1, keepdims=True))
    filtered = np.fft.irfft(np.fft.rfft(frames * window[None]) * gain) * window[None]
    out = np.zeros(len(padded), np.float32)
    for half in range(2):  # frames two apart do not overlap
        rows = filtered[half::2].reshape(-1)
        out[half * HOP : half * HOP + len(rows)] += rows
    return out[HOP : HOP + len(source)]
