"""Which places of each frame to mask: detections joined in time, failing closed."""

from collections import deque
from collections.abc import Iterable, Iterator
import dataclasses
import math

from jaxtyping import Float, UInt8
import numpy as np

from deemo_jax.deidentify.faces import overlap
from deemo_jax.deidentify.settings import Bridging
from deemo_jax.deidentify.shots import Shots

SURE = 0.5  # score from which a detection is hardly ever a false alarm
GROWTH = 0.02  # of a held box, for each frame since its face was seen
LARGEST = 1.5  # sides of a held box over those of the one it was seen in


@dataclasses.dataclass
class Moment:
    """One frame, what was found in it, and all that is to be masked."""

    time: float
    rgb: UInt8[np.ndarray, "H W 3"]
    found: Float[np.ndarray, "L 5"]
    masked: list[Float[np.ndarray, " 4"]]


@dataclasses.dataclass
class _Track:
    box: np.ndarray
    seen: int  # index of the frame of `box`
    count: int
    best: float


def bridge(
    frames: Iterable[
        tuple[float, UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "L 5"]]
    ],
    bridging: Bridging,
) -> Iterator[Moment]:
    """Streams moments whose `masked` covers frames in which a face was missed.

    Detections of one face are joined to a track. With before=2, after=3 and a face
    found (D) in five frames of fourteen, its own box is masked in those, a box between
    its neighbours' in a gap (i), and the nearest one, growing by 2 % a frame to at most
    one and a half times its size, at both ends (h):

        found    .  .  .  .  D  D  .  D  D  D  .  .  .  .  .
        masked   .  .  h  h  D  D  i  D  D  D  h  h  h  .  .

    With after=None, a face is held to the end of its shot and for `shots.LASTING`
    frames more, since only then is it certain that the shot ended.
    """
    window: deque[Moment] = deque()
    tracks: list[_Track] = []
    shots = Shots() if bridging.after is None else None
    for index, (time, rgb, found) in enumerate(frames):
        if shots is not None:
            began = shots.began(index, rgb)
            tracks = [track for track in tracks if track.seen >= began]
        now = Moment(time=time, rgb=rgb, found=found, masked=list(found[:, :4]))
        pairs = _match(tracks, found[:, :4])
        for face, (*box, score) in enumerate(found):
            box = np.array(box, np.float32)
            track = pairs.get(face)
            if track is None:
                track = _Track(box=box, seen=index, count=0, best=0.0)
                tracks.append(track)
                for back in range(1, min(bridging.before, len(window)) + 1):
                    window[-back].masked.append(_grown(box, back))
            for back in range(1, min(index - track.seen, len(window) + 1)):
                share = back / (index - track.seen)
                between = share * track.box + (1 - share) * box
                nearest = min(back, index - track.seen - back)
                window[-back].masked.append(_grown(between, nearest))
            track.box, track.seen = box, index
            track.count += 1
            track.best = max(track.best, float(score))
        for track in tracks:
            if 0 < index - track.seen <= _hold(track, bridging):
                now.masked.append(_grown(track.box, index - track.seen))
        # A gap can be filled as long as its frames are held, so long tracks go on.
        tracks = [
            track
            for track in tracks
            if index - track.seen < max(_hold(track, bridging), bridging.before + 1)
        ]
        window.append(now)
        if len(window) > bridging.before:
            yield window.popleft()
    yield from window


def _hold(track: _Track, bridging: Bridging) -> int | float:
    """Frames that a track is held for after its last detection."""
    after = math.inf if bridging.after is None else bridging.after
    return after if track.best >= SURE else min(track.count, after)


def _grown(box: np.ndarray, frames: int) -> np.ndarray:
    """A box enlarged around its centre, since its face may have moved."""
    margin = (box[2:] - box[:2]) * min(GROWTH * frames, LARGEST - 1) / 2
    return np.concatenate([box[:2] - margin, box[2:] + margin])


def _doubled(boxes: np.ndarray) -> np.ndarray:
    """Boxes [L, 4] of twice the sides, around the same centres."""
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, 2:] + half], axis=1)


def _match(tracks: list[_Track], boxes: np.ndarray) -> dict[int, _Track]:
    """The track that each box continues: greatest overlap first, one to one.

    Boxes are doubled before they are compared, so that a quick face is followed.
    """
    if not tracks or not len(boxes):
        return {}
    last = np.stack([track.box for track in tracks])
    shared = overlap(_doubled(boxes), _doubled(last))
    pairs: dict[int, _Track] = {}
    while shared.max() > 0.2:
        box, track = np.unravel_index(shared.argmax(), shared.shape)
        pairs[int(box)] = tracks[int(track)]
        shared[box] = 0
        shared[:, track] = 0
    return pairs
