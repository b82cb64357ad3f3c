"""Frames of fixed number and size: chosen, decoded, varied for training."""

from collections.abc import Sequence
import io

from jaxtyping import Bool, UInt8
import numpy as np
from PIL import Image

SHIFT = 1 / 16  # of the side, at most, in any direction: 4 pixels of 64


def choose(available: int, wanted: int) -> list[int]:
    """The middles of `wanted` equal parts; all there are, where there are fewer.

    choose(12, 4) == [1, 4, 7, 10]      choose(3, 8) == [0, 1, 2]
    """
    if available <= wanted:
        return list(range(available))
    return [(2 * part + 1) * available // (2 * wanted) for part in range(wanted)]


def decode(jpeg: bytes, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The frame's centre, its shortest side scaled to `size` pixels, as CLIP does it.

    To the bit what `transformers.CLIPImageProcessor` has before it normalises: Pillow's
    bicubic filter, the longest side rounded down, the left and upper edge too.
    (The JPEG decoder's own scaling, Pillow's `draft`, would be up to three times as
    fast on large frames, and tens of levels off.)

    `SiglipImageProcessor` squeezes the whole frame into the square instead. Here a
    frame keeps its shape for SigLIP too, and loses what is beyond the square: bodies
    stay as wide as they are. On square frames the two agree.

    Raises:
        ValueError: it is no image.
    """
    try:
        image = Image.open(io.BytesIO(jpeg))
        image = image if image.mode == "RGB" else image.convert("RGB")
        image.load()
    except OSError as error:
        raise ValueError(f"a frame is no image ({error})") from error
    width, height = (size * side // min(image.size) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    if width > size:  # Pillow scales rows, then columns: of these, those that stay
        image = image.resize((width, image.height), Image.Resampling.BICUBIC)
        image = image.crop((left, 0, left + size, image.height))
        width, left = size, 0
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def fit(
    jpegs: Sequence[bytes], num_frames: int, size: int
) -> tuple[UInt8[np.ndarray, "T H W 3"], Bool[np.ndarray, " T"]]:
    """`num_frames` frames evenly spread over the clip, and which of them are there."""
    frames = np.zeros((num_frames, size, size, 3), np.uint8)
    chosen = choose(len(jpegs), num_frames)
    for place, i in enumerate(chosen):
        frames[place] = decode(jpegs[i], size)
    return frames, np.arange(num_frames) < len(chosen)


def augment(
    frames: UInt8[np.ndarray, "T H W 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "T H W 3"]:
    """Shifts all frames alike, edges repeated, and mirrors all of them or none."""
    most = round(frames.shape[1] * SHIFT)
    down, right = rng.integers(0, 2 * most + 1, size=2)
    padded = np.pad(frames, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    height, width = frames.shape[1:3]
    moved = padded[:, down : down + height, right : right + width]
    return np.ascontiguousarray(moved[:, :, ::-1] if rng.random() < 0.5 else moved)
