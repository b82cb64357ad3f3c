"""De-identifying a folder of annotated media: what is refused never stops the rest."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
import dataclasses
import functools
import hmac
import json
from pathlib import Path
import shutil

from deemo_jax.annotation import (
    WITHDRAWN,
    Annotation,
    folder_taxonomy,
    read_annotations,
    write_annotations,
    write_taxonomy,
)
from deemo_jax.clip import (
    MANIFEST,
    Clip,
    DeidentifiedClip,
    append_deidentified,
    read_deidentified,
)
from deemo_jax.config import ConfigError
from deemo_jax.deidentify import audit_faces
from deemo_jax.deidentify.audit import audit_clip
from deemo_jax.deidentify.jobs import (
    Progress,
    Report,
    check_workers,
    do_all,
    refused,
    shares,
)
from deemo_jax.deidentify.pipeline import (
    COUNTS,
    VERSION,
    deidentify_clip,
    fit,
)
from deemo_jax.deidentify.redaction import TYPES
from deemo_jax.deidentify.settings import Settings
from deemo_jax.deidentify.verdicts import (
    failures,
    judged,
    judged_again,
    needs_another_voice,
    unjudged,
)
from deemo_jax.deidentify.words import (
    REDACTED,
    SILENCED,
    check_redactable,
    check_silenceable,
    installed,
)
from deemo_jax.refusals import (
    Refusal,
    Rejection,
    check_inside,
    reject,
    write_lines,
    write_rejections,
)
from deemo_jax.storage import alone_in

NAMED = 5  # clips that a summary names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What became of a folder. Faces are counted over all clips that are listed.

    Attributes:
        clips: listed in the output, of which `resumed` were there from an earlier run.
        rejected: inputs that were refused.
        faces: sums of the clips' counts: "frames", "frames_with_face", "boxes",
            "frames_masked", "frames_unmasked", and what the same detector, which is no
            audit, finds "left" in the frames that are "looked" at again.
        words: sums of the clips' counts: "transcribed", "silenced", and placeholders by
            type.
        untranscribed: why no voice was listened to, or "".
        unmasked: clip ids with frames in which nothing was masked.
        seconds: of clips.
        verdicts: how many clips have which.
        failed: each clip that failed its audit, with the reasons.
        unaudited_for: what the audit lacks, and the remedy, if that is so.
    """

    clips: int
    resumed: int
    rejected: int
    faces: dict[str, int]
    words: dict[str, int]
    untranscribed: str
    unmasked: tuple[str, ...]
    seconds: float
    verdicts: dict[str, int]
    failed: tuple[str, ...]
    unaudited_for: str | None

    def describe(self) -> str:
        """A few lines for a person."""
        faces = dict.fromkeys(COUNTS, 0) | self.faces
        text = (
            f"{self.clips} clips of {self.seconds:.1f} s de-identified "
            f"({self.resumed} of them earlier), {self.rejected} inputs refused\n"
            f"faces: {faces['boxes']} found in {faces['frames_with_face']} of "
            f"{faces['frames']} frames, {faces['left']} left in {faces['looked']} "
            "looked at again by the same detector"
        )
        if any(self.words.values()):
            counts = (f"{self.words[kind]} {kind.lower()}s" for kind in TYPES)
            text += f"\nwords: {self.words['transcribed']} clips transcribed, "
            text += f"{', '.join(counts)} redacted, "
            text += f"{self.words['silenced']} words silenced"
        if mostly := self.words.get("mostly_silenced"):
            text += (
                f"\n{mostly} clips are silent for the most of what is said: if that is "
                "not in English, name a pipeline of its language in "
                "--config.words.redactor"
            )
        if self.untranscribed:
            text += (
                "\nno voice was listened to this time, so that nothing more is written "
                f"down, and no more names are silenced: {self.untranscribed}"
            )
        if self.unmasked:
            more = len(self.unmasked) - NAMED
            text += (
                f"\nno face was known of in {faces['frames_unmasked']} frames, which "
                "show all that was filmed: look at "
                + ", ".join(self.unmasked[:NAMED])
                + (f" and {more} more clips" if more > 0 else "")
            )
        text += "\naudit: " + ", ".join(
            f"{count} {verdict}" for verdict, count in sorted(self.verdicts.items())
        )
        if self.unaudited_for:
            text += f" ({self.unaudited_for})"
        return "\n".join([text, *self.failed])


def deidentify_folder(
    input: Path,
    output: Path,
    *,
    settings: Settings | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Summary:
    """Reads `input/annotations.jsonl` and its media; writes what can be packed.

    `output` gets `media/`, `annotations.jsonl`, `taxonomy.json`, `deidentified.jsonl`
    (the clips with their digests) and `rejected.jsonl` (each refused input with the
    reason and the remedy). It mirrors the input: run again, it does only what is
    missing or changed, or has a voice that is taken for its original's; what was made
    is listed before it is audited. Files of a clip whose consent is withdrawn are
    deleted first, even if its media are gone or its line has other faults; other clips
    that the input lost are no longer listed, their files stay.

    Args:
        input: the folder of raw clips; with `taxonomy.json`, else the shipped one.
        output: another folder, made if need be.
        settings: of detector, bridging, mask, voice and words.
        workers: processes, a clip each at a time; 0 is one for each core.
        progress: called with a description, seconds done and seconds in all.

    Raises:
        ValueError: there is no annotation file, no sound taxonomy, or the output is
            the input.
    """
    asked = settings or Settings()
    settings = asked
    words, untranscribed = installed(settings.words)
    settings = dataclasses.replace(settings, words=words)
    check_workers(workers)
    _check_apart(input.resolve(), output.resolve())
    taxonomy = folder_taxonomy(input)
    annotations, rejections = read_annotations(input / "annotations.jsonl", taxonomy)
    if not annotations and not rejections:  # what was made before would be dropped
        raise ValueError(
            f"{input / 'annotations.jsonl'} lists no clip: write one on each line"
        )
    (output / "media").mkdir(parents=True, exist_ok=True)
    with alone_in(output):
        for partial in (output / "media").glob(".*.partial"):  # of an interrupted run
            partial.unlink()
        for rejection in rejections:
            if rejection.reason == WITHDRAWN and rejection.clip_id is not None:
                _forget(output, rejection.clip_id)
        write_taxonomy(output / "taxonomy.json", taxonomy)
        earlier = _earlier(output)

        jobs: dict[str, _Job] = {}
        done: dict[str, DeidentifiedClip] = {}
        for annotation in annotations:
            try:
                media = check_inside(input, annotation.media)
                clip = Clip(annotation=annotation, media=media)
                known = earlier.get(annotation.clip_id)
                fitted, source = fit(clip)[0], _source(clip, settings)
                # What was listened to is not made anew without, where it cannot be.
                if known is not None and known.source == _source(clip, asked):
                    source = known.source
                if known is None or known.source != source:
                    check_redactable(annotation, settings.words)
                    if known is not None:
                        check_silenceable(known.deidentification, untranscribed)
            except Refusal as refusal:
                rejections.append(reject(refusal, clip_id=annotation.clip_id))
                continue
            jobs[annotation.clip_id] = _Job(
                annotation=fitted, media=media, output=output, settings=settings,
                source=source,
            )  # fmt: skip
            if (
                known is not None
                and known.source == source
                and not needs_another_voice(known, settings.audit)
            ):
                done[annotation.clip_id] = known
        resumed = len(done)
        # Listed before it is audited, so that no interruption loses what was made.
        todo = [job for clip_id, job in jobs.items() if clip_id not in done]
        what = "de-identifying (seconds)"
        for clip in _each(_deidentify, todo, rejections, workers, what, progress):
            append_deidentified(output, clip)
            done[clip.annotation.clip_id] = clip
        missing, todo = audit_faces.missing(), []
        for clip_id, clip in done.items():
            again = judged_again(clip, settings.audit)
            if again is None and not missing:
                todo.append(dataclasses.replace(jobs[clip_id], made=clip))
            else:
                done[clip_id] = again or unjudged(clip)
        for job in todo:
            del done[job.annotation.clip_id]
        what = "auditing (seconds)"
        for clip in _each(_audit, todo, rejections, workers, what, progress):
            append_deidentified(output, clip)
            done[clip.annotation.clip_id] = clip
        clips = [done[a.clip_id] for a in annotations if a.clip_id in done]
        _list(output, clips, rejections)
        unheard = next((why for c in clips if (why := c.audit.get("unheard"))), None)
        return Summary(
            clips=len(clips),
            resumed=resumed,
            rejected=len(rejections),
            faces=_sums(_counted(clip.faces) for clip in clips),
            words=_sums(clip.words for clip in clips),
            untranscribed=untranscribed,
            unmasked=tuple(
                clip.annotation.clip_id
                for clip in clips
                if clip.faces.get("frames_unmasked", 0)
            ),
            seconds=sum((clip.annotation.end or 0.0 for clip in clips), 0.0),
            verdicts=Counter(clip.verdict for clip in clips),
            failed=failures(clips),
            unaudited_for=missing or unheard,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """What a process needs to know to de-identify a clip, or to audit one `made`."""

    annotation: Annotation
    media: Path
    output: Path
    settings: Settings
    source: str
    made: DeidentifiedClip | None = None

    @property
    def seconds(self) -> float:
        """Of the clip."""
        return (self.annotation.end or 0.0) - self.annotation.start


def _each(
    work: Callable[[int, _Job, Report], DeidentifiedClip | Rejection],
    jobs: list[_Job],
    rejections: list[Rejection],
    workers: int,
    what: str,
    progress: Progress | None,
) -> Iterator[DeidentifiedClip]:
    """Each clip as soon as it is done; those that are refused join `rejections`."""
    if not jobs:
        return
    workers, threads = shares(len(jobs), workers)
    work_on = functools.partial(work, threads)
    for result in do_all(work_on, jobs, workers=workers, what=what, progress=progress):
        if isinstance(result, Rejection):
            rejections.append(result)
        else:
            yield result


def _deidentify(
    threads: int, job: _Job, report: Report
) -> DeidentifiedClip | Rejection:
    try:
        return deidentify_clip(
            job.annotation,
            job.media,
            job.output,
            job.settings,
            source=job.source,
            threads=threads,
            progress=report,
        )
    except Exception as error:
        return refused(error, job.annotation.clip_id)


def _audit(threads: int, job: _Job, report: Report) -> DeidentifiedClip | Rejection:
    assert job.made is not None
    audit = job.settings.audit
    try:
        audited = audit_clip(
            job.annotation,
            job.media,
            job.made,
            audit,
            threads=threads,
            progress=report,
        )
    except Exception as error:
        return refused(error, job.annotation.clip_id)
    return judged(job.made, audited.figures, audit)


def _check_apart(input: Path, output: Path) -> None:
    """Refuses folders where originals could be written over, exchanged ones, too."""
    if input == output or input in output.parents or output in input.parents:
        raise ConfigError(
            f"output {output} and input {input} are one, or one is within the other, "
            f"where originals could be written over: name another --output"
        )
    listed = output / "annotations.jsonl"
    if listed.exists() and not (output / MANIFEST).exists():
        raise ConfigError(
            f"output {output} has an annotations.jsonl and no {MANIFEST}, so that its "
            f"clips may be originals: name another --output"
        )


def _counted(faces: dict[str, int]) -> dict[str, int]:
    """A clip's counts; of one that does not tell, every frame was looked at again."""
    return {"looked": faces["frames"]} | faces if "left" in faces else faces


def _sums(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def _earlier(output: Path) -> dict[str, DeidentifiedClip]:
    """Clips of an earlier run whose files are as it wrote them."""
    if not (output / MANIFEST).exists():
        return {}
    clips, _ = read_deidentified(output)
    return {clip.annotation.clip_id: clip for clip in clips}


def _forget(output: Path, clip_id: str) -> None:
    """Deletes what an earlier run wrote of a clip, and the report that shows it."""
    shutil.rmtree(output / "audit", ignore_errors=True)
    for suffix in (".mp4", ".flac"):
        (output / "media" / f"{clip_id}{suffix}").unlink(missing_ok=True)


def _source(clip: Clip, settings: Settings) -> str:
    """A digest of all that a clip is made from; equal digests need no second run."""
    # The audit changes no file of a clip.
    how = {k: v for k, v in dataclasses.asdict(settings).items() if k != "audit"}
    parts = [clip.annotation.to_json(), VERSION + REDACTED + SILENCED, how]
    # Keyed by the media, or who has only this could try names for those redacted.
    key, made_of = clip.media_digest.encode(), json.dumps(parts).encode()
    return f"{clip.digest()}-{hmac.digest(key, made_of, 'sha256').hex()}"


def _list(
    output: Path, clips: list[DeidentifiedClip], rejections: list[Rejection]
) -> None:
    """Writes the three lists of a finished run, in the order of the annotations."""
    write_lines(output / MANIFEST, [clip.to_json(output) for clip in clips])
    write_annotations(output / "annotations.jsonl", [c.annotation for c in clips])
    write_rejections(output / "rejected.jsonl", rejections)
