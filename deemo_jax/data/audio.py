"""Sound of fixed length: decoded, cut or padded, varied for training."""

import io

from jaxtyping import Float
import numpy as np
import soundfile

from deemo_jax.architecture import SAMPLE_RATE

SHIFT = 0.1  # seconds, at most, in either direction
NOISE = (20.0, 40.0)  # decibels that white noise stays below the sound


def decode(flac: bytes) -> Float[np.ndarray, " N"]:
    """Samples in -1 … 1 of a 16 kHz mono file.

    Raises:
        ValueError: it has another rate or more channels.
    """
    samples, rate = soundfile.read(io.BytesIO(flac), dtype="float32", always_2d=True)
    if rate != SAMPLE_RATE or samples.shape[1] != 1:
        raise ValueError(
            f"audio of {rate} Hz with {samples.shape[1]} channels; records hold "
            f"{SAMPLE_RATE} Hz mono: pack the data set again"
        )
    return samples[:, 0]


def count_samples(flac: bytes) -> int:
    """The number of samples of a file, from its header."""
    return soundfile.info(io.BytesIO(flac)).frames


def fit(
    samples: Float[np.ndarray, " N"], length: int
) -> tuple[Float[np.ndarray, " _"], int]:
    """`length` samples, and how many of them are sound: the middle, or zeros after."""
    start = max(0, (len(samples) - length) // 2)
    kept = samples[start : start + length]
    return np.pad(kept, (0, length - len(kept))), len(kept)


def _read_once() -> None:
    """Lets cffi find out the types of soundfile's functions, while one thread does.

    It does so when each is first used. If two threads of the loader were in the midst
    of that, the process would be aborted, once in many runs
    (https://github.com/python-cffi/cffi/issues/271).
    """
    flac = io.BytesIO()
    soundfile.write(flac, np.zeros(1, np.float32), SAMPLE_RATE, format="FLAC")
    decode(flac.getvalue())
    count_samples(flac.getvalue())


def augment(
    samples: Float[np.ndarray, " N"], rng: np.random.Generator
) -> Float[np.ndarray, " N"]:
    """Shifts the sound in time, silence moving in, and adds white noise."""
    most = min(round(SHIFT * SAMPLE_RATE), len(samples))
    shift = int(rng.integers(-most, most + 1))
    moved = np.zeros_like(samples)
    if shift >= 0:
        moved[shift:] = samples[: len(samples) - shift]
    else:
        moved[:shift] = samples[-shift:]
    level = np.sqrt(np.mean(np.square(samples))) if len(samples) else 0.0
    noise = rng.standard_normal(len(samples), dtype=np.float32)
    return moved + noise * np.float32(level * 10 ** (-rng.uniform(*NOISE) / 20))


_read_once()
