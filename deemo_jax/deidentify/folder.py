"""De-identifying a folder of annotated media: what is refused never stops the rest."""

from collections.abc import Callable
import dataclasses
import hashlib
import json
from pathlib import Path

from deemo_jax.annotation import (
    WITHDRAWN,
    Annotation,
    Refusal,
    Rejection,
    check_inside,
    folder_taxonomy,
    read_annotations,
    reject,
    write_annotations,
    write_lines,
    write_rejections,
    write_taxonomy,
)
from deemo_jax.clip import (
    MANIFEST,
    Clip,
    DeidentifiedClip,
    append_deidentified,
    file_digest,
    read_deidentified,
)
from deemo_jax.deidentify.pipeline import (
    COUNTS,
    VERSION,
    Settings,
    deidentify_clip,
    fit,
)
from deemo_jax.media import MediaError

NAMED = 5  # clips that a summary names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What became of a folder. Faces are counted over all clips that are listed.

    Attributes:
        clips: listed in the output, of which `resumed` were there from an earlier run.
        rejected: inputs that were refused.
        faces: sums of the clips' counts: "frames", "frames_with_face", "boxes",
            "frames_masked", "frames_unmasked", and "left" (by the same detector; not an
            audit).
        unmasked: clip ids with frames in which nothing was masked.
        seconds: of clips.
    """

    clips: int
    resumed: int
    rejected: int
    faces: dict[str, int]
    unmasked: tuple[str, ...]
    seconds: float

    def describe(self) -> str:
        """A few lines for a person."""
        faces = dict.fromkeys((*COUNTS, "left"), 0) | self.faces
        text = (
            f"{self.clips} clips of {self.seconds:.1f} s de-identified "
            f"({self.resumed} of them earlier), {self.rejected} inputs refused\n"
            f"faces: {faces['boxes']} found in {faces['frames_with_face']} of "
            f"{faces['frames']} frames, {faces['left']} left by the same detector"
        )
        if self.unmasked:
            more = len(self.unmasked) - NAMED
            text += (
                f"\nno face was known of in {faces['frames_unmasked']} frames, which "
                "show all that was filmed: look at "
                + ", ".join(self.unmasked[:NAMED])
                + (f" and {more} more clips" if more > 0 else "")
            )
        return text


def deidentify_folder(
    input: Path,
    output: Path,
    *,
    settings: Settings | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Summary:
    """Reads `input/annotations.jsonl` and its media; writes what can be packed.

    `output` gets `media/`, `annotations.jsonl`, `taxonomy.json`, `deidentified.jsonl`
    (the clips with their digests) and `rejected.jsonl` (each refused input with the
    reason and the remedy). It mirrors the input: run again, it does only what is
    missing or changed. Files of a clip whose consent is withdrawn are deleted first,
    even if its media are gone or its line has other faults; other clips that the input
    lost are no longer listed, their files stay.

    Args:
        input: the folder of raw clips; with `taxonomy.json`, else the shipped one.
        output: another folder, made if need be.
        settings: of detector, bridging and mask.
        progress: called with a description, seconds done and seconds in all.

    Raises:
        ValueError: there is no annotation file, no sound taxonomy, or the output is
            the input.
    """
    settings = settings or Settings()
    if output.resolve() == input.resolve():
        raise ValueError(f"output {output} is the input: name another folder")
    taxonomy = folder_taxonomy(input)
    annotations, rejections = read_annotations(input / "annotations.jsonl", taxonomy)
    (output / "media").mkdir(parents=True, exist_ok=True)
    for partial in (output / "media").glob(".*.partial"):  # of an interrupted run
        partial.unlink()
    for rejection in rejections:
        if rejection.reason == WITHDRAWN and rejection.clip_id is not None:
            _forget(output, rejection.clip_id)
    write_taxonomy(output / "taxonomy.json", taxonomy)
    earlier = _earlier(output)

    todo: list[tuple[Clip, Annotation]] = []
    for annotation in annotations:
        try:
            media = check_inside(input, annotation.media)
            clip = Clip(annotation=annotation, media=media)
            todo.append((clip, fit(clip)[0]))
        except Refusal as refusal:
            rejections.append(reject(refusal, clip_id=annotation.clip_id))

    clips: list[DeidentifiedClip] = []
    resumed = 0
    lengths = [(fitted.end or 0.0) - fitted.start for _, fitted in todo]

    def report(seconds: float) -> None:
        if progress is not None:
            done = sum(lengths[:position]) + seconds
            progress("de-identifying (seconds)", int(done), round(sum(lengths)))

    for position, (clip, fitted) in enumerate(todo):
        report(0.0)
        clip_id = clip.annotation.clip_id
        try:
            source = _source(clip, settings)
            known = earlier.get(clip_id)
            if known is not None and known.source == source:
                resumed += 1
            else:
                known = deidentify_clip(
                    fitted,
                    clip.media,
                    output,
                    settings,
                    source=source,
                    progress=report,
                )
                append_deidentified(output, known)
            clips.append(known)
        except Refusal as refusal:
            rejections.append(reject(refusal, clip_id=clip_id))
        report(lengths[position])

    _list(output, clips, rejections)
    faces: dict[str, int] = {}
    for clip in clips:
        for name, count in clip.faces.items():
            faces[name] = faces.get(name, 0) + count
    return Summary(
        clips=len(clips),
        resumed=resumed,
        rejected=len(rejections),
        faces=faces,
        unmasked=tuple(
            clip.annotation.clip_id
            for clip in clips
            if clip.faces.get("frames_unmasked", 0)
        ),
        seconds=sum((clip.annotation.end or 0.0 for clip in clips), 0.0),
    )


def _earlier(output: Path) -> dict[str, DeidentifiedClip]:
    """Clips of an earlier run whose files are as it wrote them."""
    if not (output / MANIFEST).exists():
        return {}
    clips, _ = read_deidentified(output)
    return {clip.annotation.clip_id: clip for clip in clips}


def _forget(output: Path, clip_id: str) -> None:
    """Deletes what an earlier run wrote of a clip."""
    for suffix in (".mp4", ".flac"):
        (output / "media" / f"{clip_id}{suffix}").unlink(missing_ok=True)


def _source(clip: Clip, settings: Settings) -> str:
    """A digest of all that a clip is made from; equal digests need no second run."""
    try:
        media = file_digest(clip.media)
    except OSError as error:
        raise MediaError(
            f"{clip.media.name} cannot be read ({error.strerror})", "make it readable"
        ) from error
    parts = [clip.annotation.to_json(), media, VERSION, dataclasses.asdict(settings)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _list(
    output: Path, clips: list[DeidentifiedClip], rejections: list[Rejection]
) -> None:
    """Writes the three lists of a finished run, in the order of the annotations."""
    write_lines(output / MANIFEST, [clip.to_json(output) for clip in clips])
    write_annotations(output / "annotations.jsonl", [c.annotation for c in clips])
    write_rejections(output / "rejected.jsonl", rejections)
