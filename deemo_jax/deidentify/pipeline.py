"""De-identifying one clip: its face masked, its voice bent, its words redacted."""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import functools
import itertools
from pathlib import Path

import numpy as np

from deemo_jax.annotation import Annotation
from deemo_jax.architecture import SAMPLE_RATE
from deemo_jax.clip import Clip, DeidentifiedClip, file_digest, together
from deemo_jax.container import MediaError
from deemo_jax.deidentify.faces import FaceDetector, found_again
from deemo_jax.deidentify.masks import paint
from deemo_jax.deidentify.pieces import in_pieces
from deemo_jax.deidentify.settings import Settings
from deemo_jax.deidentify.tracks import SURE, Moment, bridge
from deemo_jax.deidentify.voice import another_voice, silent
from deemo_jax.deidentify.words import listens, made_with, reworded
from deemo_jax.media import (
    MediaInfo,
    iter_audio,
    iter_frames,
    probe,
    write_audio,
    write_video,
)
from deemo_jax.refusals import Refusal
from deemo_jax.workers import in_threads

VERSION = "5"  # a change of methods or their settings counts up
# Pixels of the network in the shorter side of a mask; with 64, masked faces were found
# that are none with more.
ENOUGH = 128
ROUNDING = 0.5  # seconds that an annotation may go beyond its media; it is cut there
COUNTS = (
    "frames", "frames_with_face", "boxes", "frames_masked", "frames_unmasked",
    "looked", "left",
)  # fmt: skip


def fit(clip: Clip) -> tuple[Annotation, MediaInfo]:
    """Checks the media whole, and the annotation against it.

    Returns the annotation with `end` given (the media's, where it was None or went
    beyond it by less than half a second), its intervals ending within the clip.

    Raises:
        Refusal: the media cannot be read whole, or the annotation is not of it.
    """
    info = probe(clip.media)
    annotation, duration = clip.annotation, info.duration
    remedy = "correct the seconds, or name the right media"
    if annotation.start >= duration:
        raise Refusal(
            f"start {annotation.start:g} is after the media's end at {duration:.2f} s",
            remedy,
        )
    end = duration if annotation.end is None else annotation.end
    if end > duration + ROUNDING:
        raise Refusal(
            f"end {end:g} is after the media's end at {duration:.2f} s", remedy
        )
    end = min(end, duration)
    length = end - annotation.start
    intervals = []
    for interval in annotation.nfbl or ():
        if interval.start >= length or interval.end > length + ROUNDING:
            raise Refusal(
                f"nfbl {interval.label!r} from {interval.start:g} to {interval.end:g} "
                f"goes beyond the clip's {length:.2f} s",
                "give seconds from the clip's start, not the media's",
            )
        within = min(interval.end, length)
        intervals.append(dataclasses.replace(interval, end=within))
    nfbl = None if annotation.nfbl is None else tuple(intervals)
    return dataclasses.replace(annotation, end=end, nfbl=nfbl), info


def deidentify_clip(
    annotation: Annotation,
    media: Path,
    folder: Path,
    settings: Settings,
    *,
    source: str = "",
    threads: int = 1,
    progress: Callable[[float], None] | None = None,
) -> DeidentifiedClip:
    """Writes `folder/media/ID.mp4` and `ID.flac` of one clip, as far as it has them.

    Args:
        annotation: as `fit` returns it.
        media: the file it speaks of.
        folder: holds a folder `media`.
        settings: of detector, bridging and mask.
        source: see `DeidentifiedClip`.
        threads: that look for faces.
        progress: called with the seconds that are done; where its voice is listened to,
            half of each are for that and half for its mask (of sound alone, for its
            voice).

    Its words come first: where they cannot be seen to, nothing is written.

    Raises:
        MediaError: the media is damaged, or has nothing between start and end.
    """
    start, end = annotation.start, annotation.end
    voice = None
    if listens(annotation, settings.words):
        voice = _first_known(in_pieces(iter_audio(media, start, end)))
    share = 1.0 if voice is None else 0.5  # of what is at work
    passed = 0.0  # before it

    def report(seconds: float) -> None:
        if progress is not None:
            progress(passed + share * seconds)

    video = folder / "media" / f"{annotation.clip_id}.mp4"
    audio = folder / "media" / f"{annotation.clip_id}.flac"
    files: dict[str, Path] = {}
    faces: dict[str, int] = {}
    annotation, words, silenced = reworded(
        annotation, voice, settings.words, threads=threads, progress=report
    )
    if voice is not None:
        passed = share * ((end or start) - start)
    frames = _first_known(iter_frames(media, start, end))
    if frames is not None:
        found: list[np.ndarray] = []
        counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
        detector = _detector(settings.threshold, settings.longest_side, threads)
        moments = bridge(detector.stream(frames), settings.bridging)

        def masked() -> Iterator[tuple[float, np.ndarray]]:
            for moment in moments:
                found.append(np.array(moment.masked).reshape(-1, 4))
                _count(counts, moment)
                report(moment.time)
                yield moment.time, paint(moment.rgb, moment.masked, settings.mask)

        write_video(video, masked())
        files["video"] = video
        faces = counts | faces_left(video, found, detector, every=settings.look_again)
    sound = _first_known(in_pieces(iter_audio(media, start, end)))
    if sound is not None:
        change = another_voice(settings.voice)

        def changed() -> Iterator[np.ndarray]:
            done = 0.0  # seconds
            for piece in sound:
                yield silent(change(piece), silenced, done)
                done += len(piece) / SAMPLE_RATE
                if frames is None:  # beside pictures, it takes no time
                    report(done)

        write_audio(audio, changed())
        files["audio"] = audio
    if not files:
        raise MediaError(
            f"{media.name} holds nothing from {start:g} to {end:g} s",
            "correct the seconds",
        )
    return DeidentifiedClip(
        annotation=dataclasses.replace(
            annotation,
            media=next(iter(files.values())).relative_to(folder).as_posix(),
            start=0.0,
            end=None if end is None else end - start,
        ),
        video=files.get("video"),
        audio=files.get("audio"),
        sha256={part: file_digest(path) for part, path in files.items()},
        deidentification=f"centerface+{settings.voice.method}/{VERSION}"
        + made_with(settings.words),
        verdict="unaudited",
        faces=faces,
        words=words,
        source=source,
    )


def faces_left(
    video: Path, masked: list[np.ndarray], detector: FaceDetector, *, every: int
) -> dict[str, int]:
    """Faces that the detector that masked them still finds where they were.

    `masked` holds the boxes [L, 4] of each frame; see `found_again`. Where all of them
    are large, so are the faces sought, which are found as well in fewer pixels. This is
    no audit, whose detector must be another.

    Returns:
        How many frames were "looked" at, one of `every` so many, and how many faces are
        "left" in these.
    """

    def left(frame: tuple[np.ndarray, tuple[float, np.ndarray]]) -> int:
        places, (_, rgb) = frame
        longest = detector.longest_side
        side = max(*rgb.shape[:2], longest)  # smaller frames are looked at as they are
        if len(places):
            smallest = (places[:, 2:] - places[:, :2]).min() * longest / side
            side = round(side * max(1.0, smallest / ENOUGH))
        find = functools.partial(detector, side=side)
        return len(found_again(find, rgb, places.astype(np.float32)))

    frames = enumerate(zip(masked, iter_frames(video), strict=True))
    looked = (pair for index, pair in frames if index % every == 0)
    counts = [n for _, n in in_threads(left, looked, threads=detector.threads)]
    return {"looked": len(counts), "left": sum(counts)}


@functools.cache
def _detector(threshold: float, longest_side: int, threads: int) -> FaceDetector:
    """One for all clips of a process: reading the network takes a while."""
    return FaceDetector(threshold=threshold, longest_side=longest_side, threads=threads)


def _first_known(items: Iterator) -> Iterable | None:
    """What comes, or None if nothing does."""
    first = next(items, None)
    return None if first is None else itertools.chain([first], items)


def _count(counts: dict[str, int], moment: Moment) -> None:
    counts["frames"] += 1
    counts["frames_with_face"] += len(moment.found) > 0
    counts["boxes"] += len(moment.found)
    counts["frames_masked"] += len(moment.masked) > 0
    counts["frames_unmasked"] += not moment.masked
    for several in range(2, 1 + int((moment.found[:, 4] >= SURE).sum())):
        name = together(several)
        counts[name] = counts.get(name, 0) + 1
