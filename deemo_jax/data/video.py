"""Frames of fixed number and size: chosen, decoded, varied for training."""

from collections.abc import Sequence
import io
import math

from jaxtyping import Bool, UInt8
import numpy as np
from PIL import Image

from deemo_jax.data import resize

try:
    import simplejpeg
except ImportError:  # it is not there: Pillow takes half as long again
    simplejpeg = None

SHIFT = 1 / 16  # of the side, at most, in any direction: 4 pixels of 64


def choose(available: int, wanted: int) -> list[int]:
    """The middles of `wanted` equal parts; all there are, where there are fewer.

    choose(12, 4) == [1, 4, 7, 10]      choose(3, 8) == [0, 1, 2]
    """
    if available <= wanted:
        return list(range(available))
    return [(2 * part + 1) * available // (2 * wanted) for part in range(wanted)]


def decode(jpeg: bytes, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The frame's centre, its shortest side scaled to `size` pixels: see `resize`.

    (The JPEG decoder's own scaling would be faster on large frames, and tens of levels
    off.)

    `SiglipImageProcessor` squeezes the whole frame into the square instead. Here a
    frame keeps its shape for SigLIP too, and loses what is beyond the square: bodies
    stay as wide as they are. On square frames the two agree.

    Raises:
        ValueError: it is no image.
    """
    pixels = _decode_jpeg(jpeg)
    if pixels is None:
        try:
            image = Image.open(io.BytesIO(jpeg)).convert("RGB")
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"a frame is no image ({error})") from error
        pixels = np.asarray(image.convert("RGBX"))
    return resize.centre(pixels, size)


def _decode_jpeg(jpeg: bytes) -> UInt8[np.ndarray, "H W 4"] | None:
    """To the bit what Pillow makes of it, sooner; None for what is left to Pillow.

    That is other formats, what is damaged, and what Pillow has rules of its own for:
    colours for print, and images of very many pixels.
    """
    if simplejpeg is None:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(jpeg)
        most = Image.MAX_IMAGE_PIXELS or math.inf
        if colours == "CMYK" or int(height) * int(width) > most:
            return None
        return simplejpeg.decode_jpeg(jpeg, "RGBX")
    except ValueError:
        return None


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
