"""The centre of a picture is the same whoever asks, and nearly so without the library.

That it is what transformers makes of it, `tests/parity/test_images.py` says.
"""

import platform

import numpy as np
import pytest

from deemo_jax.data import resize

SHAPES = [(30, 41), (41, 30), (64, 64), (200, 33), (97, 331)]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Waves a few pixels long, and noise; RGBX."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:height, :width]
    waves = 128 + 100 * np.sin(row / 3 + rng.uniform(0, 7)) * np.cos(column / 4)
    pixels = waves[..., None] + rng.normal(0, 9, (height, width, 4))
    return pixels.clip(0, 255).astype(np.uint8)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="it is built for x86")
def test_the_library_is_installed():
    """Else these tests would compare Pillow with itself."""
    assert resize.Resizer is not None


@pytest.mark.parametrize("size", [16, 64, 100])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_without_the_library_it_is_nearly_the_same(height, width, size, monkeypatch):
    image = picture(height, width)
    found = resize.centre(image, size)
    assert found.shape == (size, size, 3)
    monkeypatch.setattr(resize, "Resizer", None)
    difference = np.abs(found - resize.centre(image, size).astype(int))
    assert difference.max() <= 2
    # Of pictures that are much taller than wide, Pillow scales columns first.
    assert np.mean(difference > 0) < (0.3 if height > 3 * width else 0.02)


@pytest.mark.parametrize("there", [True, False])
def test_what_has_the_size_already_is_cut_out(there, monkeypatch):
    if not there:
        monkeypatch.setattr(resize, "Resizer", None)
    wide, tall = picture(33, 80), picture(80, 33)
    # (80 - 33) // 2 columns from the left, and as many rows from above.
    np.testing.assert_array_equal(resize.centre(wide, 33), wide[:, 23:56, :3])
    np.testing.assert_array_equal(resize.centre(tall, 33), tall[23:56, :, :3])


def test_one_colour_stays_that_colour():
    pixels = np.full((384, 683, 4), (0, 137, 255, 9), np.uint8)
    assert (resize.centre(pixels, 224) == (0, 137, 255)).all()
