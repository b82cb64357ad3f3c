import numpy as np
import pytest

from deemo_jax.deidentify.faces import FaceDetector
from deemo_jax.deidentify.masks import SOLID, paint
from deemo_jax.deidentify.settings import METHODS, Mask

NOISE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
SOLID_MASK = Mask(method="solid")


def boxes(*rows) -> list[np.ndarray]:
    return [np.array(row, np.float32) for row in rows]


@pytest.mark.parametrize("method", METHODS)
def test_only_the_ellipse_is_painted(method):
    scale = 1.3
    painted = paint(NOISE, boxes([20, 10, 50, 40]), Mask(scale=scale, method=method))
    rows, columns = np.mgrid[0:60, 0:80] + 0.5
    distance = np.hypot((columns - 35) / 15 / scale, (rows - 25) / 15 / scale)
    changed = (painted != NOISE).any(axis=-1)
    assert not changed[distance > 1.0].any()
    assert changed[distance < 0.97].mean() > 0.99


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "box",
    [
        [-20, -20, 5, 5],
        [70, 50, 95, 75],
        [79.5, 59.5, 79.9, 59.9],
        [0, 0, 0, 0],
        [30, 30, 30.1, 30.1],
        [-500, -500, -400, -400],
        [500, 10, 600, 40],
        [-1000, -1000, 1000, 1000],
        [79.999, -5, 80, 65],
    ],
)
def test_boxes_at_and_beyond_the_border_are_taken(method, box):
    painted = paint(NOISE, boxes(box), Mask(method=method))
    assert painted.shape == NOISE.shape


def test_the_last_row_and_column_are_painted():
    painted = paint(NOISE, boxes([40, 30, 80, 60]), Mask(scale=2.0, method="solid"))
    assert (painted[40:, 79] == SOLID).all()
    assert (painted[59, 50:] == SOLID).all()
    everything = paint(NOISE, boxes([-200, -200, 300, 300]), SOLID_MASK)
    assert (everything == SOLID).all()


def test_a_tiny_box_still_hides_something():
    painted = paint(NOISE, boxes([40, 30, 40.2, 30.2]), SOLID_MASK)
    assert (painted == SOLID).all(axis=-1).sum() >= 9


def test_the_frame_given_is_not_changed():
    before = NOISE.copy()
    paint(NOISE, boxes([20, 10, 50, 40]), SOLID_MASK)
    np.testing.assert_array_equal(NOISE, before)


def test_a_mosaic_holds_what_the_blur_holds_in_cells():
    painted = paint(NOISE, boxes([10, 5, 70, 55]), Mask(method="mosaic"))
    inside = painted[25:35, 20:60]
    assert len({tuple(pixel) for pixel in inside.reshape(-1, 3)}) <= 8
    assert inside.astype(float).std() < 0.2 * NOISE.std()


def test_a_blur_leaves_less_than_the_cells_could_hold():
    """What varies inside is what 4 x 4 means can carry: noise averages out."""
    painted = paint(NOISE, boxes([10, 5, 70, 55]), Mask())
    inside = painted[20:40, 30:50].astype(float)
    assert inside.std() < 0.2 * NOISE.std()
    assert np.abs(np.diff(inside, axis=1)).max() <= 4


@pytest.mark.parametrize("method", METHODS)
def test_a_masked_face_is_found_no_more(portrait, method):
    detector = FaceDetector()
    face = detector(portrait)[0, :4]
    masked = paint(portrait, [face], Mask(method=method))
    assert len(detector(masked)) == 0
