"""How much of a face's detail is still in its place, whoever can or cannot see it."""

from jaxtyping import Float, UInt8
import numpy as np
from PIL import Image

DETAIL = 48  # pixels, the side that a face is scaled to
COARSE = 6  # pixels, the side of what is no detail of it
CORNER = 0.15  # of each side of a box, is not looked at for that


def detail_left(
    clear: UInt8[np.ndarray, "H W 3"],
    masked: UInt8[np.ndarray, "H W 3"],
    box: Float[np.ndarray, " 4"],
) -> float:
    """The share of a face's detail that is still in its box: 1 if nothing was done.

    Detail is what is finer than a sixth of the face. What is there before is sought
    after, so what the mask itself brings in does not count.
    """
    height, width = clear.shape[:2]
    # Of its corners a mask leaves some, with what is behind the head in them.
    inset = CORNER * (box[2:] - box[:2])
    box = np.concatenate([box[:2] + inset, box[2:] - inset])
    left, top = np.clip(np.floor(box[:2]).astype(int), 0, [width - 1, height - 1])
    right, bottom = np.maximum(np.ceil(box[2:]).astype(int), [left + 1, top + 1])
    before, after = (_detail(rgb[top:bottom, left:right]) for rgb in (clear, masked))
    return float(np.vdot(before, after) / max(np.vdot(before, before), 1e-6))


def _detail(face: np.ndarray) -> np.ndarray:
    grey = Image.fromarray(face).convert("L")
    grey = grey.resize((DETAIL, DETAIL), Image.Resampling.BOX)
    coarse = grey.resize((COARSE, COARSE), Image.Resampling.BOX)
    coarse = coarse.resize((DETAIL, DETAIL), Image.Resampling.BICUBIC)
    return np.asarray(grey, np.float32) - np.asarray(coarse, np.float32)
