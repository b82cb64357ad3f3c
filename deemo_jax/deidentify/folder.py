"""De-identifying a folder of annotated media: what is refused never stops the rest."""

from collections.abc import Callable, Iterator
import dataclasses
import functools
import hmac
import itertools
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
from deemo_jax.deidentify import audit_faces, speakers
from deemo_jax.deidentify.audit import audit_clip
from deemo_jax.deidentify.jobs import (
    Progress,
    Report,
    check_workers,
    do_all,
    refused,
    shares,
)
from deemo_jax.deidentify.pipeline import VERSION, deidentify_clip, fit
from deemo_jax.deidentify.settings import Settings
from deemo_jax.deidentify.summary import Summary, summarise
from deemo_jax.deidentify.verdicts import (
    judged,
    judged_again,
    needs_another_voice,
    unjudged,
)
from deemo_jax.deidentify.words import (
    REDACTED,
    SILENCED,
    check_installed,
)
from deemo_jax.refusals import (
    Refusal,
    Rejection,
    check_inside,
    parse_object,
    reject,
    write_lines,
    write_rejections,
)
from deemo_jax.storage import alone_in, write_whole

DRAWS = 3  # voices of a clip in one run, where the first is taken for its original's


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
    missing or changed; what was made is listed before it is audited. A clip whose voice
    is taken for its original's is made anew with another, up to `DRAWS` times. Files of
    a clip whose consent is withdrawn are deleted first, even if its media are gone or
    its line has other faults; other clips that the input lost are no longer listed,
    their files stay.

    Args:
        input: the folder of raw clips; with `taxonomy.json`, else the shipped one.
        output: another folder, made if need be.
        settings: of detector, bridging, mask, voice and words.
        workers: processes, a clip each at a time; 0 is one for each core.
        progress: called with a description, seconds done and seconds in all.

    Raises:
        ValueError: there is no annotation file, no sound taxonomy, the output is the
            input, or something is missing that the settings take.
    """
    settings = settings or Settings()
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
        withdrawn = [r.clip_id for r in rejections if r.reason == WITHDRAWN]
        _forget(output, {clip_id for clip_id in withdrawn if clip_id is not None})
        check_installed(settings.words)
        write_taxonomy(output / "taxonomy.json", taxonomy)

        jobs: dict[str, _Job] = {}
        earlier = _earlier(output)
        for annotation in annotations:
            known = earlier.get(annotation.clip_id)
            try:
                job = _job(input, output, annotation, known, settings)
            except Refusal as refusal:
                rejections.append(reject(refusal, clip_id=annotation.clip_id))
            else:
                jobs[annotation.clip_id] = job
        each = functools.partial(
            _each, rejections=rejections, workers=workers, progress=progress
        )
        done = {i: job.made for i, job in jobs.items() if job.made is not None}
        todo = [job for job in jobs.values() if job.made is None]
        missing, anew = audit_faces.missing(), set()
        todo += _of_known_voices(jobs, done, settings)
        for _ in range(DRAWS):
            for job in todo:
                anew.add(job.annotation.clip_id)
                done.pop(job.annotation.clip_id, None)
            # Listed before it is audited, so that no interruption loses what was made.
            for clip in each(_deidentify, todo, "de-identifying (seconds)"):
                append_deidentified(output, clip)
                done[clip.annotation.clip_id] = clip
            todo = []
            for clip_id, clip in done.items():
                again = judged_again(clip, settings.audit)
                if again is None and not missing:
                    todo.append(dataclasses.replace(jobs[clip_id], made=clip))
                else:
                    done[clip_id] = again or unjudged(clip)
            for job in todo:
                del done[job.annotation.clip_id]
            for clip in each(_audit, todo, "auditing (seconds)"):
                append_deidentified(output, clip)
                done[clip.annotation.clip_id] = clip
            todo = _of_known_voices(jobs, done, settings)
        clips = [done[a.clip_id] for a in annotations if a.clip_id in done]
        _list(output, clips, rejections)
        return summarise(
            clips,
            resumed=len(done.keys() - anew),
            rejected=len(rejections),
            unaudited_for=missing,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """What a process needs to know to de-identify a clip, or to audit what was made."""

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


def _job(
    input: Path,
    output: Path,
    annotation: Annotation,
    known: DeidentifiedClip | None,
    settings: Settings,
) -> _Job:
    """A clip's, with what an earlier run made if it would be made just so again.

    Args:
        input: the folder of raw clips.
        output: that of de-identified ones.
        annotation: of the clip.
        known: what an earlier run made of the clip.
        settings: by which it is made.

    Raises:
        Refusal: its media are missing or damaged, or the annotation is not of them.
    """
    media = check_inside(input, annotation.media)
    clip = Clip(annotation=annotation, media=media)
    fitted, source = fit(clip)[0], _source(clip, settings)
    return _Job(
        annotation=fitted,
        media=media,
        output=output,
        settings=settings,
        source=source,
        made=known if known is not None and known.source == source else None,
    )


def _of_known_voices(
    jobs: dict[str, _Job], made: dict[str, DeidentifiedClip], settings: Settings
) -> list[_Job]:
    """Those of clips whose voice was taken for its original's, if others can be tried.

    For that they are drawn, and there is an audit that judges them.
    """
    if not settings.voice.drawn or audit_faces.missing() or speakers.missing():
        return []
    return [
        jobs[clip_id]
        for clip_id, clip in made.items()
        if needs_another_voice(clip, settings.audit)
    ]


def _each(
    work: Callable[[int, _Job, Report], DeidentifiedClip | Rejection],
    jobs: list[_Job],
    what: str,
    *,
    rejections: list[Rejection],
    workers: int,
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


def _earlier(output: Path) -> dict[str, DeidentifiedClip]:
    """Clips of an earlier run whose files are as it wrote them."""
    if not (output / MANIFEST).exists():
        return {}
    clips, _ = read_deidentified(output)
    return {clip.annotation.clip_id: clip for clip in clips}


def _forget(output: Path, clip_ids: set[str]) -> None:
    """Deletes what earlier runs wrote of clips, and the report that shows them."""
    if not clip_ids:
        return
    shutil.rmtree(output / "audit", ignore_errors=True)
    for clip_id, suffix in itertools.product(clip_ids, (".mp4", ".flac")):
        (output / "media" / f"{clip_id}{suffix}").unlink(missing_ok=True)
    for path in (output / MANIFEST, output / "annotations.jsonl"):
        if path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if _listed_id(line) not in clip_ids]
            write_whole(path, b"".join(kept))


def _listed_id(line: bytes) -> str | None:
    """The id of the clip that a line of either list is of; None if it is none."""
    try:
        fields = parse_object(line)
        return str(fields.get("annotation", fields)["clip_id"])
    except (Refusal, KeyError, TypeError, AttributeError):
        return None


def _source(clip: Clip, settings: Settings) -> str:
    """A digest of all that a clip is made from; equal digests need no second run."""
    how = dataclasses.asdict(settings)
    for looks in ("audit", "look_again"):  # and change no file of a clip
        del how[looks]
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
