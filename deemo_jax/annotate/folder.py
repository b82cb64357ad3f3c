"""Other data sets' annotations to `annotations.jsonl`, their media found by name."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import os
from pathlib import Path

from deemo_jax.annotate import affectgpt, imigue, merr
from deemo_jax.annotate.lines import Gathered, Line, gather
from deemo_jax.annotate.media_files import MediaFiles, plain
from deemo_jax.annotate.tables import read_pairs, refuse
from deemo_jax.annotate.who import Who
from deemo_jax.annotation import (
    Annotation,
    Taxonomy,
    load_taxonomy,
    parse_annotation,
    write_annotations,
    write_taxonomy,
)
from deemo_jax.config import ConfigError
from deemo_jax.media import frame_times
from deemo_jax.refusals import (
    Refusal,
    Rejection,
    check_inside,
    reject,
    write_rejections,
)

Progress = Callable[[str, int, int | None], None]
FORMATS = ("imigue", "merr", "affectgpt")
SLACK = 30  # frames that a last one may reach beyond the media
TRANSCRIPTS = ("sentence", "subtitle")  # columns, besides those of the languages


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What was written: clips, of how many subjects, with how many gestures.

    `per_clip` of them count as a subject each, of `partial` a line was refused, `unmet`
    transcripts are of no clip.
    """

    output: Path
    clips: int
    subjects: int
    gestures: int
    without_emotion: int
    rejected: int
    partial: int
    per_clip: int
    unmet: int

    def describe(self) -> str:
        """A few lines for a person."""
        text = (
            f"{self.output / 'annotations.jsonl'}: {self.clips} clips of "
            f"{self.subjects} subjects, {self.gestures} instances of body language, "
            f"{self.without_emotion} clips without emotion"
        )
        if self.partial:
            text += (
                f"\nclips of which a line was refused: {self.partial}; what it says is "
                f"not asked for in training: see {self.output / 'rejected.jsonl'}"
            )
        if self.unmet:
            text += (
                f"\ntranscripts that met no clip: {self.unmet}; if they are of clips "
                "here, write the names as the clips have them"
            )
        if self.per_clip:
            whole = self.per_clip == self.clips
            text += (
                f"\n{'every' if whole else 'a'} clip "
                f"{'' if whole else 'of which no subject is stated '}counts as a "
                f"subject of its own ({self.per_clip}): a person who is in several may "
                "stand in training and test"
            )
        return text


def annotate_folder(
    inputs: Sequence[Path],
    media: Path,
    output: Path | None = None,
    *,
    format: str,
    who: Who,
    taxonomy: Path | None = None,
    transcripts: Path | None = None,
    fps: float | None = None,
    language: str = "english",
    progress: Progress | None = None,
) -> Summary:
    """Writes `annotations.jsonl`, `taxonomy.json` and `rejected.jsonl` to `output`.

    Annotations name media below their folder, so `output` is `media` by default; in
    another folder, which must be on the same disk, media are linked (no second copy of
    their bytes is made) below `output/media`.

    Args:
        inputs: files of the format, which may each say something else of the clips.
        media: where media are, in any folders below it.
        output: the folder to write.
        format: one of `FORMATS`.
        who: where subjects are found.
        taxonomy: the label sets, by default those that `output` has; else the shipped
            one's, its emotions replaced by those that occur if there are others.
        transcripts: a table of what is said in the clips, by `name`.
        fps: of the videos whose frames are counted; else as their media say.
        language: "english" or "chinese", of tables that have both.
        progress: called with a description, clips done and clips in all.

    Raises:
        ConfigError: nothing says who the subjects are, or an argument is unknown.
        ValueError: a file is not of the format, or nothing is left to write.
    """
    for name, value, known in (
        ("format", format, FORMATS),
        ("language", language, affectgpt.LANGUAGES),
    ):
        if value not in known:
            raise ConfigError(
                f"--{name} is {value!r}; it must be one of {', '.join(known)}"
            )
    output = output or media
    if (output / "annotations.jsonl").exists():
        raise ValueError(
            f"{output / 'annotations.jsonl'} is there already: remove it, or give "
            "another --output"
        )
    own = output / "taxonomy.json"
    if own.exists():
        if taxonomy and load_taxonomy(taxonomy) != load_taxonomy(own):
            raise ValueError(
                f"{own} is there already and differs from {taxonomy}: remove it, or "
                "leave --taxonomy out"
            )
        taxonomy = own
    files = MediaFiles(media)
    clips, rejections = gather(
        line for path in inputs for line in _read(format, path, files, language)
    )
    if clips and who.says_nothing and not any(clip.text("subject") for clip in clips):
        raise ConfigError(
            "nothing says who is in the clips, and people must not stand in training "
            "and test at once: give --subjects=FILE with the columns name and subject, "
            "or --subject_pattern=REGEX of what in a clip's name tells its person; "
            "--subject_per_clip=true if you accept that each clip counts as a person"
        )
    rejections += who.rejections
    said: dict[str, str] = {}
    if transcripts is not None:
        keys = (*TRANSCRIPTS, language)
        said, refused = read_pairs(transcripts, affectgpt.NAMES, keys)
        rejections += refused
    named = {plain(clip.name) for clip in clips}
    labels = _label_sets(clips, taxonomy)
    output.mkdir(parents=True, exist_ok=True)
    annotations: list[Annotation] = []
    per_clip = 0
    for done, clip in enumerate(clips):
        if progress:
            progress("finding media", done, len(clips))
        try:
            path = files.find(clip.name)
            gestures, refused = _in_seconds(clip, path, fps)
            rejections += refused
            annotation = parse_annotation(
                {
                    "clip_id": clip.name,
                    "media": _placed(path, output),
                    "subject": clip.text("subject") or who.find(clip.name),
                    "transcript": said.get(plain(clip.name)) or clip.text("transcript"),
                    "emotion": _spelled(clip.text("emotion"), labels),
                    "reasoning": clip.text("reasoning"),
                    "nfbl": gestures or None,  # files of emotions list none
                },
                labels,
            )
            check_inside(output, annotation.media)
            if not (annotation.emotion or annotation.reasoning or annotation.nfbl):
                raise Refusal(
                    "no emotion, no reasoning and no body language is stated",
                    "give a file that states one of them, too",
                )
            annotations.append(annotation)
            per_clip += who.per_clip and not clip.text("subject")
        except Refusal as refusal:
            rejections.append(reject(refusal, clip_id=clip.name))
    if progress:
        progress("finding media", len(clips), len(clips))
    write_rejections(output / "rejected.jsonl", rejections)
    if not annotations:
        raise ValueError(
            f"nothing is left of {len(clips)} clips: see {output / 'rejected.jsonl'}"
            if clips or rejections
            else f"{', '.join(map(str, inputs))} lists no clip: is it of this --format?"
        )
    write_taxonomy(output / "taxonomy.json", labels)
    write_annotations(output / "annotations.jsonl", annotations)
    return Summary(
        output=output,
        clips=len(annotations),
        subjects=len({annotation.subject for annotation in annotations}),
        gestures=sum(len(annotation.nfbl or ()) for annotation in annotations),
        without_emotion=sum(a.emotion is None for a in annotations),
        rejected=len(rejections),
        partial=len(
            {plain(annotation.clip_id) for annotation in annotations}
            & {plain(each.clip_id) for each in rejections if each.clip_id}
        ),
        per_clip=per_clip,
        unmet=len({name for name, text in said.items() if text} - named),
    )


def _read(
    format: str, path: Path, files: MediaFiles, language: str
) -> Iterator[Line | Rejection]:
    if format == "imigue":
        return imigue.read(path, files)
    return merr.read(path) if format == "merr" else affectgpt.read(path, language)


def _label_sets(clips: Sequence[Gathered], path: Path | None) -> Taxonomy:
    """Those of the file, else the shipped ones, with the emotions that occur."""
    shipped = load_taxonomy(path)
    found = {emotion for clip in clips if (emotion := clip.text("emotion"))}
    if path is not None or found <= set(shipped.emotions):
        return shipped
    return dataclasses.replace(shipped, emotions=tuple(sorted(found)))


def _spelled(emotion: str | None, labels: Taxonomy) -> str | None:
    """An emotion with the capitals that the label sets give it."""
    if emotion is None or emotion in labels.emotions:
        return emotion
    known = {name.casefold(): name for name in labels.emotions}
    return known.get(emotion.casefold(), emotion)


def _placed(path: Path, output: Path) -> str:
    """The path of media from `output`, where they are linked if they lie elsewhere."""
    path, output = path.resolve(), output.resolve()
    if path.is_relative_to(output):
        return path.relative_to(output).as_posix()
    link = output / "media" / path.name
    link.parent.mkdir(exist_ok=True)
    try:
        if link.exists() and link.samefile(path):
            return link.relative_to(output).as_posix()
        os.link(path, link)
    except OSError as error:
        raise Refusal(
            f"{path} cannot be linked to {link} ({error.strerror})",
            "leave --output out, or give an empty one on the same disk as the media",
        ) from error
    return link.relative_to(output).as_posix()


def _in_seconds(
    clip: Gathered, path: Path, fps: float | None
) -> tuple[list[dict[str, object]], list[Rejection]]:
    """The instances of a clip in the order of their starts, and those left out."""
    counted = any(line.gesture and line.gesture.in_frames for line in clip.gestures)
    times = frame_times(path) if counted and fps is None else []
    if counted and fps is None and len(times) < 2:
        raise Refusal(f"{path.name} has no frames to count", "give --fps, or its video")
    intervals, rejections = [], []
    for line in clip.gestures:
        gesture = line.gesture
        assert gesture is not None
        start, end = gesture.start, gesture.end
        try:
            if gesture.in_frames and fps is not None:
                start, end = start / fps, (end + 1) / fps
            elif gesture.in_frames:
                start, end = _shown(times, int(start), int(end))
        except Refusal as refusal:
            rejections.append(refuse(refusal, line.path, line.number, clip.name))
            continue
        intervals.append(
            {"label": gesture.label, "start": round(start, 4), "end": round(end, 4)}
        )
    key = ("start", "end", "label")
    return sorted(intervals, key=lambda i: [i[k] for k in key]), rejections


def _shown(times: Sequence[float], first: int, last: int) -> tuple[float, float]:
    """When the first frame appears, and when the last one is gone."""
    if first >= len(times) or last >= len(times) + SLACK:
        raise Refusal(
            f"frames {first} to {last} reach beyond the {len(times)} of its media",
            "name the media that were annotated, or give their --fps",
        )
    ends = [*times[1:], 2 * times[-1] - times[-2]]
    return times[first], ends[min(last, len(times) - 1)]
