from concurrent.futures import ThreadPoolExecutor
from importlib import metadata, util

import numpy as np
import pytest

from deemo_jax.deidentify import audit_faces
from deemo_jax.deidentify.audit_faces import (
    SAME_PERSON,
    embed_faces,
    find_faces,
    missing,
    weights_path,
)
from deemo_jax.deidentify.faces import FaceDetector, overlap
from deemo_jax.deidentify.masks import paint
from deemo_jax.deidentify.settings import Mask
from deemo_jax.media import iter_frames


def frames_of(path, *times) -> list[np.ndarray]:
    return [next(rgb for _, rgb in iter_frames(path, time)) for time in times]


@pytest.fixture(scope="module")
def faces(carphone, wolfgang):
    """Two frames of each of two people, seconds apart, and their first faces."""
    frames = frames_of(carphone, 0.0, 3.0) + frames_of(wolfgang, 1.0, 15.0)
    return [(rgb, find_faces(rgb, 640)[:1, :4]) for rgb in frames]


def test_faces_are_where_the_other_detector_finds_them(faces):
    detector = FaceDetector()
    for rgb, box in faces:
        assert overlap(box, detector(rgb)[:, :4]).max() > 0.4


def test_several_threads_find_what_one_finds(faces):
    frames = [rgb for rgb, _ in faces] * 4
    alone = [find_faces(rgb, 480) for rgb in frames[:4]] * 4
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda rgb: find_faces(rgb, 480), frames))
    for one, other in zip(alone, at_once, strict=True):
        np.testing.assert_array_equal(one, other)


def test_boxes_are_in_pixels_of_the_frame_whatever_it_is_scaled_to(portrait):
    small, large = (find_faces(portrait, side)[:, :4] for side in (500, 700))
    assert overlap(small, large).item() > 0.6


def test_it_is_scaled_up_four_times_at_most(portrait, monkeypatch):
    shapes = []

    class Detector:
        def run(self, rgb, *rest):
            shapes.append(rgb.shape)
            return [], [], []

    monkeypatch.setattr(audit_faces, "_detector", Detector)
    find_faces(portrait, 100_000)
    find_faces(portrait, 88)
    assert shapes == [(576, 704, 3), (72, 88, 3)]


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (144, 176)])
def test_pictures_without_a_face_have_none(shape):
    assert find_faces(np.full((*shape, 3), 128, np.uint8), 640).shape == (0, 5)


def test_one_person_is_near_and_two_are_far(faces):
    points = np.concatenate([embed_faces(*face) for face in faces])
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    assert points.shape == (4, 128)
    assert max(distances[0, 1], distances[2, 3]) < SAME_PERSON
    assert distances[:2, 2:].min() > SAME_PERSON + 0.1


def test_a_masked_face_is_far_from_itself_though_its_place_is_known(faces):
    for rgb, box in faces:
        masked = paint(rgb, list(box), Mask(scale=1.4))
        known, masked_only = (
            embed_faces(masked, box, aligned_by=by) for by in (rgb, None)
        )
        assert np.linalg.norm(known - embed_faces(rgb, box)) > SAME_PERSON
        assert not np.array_equal(known, masked_only)


def test_what_is_not_installed_is_named_with_the_remedy(monkeypatch, tmp_path):
    assert missing() is None
    real = metadata.distribution
    monkeypatch.setattr(metadata, "distribution", lambda name: real("no-" + name))
    assert missing() == "face_recognition_models is not installed"
    with pytest.raises(ValueError, match=r"pip install 'deemo-jax\[audit\]'"):
        weights_path(audit_faces.LANDMARKS)

    class Other:
        def locate_file(self, path):
            return tmp_path / path

    monkeypatch.setattr(metadata, "distribution", lambda name: Other())
    assert "models/dlib_face" in str(missing())
    (tmp_path / "face_recognition_models" / "models").mkdir(parents=True)
    path = tmp_path / "face_recognition_models" / "models" / audit_faces.LANDMARKS
    path.write_bytes(b"other")
    with pytest.raises(ValueError, match="SHA-256"):
        weights_path(audit_faces.LANDMARKS)
    path.with_name(audit_faces.RECOGNITION).write_bytes(b"other")
    assert "has SHA-256" in str(missing())
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    assert missing() == "dlib-bin is not installed"
