"""The audit of one clip: what other detectors and verifiers still see and hear of it.

Its original is at hand, and both are streamed side by side, frame by frame.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
import dataclasses
import functools
import itertools
from pathlib import Path
from typing import TypeVar

from jaxtyping import Float, UInt8
import numpy as np

from deemo_jax.annotation import Annotation
from deemo_jax.clip import DeidentifiedClip
from deemo_jax.deidentify import speakers
from deemo_jax.deidentify.audit_faces import SAME_PERSON, are_known, embed_faces
from deemo_jax.deidentify.audit_pictures import Picture, picture_of
from deemo_jax.deidentify.detail import detail_left
from deemo_jax.deidentify.faces import found_again
from deemo_jax.deidentify.likeness import voice_likeness
from deemo_jax.deidentify.mtcnn import find_faces
from deemo_jax.deidentify.settings import Audit, Bridging
from deemo_jax.deidentify.tracks import Moment, bridge
from deemo_jax.media import iter_frames
from deemo_jax.refusals import Refusal
from deemo_jax.workers import in_threads

# Scores from which the auditing detector found a face in an original, and in a masked
# frame. In 216 frames faces had 0.98 and more, masked ones 0.94 at most.
FOUND, LEFT = 0.9, 0.97
# Of a masked face's side: whatever is smaller shares too little with it to be it.
PART = 0.25
HELD = Bridging(before=15, after=15)  # frames in which an original face is still there
COMPARED_EVERY = 30  # frames; recognising takes several times as long as finding
ALTERED = 24  # of 255, in a channel; no pixel that the codec alone changed reaches it
UNCOVERED = 0.5  # of a face's detail is still there
NEAREST = "the nearest to its original"


Item = TypeVar("Item")
Seen = tuple[float, UInt8[np.ndarray, "H W 3"]]  # when, and what


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured of a clip; `None` where there was nothing.

    Attributes:
        longest_side: pixels that frames were scaled to, see `settings.Audit`.
        every: of so many frames one was looked at, see there.
        frames: of the clip.
        looked: of these, those that were looked at.
        frames_with_face: in whose original the auditing detector finds a face, or puts
            one between two that it finds.
        faces: that it finds in the frames that it looks at, all together.
        together: in how many frames it finds two faces and more, three and more, and so
            on.
        faces_left: that it finds where they were in these frames, masked.
        gap_frames: the longest run of frames with a face that no mask covers; frames in
            which it finds none neither end nor lengthen a run.
        gap_start: of that run, in seconds.
        gap_seconds: of that run.
        compared_in: frames, from 0 on, whose faces were compared with their originals.
        compared: faces that were; those that `audit_faces.are_known` denies were not.
        alike: of these, those that are taken for the same person.
        nearest: distance of the nearest of them.
        distance: their mean distance.
        pixels_altered: share of all pixels.
        voice: likeness of the clip's voice to its original's, see `voice_likeness`.
        audible: whether its original's sound is more than silence.
        unheard: why its voice was not listened to, although the clip has sound.
    """

    longest_side: int
    every: int
    frames: int = 0
    looked: int = 0
    frames_with_face: int = 0
    faces: int = 0
    together: tuple[int, ...] = ()
    faces_left: int = 0
    gap_frames: int = 0
    gap_start: float | None = None
    gap_seconds: float = 0.0
    compared_in: tuple[int, ...] = ()
    compared: int = 0
    alike: int = 0
    nearest: float | None = None
    distance: float | None = None
    pixels_altered: float | None = None
    voice: float | None = None
    audible: bool = False
    unheard: str = ""


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
    audit: Audit,
    *,
    threads: int = 1,
    progress: Callable[[float], None] | None = None,
) -> Audited:
    """Watches a clip and its original at once, and listens to both.

    Args:
        annotation: of the original: its `start` and `end` are of `media`.
        media: the original.
        clip: what was made of it.
        audit: how closely it is looked at; nothing is judged here.
        threads: that look for faces.
        progress: called with the seconds that are done.

    Raises:
        Refusal: one of the two cannot be read, or they have not the same frames.
    """
    watch = _Watch(audit)
    start, end = annotation.start, annotation.end
    if clip.video is not None:
        found = _found(iter_frames(media, start, end), audit, threads)
        pairs = _alongside(bridge(found, HELD), iter_frames(clip.video))
        left = in_threads(
            watch.left_in,
            _every(pairs, audit.every),
            threads=threads,
            held=2 * threads * audit.every,
        )
        for ((moment, masked), looked), faces in left:
            watch.frame(moment, masked, faces, looked)
            if progress is not None:
                progress(moment.time)
    figures = watch.figures()
    if clip.audio is not None:
        if unheard := speakers.missing():
            figures = dataclasses.replace(figures, unheard=unheard)
        else:
            voice, audible = voice_likeness(media, start, end, clip.audio)
            figures = dataclasses.replace(figures, voice=voice, audible=audible)
    return watch.audited(annotation, figures)


def compare_again(
    annotation: Annotation,
    media: Path,
    clip: DeidentifiedClip,
    audit: Audit,
    figures: Figures,
    *,
    progress: Callable[[float], None] | None = None,
) -> Audited:
    """Compares the faces of a clip in those frames in which `audit_clip` did.

    Its `figures` stand; the embeddings, which are kept nowhere, are the same again.

    Raises:
        Refusal: one of the two files cannot be read, or they have not the same frames.
    """
    watch, frames = _Watch(audit), set(figures.compared_in)
    if clip.video is not None and frames:
        clear = iter_frames(media, annotation.start, annotation.end)
        nothing = np.zeros((0, 5), np.float32)
        moments = (Moment(time, rgb, nothing, []) for time, rgb in clear)
        pairs = _alongside(moments, iter_frames(clip.video))
        for index, (moment, masked) in enumerate(pairs):
            if index in frames:
                found = find_faces(moment.rgb, audit.longest_side, FOUND)
                watch.compare(dataclasses.replace(moment, found=found), masked)
            if progress is not None:
                progress(moment.time)
    return watch.audited(annotation, figures)


def _every(items: Iterable[Item], every: int) -> Iterator[tuple[Item, bool]]:
    """Each item, and whether it is looked at: every n-th one is, and the last."""
    followed = itertools.pairwise(itertools.chain(items, [None]))
    for index, (item, following) in enumerate(followed):
        assert item is not None  # which only follows the last
        yield item, index % every == 0 or following is None


def _found(
    frames: Iterable[Seen], audit: Audit, threads: int
) -> Iterator[tuple[float, UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "L 5"]]]:
    """Time, frame and faces of each: found (score above 0), or put between (0).

    With every=3 a frame is looked at (L) or not; a face that is found (D) by turns:

        frames  L  .  .  L  .  .  L  .  .  L  .
        faces   .  0  0  D  0  0  D  .  .  .  .
    """

    def look(frame: tuple[Seen, bool]) -> Float[np.ndarray, "L 5"]:
        (_, rgb), looked = frame
        side = audit.longest_side
        return find_faces(rgb, side, FOUND) if looked else np.zeros((0, 5), np.float32)

    looks = in_threads(
        look,
        _every(frames, audit.every),
        threads=threads,
        held=2 * threads * audit.every,
    )
    faces = ((time, rgb, found) for ((time, rgb), _), found in looks)
    for moment in bridge(faces, Bridging(before=audit.every - 1, after=0)):
        between = [[*box, 0.0] for box in moment.masked[len(moment.found) :]]
        rows = np.array(between, np.float32).reshape(-1, 5)
        yield moment.time, moment.rgb, np.concatenate([moment.found, rows])


def _alongside(
    moments: Iterable[Moment], masked: Iterable[Seen]
) -> Iterator[tuple[Moment, UInt8[np.ndarray, "H W 3"]]]:
    """Each frame of the original with the masked one, cut to its size."""
    for moment, now in itertools.zip_longest(moments, masked):
        if moment is None or now is None or not _fits(moment.rgb, now[1]):
            raise Refusal(
                "its video has other frames than its original",
                "run `deemo deidentify` again",
            )
        height, width = moment.rgb.shape[:2]
        yield moment, np.ascontiguousarray(now[1][:height, :width])


def _fits(clear: np.ndarray, masked: np.ndarray) -> bool:
    """Whether one has the other's size; an odd side was padded to an even one."""
    return all(
        b in (a, a + a % 2)
        for a, b in zip(clear.shape[:2], masked.shape[:2], strict=True)
    )


class _Watch:
    """What is counted and kept while the frames go by."""

    def __init__(self, audit: Audit):
        self._audit = audit
        self._clear: list[np.ndarray] = []
        self._masked: list[np.ndarray] = []
        self._pictures: dict[str, Picture] = {}
        self._frames = self._looked = self._with_face = self._faces = self._left = 0
        self._together: Counter[int] = Counter()  # frames by their faces at least
        self._altered = 0.0
        self._distances: list[float] = []
        self._compared: list[int] = []  # frames in which faces were
        self._run: tuple[int, float, float] | None = None  # frames, start, last
        self._gap = (0, 0.0, 0.0)
        self._time = self._step = 0.0

    def left_in(
        self, pair: tuple[tuple[Moment, UInt8[np.ndarray, "H W 3"]], bool]
    ) -> Float[np.ndarray, "L 4"]:
        """Faces of a masked frame that are where the original has one, if looked at."""
        (moment, masked), looked = pair
        places = np.array(moment.masked if looked else [], np.float32).reshape(-1, 4)
        scale = self._audit.longest_side / max(masked.shape)
        smallest = PART * (places[:, 2:] - places[:, :2]).min(initial=np.inf)

        def find(part: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "L 5"]:
            side = round(scale * max(part.shape))
            return find_faces(part, side, LEFT, smallest=float(smallest))

        return found_again(find, masked, places)

    def frame(
        self,
        moment: Moment,
        masked: UInt8[np.ndarray, "H W 3"],
        left: Float[np.ndarray, "L 4"],
        looked: bool,
    ) -> None:
        """One frame and the original's faces, and what became of it."""
        clear, found = moment.rgb, moment.found[:, :4]
        seen = found[moment.found[:, 4] > 0]  # itself, not between others
        self._step, self._time = moment.time - self._time, moment.time
        self._looked += looked
        self._with_face += len(found) > 0
        self._faces += len(seen)
        self._together.update(range(2, 1 + len(seen)))
        self._left += len(left)
        change = np.maximum(clear, masked) - np.minimum(clear, masked)
        most = functools.reduce(np.maximum, np.moveaxis(change, -1, 0))
        self._altered += float((most > ALTERED).mean())
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
        last = self._compared[-1] if self._compared else -COMPARED_EVERY
        if len(seen) and self._frames - last >= COMPARED_EVERY:
            self._compared.append(self._frames)
            self.compare(moment, masked)
        for words in about:
            if words not in self._pictures:
                self._pictures[words] = picture_of(words, moment, masked, left)
        self._frames += 1

    def compare(self, moment: Moment, masked: UInt8[np.ndarray, "H W 3"]) -> None:
        """Compares the faces that were found in a frame and are known, if any are."""
        found = moment.found[moment.found[:, 4] > 0, :4]
        before = embed_faces(moment.rgb, found)
        known = are_known(before)
        if not known.any():
            return
        found, before = found[known], before[known]
        after = embed_faces(masked, found, aligned_by=moment.rgb)
        largest = np.argmax(np.prod(found[:, 2:] - found[:, :2], axis=1))
        self._clear.append(before[largest])
        self._masked.append(after[largest])
        distances = np.linalg.norm(before - after, axis=1)
        if distances.min() < min(self._distances, default=np.inf):
            none = np.zeros((0, 4), np.float32)
            self._pictures[NEAREST] = picture_of(NEAREST, moment, masked, none)
        self._distances += distances.tolist()

    def audited(self, annotation: Annotation, figures: Figures) -> Audited:
        """All that is known of the clip, with these figures."""
        return Audited(
            clip_id=annotation.clip_id,
            subject=annotation.subject,
            figures=figures,
            clear=np.mean(self._clear, axis=0) if self._clear else None,
            masked=np.mean(self._masked, axis=0) if self._masked else None,
            pictures=tuple(self._pictures.values()),
        )

    def figures(self) -> Figures:
        """What was counted."""
        count, start, last = self._gap
        some, distances = self._frames > 0, self._distances
        return Figures(
            longest_side=self._audit.longest_side,
            every=self._audit.every,
            frames=self._frames,
            looked=self._looked,
            frames_with_face=self._with_face,
            faces=self._faces,
            together=tuple(self._together[n] for n in sorted(self._together)),
            faces_left=self._left,
            gap_frames=count,
            gap_start=start if count else None,
            gap_seconds=last - start + self._step if count else 0.0,
            compared_in=tuple(self._compared),
            compared=len(distances),
            alike=sum(distance < SAME_PERSON for distance in distances),
            nearest=min(distances, default=None),
            distance=float(np.mean(distances)) if distances else None,
            pixels_altered=self._altered / self._frames if some else None,
        )
