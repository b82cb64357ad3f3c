"""Cuts between real pictures, and what is none: movement, light, flashes."""

import numpy as np
from PIL import Image
import pytest

from deemo_jax.deidentify.shots import LASTING, Shots
from deemo_jax.media import iter_frames


def shown(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).resize((176, 144)))


@pytest.fixture(scope="module")
def woman(wolfgang) -> np.ndarray:
    return shown(next(rgb for _, rgb in iter_frames(wolfgang)))


def starts(frames) -> list[int]:
    """The first frames of the shots that are known of at last, in order."""
    shots = Shots()
    found = [shots.began(index, rgb) for index, rgb in enumerate(frames)]
    return sorted(set(found))


def lit(rgb: np.ndarray, gain: float, more: float = 0.0) -> np.ndarray:
    return np.clip(rgb * gain + more, 0, 255).astype(np.uint8)


def test_a_cut_counts_a_second_later(portrait, woman):
    shots = Shots()
    found = [
        shots.began(index, rgb)
        for index, rgb in enumerate([portrait] * 9 + [woman] * 40)
    ]
    assert found == [0] * (9 + LASTING) + [9] * (40 - LASTING)


def test_every_cut_is_one(portrait, woman):
    frames = ([portrait] * 30 + [woman] * 30) * 3
    assert starts(frames) == [0, 30, 60, 90, 120, 150]
    assert starts(frames[:-8]) == [0, 30, 60, 90, 120]  # the last is not yet certain


@pytest.mark.parametrize("video", ["carphone", "wolfgang"])
@pytest.mark.parametrize("step", [1, 3])
def test_movement_is_no_cut(video, step, request):
    """A talking man in a car; a woman who moves her hands over her face."""
    frames = iter_frames(request.getfixturevalue(video), 0.0, 14.0)
    assert starts([rgb for _, rgb in frames][::step]) == [0]


def test_a_pan_is_no_cut(woman):
    wide = np.concatenate([woman, woman[:, ::-1]], axis=1)
    frames = [wide[:, shift : shift + 176] for shift in range(0, 176, 9)]
    assert starts(frames * 3) == [0]


def test_light_is_no_cut(portrait):
    darker = [lit(portrait, 0.3)] * 40
    assert starts([portrait] * 5 + darker + [lit(portrait, 1.2, 30)] * 40) == [0]


@pytest.mark.parametrize("length", [1, 2, LASTING - 1])
def test_a_flash_is_no_cut(portrait, woman, length):
    for flash in (np.full_like(portrait, 255), woman):
        frames = [portrait] * 30 + [flash] * length + [portrait] * 60
        assert starts(frames) == [0]


def test_a_flash_of_two_pictures_is_no_cut(portrait, woman):
    light = [np.full_like(portrait, 255)] * 3
    assert starts([portrait] * 9 + light + [woman] * 3 + [portrait] * 60) == [0]


def test_two_flashes_are_none_and_a_cut_after_them_is(portrait, woman):
    flash = np.full_like(portrait, 255)
    frames = [portrait] * 5 + [flash] * 2 + [portrait] * 5 + [flash] * 2
    assert starts(frames + [portrait] * 40) == [0]
    assert starts(frames + [portrait] * 6 + [woman] * 40) == [0, 20]


def test_dark_frames_are_no_cuts():
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 9, (90, 160, 3), np.uint8) for _ in range(60)]
    assert starts(frames) == [0]
