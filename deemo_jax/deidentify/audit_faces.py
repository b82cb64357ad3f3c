"""Recognising faces by dlib, which knows nothing of how they were masked.

The weights are read from the distribution `face_recognition_models`; nothing of it is
imported.
"""

import functools
from importlib import import_module, util
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Float, UInt8
import numpy as np

from deemo_jax.deidentify import mtcnn
from deemo_jax.packaged import packaged_file

REMEDY = "pip install 'deemo-jax[audit]'"
RECOGNITION = "dlib_face_recognition_resnet_model_v1.dat"
LANDMARKS = "shape_predictor_5_face_landmarks.dat"
SHA256 = {RECOGNITION: "55533b28a958", LANDMARKS: "c4b1e9804792"}  # first digits
SAME_PERSON = 0.6  # distance below which dlib takes two faces for one person's
KNOWN = 0.7  # distance to what dlib makes of nothing, from which it knows a face


def missing() -> str | None:
    """What of the audit of faces is not installed, and the remedy; None if all is."""
    for module, name in (("dlib", "dlib-bin"), ("onnxruntime", "onnxruntime")):
        if util.find_spec(module) is None:
            return f"{name} is not installed: {REMEDY}"
    try:
        weights_path(RECOGNITION)
        for name in mtcnn.SHA256:
            mtcnn.weights_path(name)
    except ValueError as error:
        return str(error)
    return None


def weights_path(name: str) -> Path:
    """Where a file of the installed `face_recognition_models` distribution lies.

    Raises:
        ValueError: it is not installed, or is not the known one.
    """
    distribution = "face_recognition_models"
    return packaged_file(
        distribution,
        f"{distribution}/models/{name}",
        sha256=SHA256[name],
        remedy=REMEDY,
    )


def embed_faces(
    rgb: UInt8[np.ndarray, "H W 3"],
    boxes: Float[np.ndarray, "L 4"],
    aligned_by: UInt8[np.ndarray, "H W 3"] | None = None,
) -> Float[np.ndarray, "L 128"]:
    """What dlib's residual network recognises each face by: a point in 128 dimensions.

    Two faces of one person are hardly ever further apart than `SAME_PERSON`. Eyes and
    nose, by which a face is aligned, are looked for within its box, in `aligned_by`
    if it is given: whoever knows where they are need not find them under a mask.
    """
    dlib = _dlib()
    points = []
    for left, top, right, bottom in boxes:
        where = dlib.rectangle(*(round(float(n)) for n in (left, top, right, bottom)))
        shape = _landmarks()(rgb if aligned_by is None else aligned_by, where)
        points.append(_recognition().compute_face_descriptor(rgb, shape))
    return np.array(points, np.float32).reshape(-1, 128)


def are_known(points: Float[np.ndarray, "L 128"]) -> Bool[np.ndarray, " L"]:
    """Which of the points are of faces that the network knows for such.

    Those of faces that lie on their side, whose eyes are not found, are near to that of
    a grey picture, and so are those of all masks: such a pair tells nothing. Measured
    in `configs/deidentify.md`.
    """
    return np.linalg.norm(points - _of_nothing(), axis=1) >= KNOWN


@functools.cache
def _of_nothing() -> Float[np.ndarray, " 128"]:
    """What a grey picture is recognised by."""
    box = np.array([[40, 40, 160, 160]], np.float32)
    return embed_faces(np.full((200, 200, 3), 127, np.uint8), box)[0]


def _dlib() -> Any:
    """The package, whose names no type checker knows."""
    return import_module("dlib")


@functools.cache
def _landmarks():
    return _dlib().shape_predictor(str(weights_path(LANDMARKS)))


@functools.cache
def _recognition():
    return _dlib().face_recognition_model_v1(str(weights_path(RECOGNITION)))
