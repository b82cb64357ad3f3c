"""Finding and recognising faces by dlib, which knows nothing of how they were masked.

The weights are read from the distribution `face_recognition_models`; nothing of it is
imported.
"""

import functools
from importlib import import_module, util
from pathlib import Path
import threading
from typing import Any

from jaxtyping import Float, UInt8
import numpy as np
from PIL import Image

from deemo_jax.packaged import packaged_file

REMEDY = "pip install 'deemo-jax[audit]'"
RECOGNITION = "dlib_face_recognition_resnet_model_v1.dat"
LANDMARKS = "shape_predictor_5_face_landmarks.dat"
SHA256 = {RECOGNITION: "55533b28a958", LANDMARKS: "c4b1e9804792"}  # first digits
MOST_ENLARGED = 4.0
SAME_PERSON = 0.6  # distance below which dlib takes two faces for one person's

_of_thread = threading.local()


def missing() -> str | None:
    """What of the extra `audit` is not installed; None if faces can be audited."""
    if util.find_spec("dlib") is None:
        return "dlib-bin is not installed"
    try:
        weights_path(RECOGNITION)
    except ValueError as error:
        return str(error).partition(":")[0]
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


def find_faces(
    rgb: UInt8[np.ndarray, "H W 3"], longest_side: int
) -> Float[np.ndarray, "L 5"]:
    """The upright, frontal faces of a frame, by histograms of oriented gradients.

    Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005,
    as trained for faces by dlib. Rows are x1, y1, x2, y2 (pixels of the frame, possibly
    beyond its border) and score (above 0), best first.

    Frames are scaled so that their longer side is `longest_side`, at most four times as
    large as they are: in these, faces of some 70 pixels and more are found.
    """
    height, width = rgb.shape[:2]
    scale = min(longest_side / max(height, width), MOST_ENLARGED)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    scaled = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR))
    rectangles, scores, _ = _detector().run(scaled, 0, 0.0)
    rows = [
        (r.left() / scale, r.top() / scale, (r.right() + 1) / scale,
         (r.bottom() + 1) / scale, score)
        for r, score in zip(rectangles, scores, strict=True)
    ]  # fmt: skip
    return np.array(rows, np.float32).reshape(-1, 5)


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


def _dlib() -> Any:
    """The package, whose names no type checker knows."""
    return import_module("dlib")


def _detector():
    """One for each thread: it writes down what it looks at within itself."""
    if not hasattr(_of_thread, "detector"):
        _of_thread.detector = _dlib().get_frontal_face_detector()
    return _of_thread.detector


@functools.cache
def _landmarks():
    return _dlib().shape_predictor(str(weights_path(LANDMARKS)))


@functools.cache
def _recognition():
    return _dlib().face_recognition_model_v1(str(weights_path(RECOGNITION)))
