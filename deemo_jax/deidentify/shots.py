"""Where a shot of a film ends: suspected at once, and certain a second later."""

from jaxtyping import Float, UInt8
import numpy as np
from PIL import Image

THUMBNAIL = 32, 18  # pixels of a grey one
NOISE = 25.0  # variance of grey in which there is nothing to compare, of 255²
CUT = 0.5  # of `unlikeness`, from which two frames are of two shots
LASTING = 25  # frames that the picture before must stay away for


class Shots:
    """Told frame after frame, it tells the frame that the present shot began with.

    A cut counts once the picture before it has not come back for `LASTING` frames, so
    that a flash is none: what was known before one still holds after it.
    """

    def __init__(self):
        self._began = 0
        self._last: np.ndarray | None = None
        self._suspected: list[tuple[int, np.ndarray]] = []  # and the picture before

    def began(self, index: int, rgb: UInt8[np.ndarray, "H W 3"]) -> int:
        """The first frame of the shot, as far as is certain at frame `index`."""
        now = _thumbnail(rgb)
        for place, (_, before) in enumerate(self._suspected):
            if unlikeness(before, now) < CUT:
                del self._suspected[place:]  # the picture is back: nothing was cut
                break
        else:
            if self._last is not None and unlikeness(self._last, now) >= CUT:
                self._suspected.append((index, self._last))
        self._last = now
        while self._suspected and index - self._suspected[0][0] >= LASTING:
            self._began, _ = self._suspected.pop(0)
        return self._began


def unlikeness(
    one: Float[np.ndarray, "18 32"], other: Float[np.ndarray, "18 32"]
) -> float:
    """One less the correlation of two thumbnails: a change of light leaves it at 0."""
    a, b = one - one.mean(), other - other.mean()
    shared = np.mean(a * b) + NOISE
    return float(1 - shared / np.sqrt((a.var() + NOISE) * (b.var() + NOISE)))


def _thumbnail(rgb: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "18 32"]:
    grey = Image.fromarray(rgb).convert("L")
    return np.asarray(grey.resize(THUMBNAIL, Image.Resampling.BOX), np.float32)
