"""The audit of one clip: what another detector and verifier than the masks' still see.

Its original is at hand, and both are streamed side by side, frame by frame.
"""

from collections.abc import Callable, Iterable
import dataclasses
import io
import itertools
from pathlib import Path

from jaxtyping import Float, UInt8
import numpy as np
from PIL import Image, ImageDraw

from deemo_jax.annotation import Annotation, Refusal
from deemo_jax.clip import DeidentifiedClip
from deemo_jax.deidentify.audit_faces import SAME_PERSON, embed_faces, find_faces
from deemo_jax.deidentify.faces import overlap
from deemo_jax.deidentify.settings import Audit, Bridging
from deemo_jax.deidentify.tracks import Moment, bridge
from deemo_jax.media import iter_frames

MEASURE = "faces/2"  # a change of what the figures are counts up
PASSED, FAILED, UNAUDITED = "passed", "failed", "unaudited"
SAME_PLACE = 0.3  # intersection over union from which two boxes are one face's
HELD = Bridging(before=15, after=15)  # frames in which an original face is still there
COMPARED_EVERY = 10  # frames; recognising takes several times as long as finding
ALTERED = 24  # of 255, in a channel; no pixel that the codec alone changed reaches it
DETAIL = 48  # pixels, the side that a face is scaled to
COARSE = 6  # pixels, the side of what is no detail of it
UNCOVERED = 0.5  # of a face's detail is still there
CORNER = 0.15  # of each side of a box, is not looked at for that
PICTURE = 240  # pixels, the height of those in the report
NEAREST = "the nearest to its original"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured of a clip's pictures; `None` where there was nothing.

    Attributes:
        longest_side: pixels that frames were scaled to, see `settings.Audit`.
        frames: of the clip.
        frames_with_face: in whose original the auditing detector finds a face.
        faces: that it finds in them, all together.
        faces_left: that it finds where they were in the masked frames.
        gap_frames: the longest run of frames with a face that no mask covers; frames in
            which it finds none neither end nor lengthen a run.
        gap_start: of that run, in seconds.
        gap_seconds: of that run.
        compared: faces that were compared with their originals.
        alike: of these, those that are taken for the same person.
        nearest: distance of the nearest of them.
        distance: their mean distance.
        pixels_altered: share of all pixels.
    """

    longest_side: int
    frames: int = 0
    frames_with_face: int = 0
    faces: int = 0
    faces_left: int = 0
    gap_frames: int = 0
    gap_start: float | None = None
    gap_seconds: float = 0.0
    compared: int = 0
    alike: int = 0
    nearest: float | None = None
    distance: float | None = None
    pixels_altered: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A frame of the report, as JPEG: masked, and as it was."""

    time: float
    about: str
    masked: bytes
    original: bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audited:
    """All that the audit of a clip gives. The embeddings identify: they stay in memory.

    `clear` and `masked` are the mean embeddings [128] of the largest face, before and
    after; None where it was never found.
    """

    clip_id: str
    subject: str
    figures: Figures
    clear: Float[np.ndarray, " 128"] | None = None
    masked: Float[np.ndarray, " 128"] | None = None
    pictures: tuple[Picture, ...] = ()


def audit_clip(
    annotation: Annotation,
    media: Path,
    clip: DeidentifiedClip,
    longest_side: int,
    *,
    progress: Callable[[float], None] | None = None,
) -> Audited:
    """Watches a clip and its original at once; of a clip without video, nothing.

    Args:
        annotation: of the original: its `start` and `end` are of `media`.
        media: the original.
        clip: what was made of it.
        longest_side: pixels, see `find_faces`.
        progress: called with the seconds that are done.

    Raises:
        Refusal: one of the two cannot be read, or they have not the same frames.
    """
    watch = _Watch(longest_side)
    if clip.video is not None:
        originals = iter_frames(media, annotation.start, annotation.end)
        found = ((time, rgb, find_faces(rgb, longest_side)) for time, rgb in originals)
        pairs = itertools.zip_longest(bridge(found, HELD), iter_frames(clip.video))
        for moment, now in pairs:
            if moment is None or now is None or not _fits(moment.rgb, now[1]):
                raise Refusal(
                    "its video has other frames than its original",
                    "run `deemo deidentify` again",
                )
            height, width = moment.rgb.shape[:2]
            watch.frame(moment, now[1][:height, :width])
            if progress is not None:
                progress(moment.time)
    return Audited(
        clip_id=annotation.clip_id,
        subject=annotation.subject,
        figures=watch.figures(),
        clear=np.mean(watch.clear, axis=0) if watch.clear else None,
        masked=np.mean(watch.masked, axis=0) if watch.masked else None,
        pictures=tuple(watch.pictures.values()),
    )


def judge(
    figures: Figures, audit: Audit, faces: dict[str, int]
) -> tuple[str, tuple[str, ...]]:
    """The verdict on a clip, and the reasons, if it is not that it passed.

    `faces` are the counts of `DeidentifiedClip.faces`: where the auditing detector sees
    hardly any of the faces that were masked, it can say nothing of them.
    """
    wrong = []
    if figures.faces_left > audit.faces_left:
        wrong.append(f"{figures.faces_left} of {figures.faces} faces are left")
    if figures.gap_frames > audit.gap_frames:
        wrong.append(
            f"no mask is on a face for {figures.gap_frames} frames, "
            f"{figures.gap_seconds:.2f} s from {figures.gap_start:.2f} s on"
        )
    if figures.alike > audit.alike * figures.compared:
        wrong.append(
            f"{figures.alike} of {figures.compared} masked faces are taken for their "
            f"originals, the nearest at {figures.nearest:.2f}"
        )
    if wrong:
        return FAILED, tuple(wrong)
    if not figures.frames:
        return UNAUDITED, ("it has no pictures",)
    masked = faces.get("frames_with_face", 0)
    if not masked and not figures.frames_with_face:
        return UNAUDITED, ("no detector sees a face in it",)
    if figures.frames_with_face < audit.seen * masked:
        return UNAUDITED, (
            f"it sees a face in {figures.frames_with_face} of {masked} masked frames",
        )
    return PASSED, ()


def judged(clip: DeidentifiedClip, figures: Figures, audit: Audit) -> DeidentifiedClip:
    """The clip with the verdict, and with the figures that it follows from."""
    verdict, reasons = judge(figures, audit, clip.faces)
    found = dataclasses.asdict(figures)
    found |= {"reasons": list(reasons), "measure": MEASURE}
    return dataclasses.replace(clip, verdict=verdict, audit=found)


def judged_again(clip: DeidentifiedClip, audit: Audit) -> DeidentifiedClip | None:
    """By the thresholds that now hold; None if its figures were not measured so."""
    measured = (clip.audit.get("measure"), clip.audit.get("longest_side"))
    if measured != (MEASURE, audit.longest_side):
        return None
    names = [field.name for field in dataclasses.fields(Figures)]
    return judged(clip, Figures(**{name: clip.audit[name] for name in names}), audit)


def unjudged(clip: DeidentifiedClip) -> DeidentifiedClip:
    """The clip, unaudited if it passed an audit that was another one than today's."""
    if clip.verdict != PASSED:
        return clip
    return dataclasses.replace(clip, verdict=UNAUDITED)


def failures(clips: Iterable[DeidentifiedClip]) -> tuple[str, ...]:
    """A line for each clip that failed, with the reasons."""
    return tuple(
        f"{clip.annotation.clip_id} failed: {'; '.join(clip.audit.get('reasons', ()))}"
        for clip in clips
        if clip.verdict == FAILED
    )


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


def _fits(clear: np.ndarray, masked: np.ndarray) -> bool:
    """Whether one has the other's size; an odd side was padded to an even one."""
    return all(
        b in (a, a + a % 2)
        for a, b in zip(clear.shape[:2], masked.shape[:2], strict=True)
    )


class _Watch:
    """What is counted and kept while the frames go by."""

    def __init__(self, longest_side: int):
        self._longest_side = longest_side
        self.clear: list[np.ndarray] = []
        self.masked: list[np.ndarray] = []
        self.pictures: dict[str, Picture] = {}
        self._frames = self._with_face = self._faces = self._left = 0
        self._altered = 0.0
        self._distances: list[float] = []
        self._compared: int | None = None  # the last frame in which faces were
        self._run: tuple[int, float, float] | None = None  # frames, start, last
        self._gap = (0, 0.0, 0.0)
        self._time = self._step = 0.0

    def frame(self, moment: Moment, masked: UInt8[np.ndarray, "H W 3"]) -> None:
        """One frame and the original's faces, and what became of it."""
        clear, found = moment.rgb, moment.found[:, :4]
        left = self._left_in(masked, moment.masked)
        self._step, self._time = moment.time - self._time, moment.time
        self._with_face += len(found) > 0
        self._faces += len(found)
        self._left += len(left)
        change = np.maximum(clear, masked) - np.minimum(clear, masked)
        self._altered += float((change.max(axis=-1) > ALTERED).mean())
        about = []
        if len(left):
            about.append("a face is left")
        if any(detail_left(clear, masked, box) > UNCOVERED for box in found):
            count, start, _ = self._run or (0, moment.time, 0.0)
            self._run = (count + 1, start, moment.time)
            self._gap = max(self._gap, self._run, key=lambda run: run[0])
            about.append("no mask is on a face")
        elif len(found):
            self._run = None
        last = self._compared
        if len(found) and (last is None or self._frames - last >= COMPARED_EVERY):
            self._compared = self._frames
            if self._compare(clear, masked, found):
                self.pictures.pop(NEAREST, None)
                about.append(NEAREST)
        for words in about:
            if words not in self.pictures:
                self.pictures[words] = _picture(words, moment, masked, left)
        self._frames += 1

    def _left_in(self, masked: np.ndarray, places: list[np.ndarray]) -> np.ndarray:
        """Faces [L, 4] of a masked frame that are where the original has one.

        They are looked for around these places alone: it takes a part of the time.
        """
        if not places:
            return np.zeros((0, 4), np.float32)
        boxes = np.stack(places).astype(np.float32)
        margin = (boxes[:, 2:] - boxes[:, :2]).max(axis=0)
        first = boxes[:, :2].min(axis=0) - margin
        last = boxes[:, 2:].max(axis=0) + margin
        low, high = np.clip([first, last], 0, masked.shape[1::-1]).astype(int)
        around = masked[low[1] : high[1], low[0] : high[0]]
        if not around.size:
            return boxes[:0]
        side = self._longest_side * max(around.shape) / max(masked.shape)
        faces = find_faces(around, round(side))[:, :4] + np.tile(low, 2)[None]
        return faces[overlap(faces, boxes).max(axis=1) >= SAME_PLACE]

    def _compare(self, clear, masked, found) -> bool:
        """Compares the faces of a frame; whether one is the nearest so far."""
        before = embed_faces(clear, found)
        after = embed_faces(masked, found, aligned_by=clear)
        largest = np.argmax(np.prod(found[:, 2:] - found[:, :2], axis=1))
        self.clear.append(before[largest])
        self.masked.append(after[largest])
        distances = np.linalg.norm(before - after, axis=1)
        nearest = min(self._distances, default=np.inf)
        self._distances += distances.tolist()
        return bool(distances.min() < nearest)

    def figures(self) -> Figures:
        """What was counted."""
        count, start, last = self._gap
        some, distances = self._frames > 0, self._distances
        return Figures(
            longest_side=self._longest_side,
            frames=self._frames,
            frames_with_face=self._with_face,
            faces=self._faces,
            faces_left=self._left,
            gap_frames=count,
            gap_start=start if count else None,
            gap_seconds=last - start + self._step if count else 0.0,
            compared=len(distances),
            alike=sum(distance < SAME_PERSON for distance in distances),
            nearest=min(distances, default=None),
            distance=float(np.mean(distances)) if distances else None,
            pixels_altered=self._altered / self._frames if some else None,
        )


def _picture(
    about: str, moment: Moment, masked: np.ndarray, left: np.ndarray
) -> Picture:
    """The frame twice, small; the original's faces in blue, those left in red."""
    shown = []
    for rgb in (masked, moment.rgb):
        image = Image.fromarray(rgb)
        scale = PICTURE / image.height
        image = image.resize((max(1, round(image.width * scale)), PICTURE))
        draw = ImageDraw.Draw(image)
        for boxes, colour in ((moment.found[:, :4], "#3b82c4"), (left, "#b4452c")):
            for box in boxes:
                draw.rectangle([float(n) * scale for n in box], outline=colour, width=2)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=80)
        shown.append(file.getvalue())
    return Picture(time=moment.time, about=about, masked=shown[0], original=shown[1])
