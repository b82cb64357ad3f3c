"""Frames that the audit's report shows: masked, and as they were."""

import dataclasses
import io

from jaxtyping import Float, UInt8
import numpy as np
from PIL import Image, ImageDraw

from deemo_jax.deidentify.tracks import Moment

HEIGHT = 240  # pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A frame of the report, as JPEG: masked, and as it was."""

    time: float
    about: str
    masked: bytes
    original: bytes


def picture_of(
    about: str,
    moment: Moment,
    masked: UInt8[np.ndarray, "H W 3"],
    left: Float[np.ndarray, "L 4"],
) -> Picture:
    """A frame twice, small; the faces of the original in blue, those left in red."""
    shown = []
    for rgb in (masked, moment.rgb):
        image = Image.fromarray(rgb)
        scale = HEIGHT / image.height
        image = image.resize((max(1, round(image.width * scale)), HEIGHT))
        draw = ImageDraw.Draw(image)
        for boxes, colour in ((moment.found[:, :4], "#3b82c4"), (left, "#b4452c")):
            for box in boxes:
                draw.rectangle([float(n) * scale for n in box], outline=colour, width=2)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=80)
        shown.append(file.getvalue())
    return Picture(time=moment.time, about=about, masked=shown[0], original=shown[1])
