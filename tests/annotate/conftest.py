"""Small media under the names that other data sets have."""

from pathlib import Path

import numpy as np
import pytest

from deemo_jax.media import write_video

RATE = 10.0


def filmed(path: Path, frames: int = 40) -> Path:
    """A video of 10 frames a second, each darker than the next."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (np.full((16, 16, 3), 5 * k % 256, np.uint8) for k in range(frames))
    write_video(path, ((k / RATE, rgb) for k, rgb in enumerate(pixels)))
    return path


@pytest.fixture
def media(tmp_path) -> Path:
    """Four clips of MER2023's names, one of them in a folder and with its sound."""
    folder = tmp_path / "media"
    for name in ("sample_00000023", "sample_00000046", "sample_00000047"):
        filmed(folder / f"{name}.mp4")
    filmed(folder / "video" / "sample_00000054.mp4")
    (folder / "audio").mkdir()
    (folder / "audio" / "sample_00000054.wav").write_bytes(b"the video goes before")
    (folder / "features.npy").write_bytes(b"no media")
    return folder
