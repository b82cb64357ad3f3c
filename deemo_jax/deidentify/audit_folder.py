"""Auditing a de-identified folder against its originals: verdicts, rates, report."""

from collections import Counter
import dataclasses
import functools
from pathlib import Path

from deemo_jax.annotation import (
    WITHDRAWN,
    Annotation,
    folder_taxonomy,
    read_annotations,
)
from deemo_jax.clip import (
    Clip,
    DeidentifiedClip,
    append_deidentified,
    mend_deidentified,
    read_deidentified,
    replace_deidentified,
)
from deemo_jax.deidentify.audit import (
    Audited,
    Figures,
    audit_clip,
    compare_again,
)
from deemo_jax.deidentify.audit_faces import missing
from deemo_jax.deidentify.audit_rates import Rate, face_rates
from deemo_jax.deidentify.audit_report import write_html, write_json
from deemo_jax.deidentify.audit_voices import Utterance, voice_rates
from deemo_jax.deidentify.jobs import (
    Progress,
    Report,
    check_workers,
    do_all,
    refused,
    shares,
)
from deemo_jax.deidentify.settings import Audit, Settings
from deemo_jax.deidentify.verdicts import (
    FAILED,
    failures,
    judge,
    judged,
    known_figures,
)
from deemo_jax.refusals import (
    Refusal,
    Rejection,
    check_inside,
    reject,
    write_rejections,
)

FOLDER = "audit"  # in the de-identified folder; nothing of it is packed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What the audit of a folder found.

    Attributes:
        verdicts: how many clips have which.
        failed: each clip that failed, with the reasons.
        rates: of attacks on the corpus.
        rejected: clips that could not be audited.
    """

    verdicts: dict[str, int]
    failed: tuple[str, ...]
    rates: tuple[Rate, ...]
    rejected: int

    def describe(self) -> str:
        """A few lines for a person."""
        counts = [f"{count} {v}" for v, count in sorted(self.verdicts.items())]
        return "\n".join(
            [
                "audit: " + (", ".join(counts) or "no clip could be judged"),
                *self.failed,
                *(rate.describe() for rate in self.rates),
            ]
        )


def audit_folder(
    input: Path,
    output: Path,
    *,
    settings: Settings | None = None,
    workers: int = 0,
    show_originals: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Audits every clip that `deemo deidentify` wrote to `output` of those in `input`.

    Verdicts and figures go into `output/deidentified.jsonl`, each as soon as it is
    there; `output/audit` gets `audit.json`, `report.html` and `rejected.jsonl`. A clip
    that is refused here keeps the verdict that it has. Of one that did not fail an
    audit like this one, such as that of `deemo deidentify` or of an interrupted call,
    the figures stand, and only its faces are compared again: their embeddings, which
    the rates are of, are kept nowhere.

    Args:
        input: the folder of raw clips.
        output: the de-identified folder.
        settings: its `audit` has the thresholds, its `words` what hears and redacts.
        workers: processes, a clip each at a time; 0 is one for each core.
        show_originals: whether the report shows faces as they were, too.
        progress: called with a description, seconds done and seconds in all.

    Raises:
        ConfigError: `workers` is below 0.
        ValueError: the extra is not installed, or a folder is not what it should be.
    """
    settings = settings or Settings()
    check_workers(workers)
    if lacking := missing():
        raise ValueError(lacking)
    mend_deidentified(output)  # what an interruption tore says of no clip that it is so
    clips, rejections = read_deidentified(output)
    annotations, unread = read_annotations(
        input / "annotations.jsonl", folder_taxonomy(input)
    )
    if not clips and not rejections:
        raise ValueError(f"{output} lists no clip: `deemo deidentify` writes it")
    withdrawn = {each.clip_id for each in unread if each.reason == WITHDRAWN}
    raw = {annotation.clip_id: annotation for annotation in annotations}
    jobs: list[_Job] = []
    for clip in clips:
        try:
            if clip.annotation.clip_id in withdrawn:
                raise Refusal(WITHDRAWN, "run `deemo deidentify`, which deletes it")
            jobs.append(_job(clip, raw, input, settings.audit))
        except Refusal as refusal:
            rejections.append(reject(refusal, clip_id=clip.annotation.clip_id))
    found: dict[str, Audited] = {}
    made = {clip.annotation.clip_id: clip for clip in clips}
    workers, threads = shares(len(jobs), workers)
    work = functools.partial(_audit, threads)
    what = "auditing (seconds)"
    for result in do_all(work, jobs, workers=workers, what=what, progress=progress):
        if isinstance(result, Rejection):
            rejections.append(result)
        else:
            found[result.clip_id] = result
            clip = judged(made[result.clip_id], result.figures, settings.audit)
            append_deidentified(output, clip)
            made[result.clip_id] = clip
    seen = [(made[i], found[i]) for i in made if i in found]
    replace_deidentified(output, [clip for clip, _ in seen])
    rates = face_rates([audited for _, audited in seen])
    rates += voice_rates(
        [
            Utterance(
                annotation=job.annotation,
                media=job.media,
                audio=job.clip.audio,
                seconds=job.seconds,
            )
            for job in jobs
            if job.clip.audio is not None
        ],
        settings.words,
        report=progress and (lambda done: progress("attacking voices", done, None)),
    )
    folder = output / FOLDER
    folder.mkdir(exist_ok=True)
    write_rejections(folder / "rejected.jsonl", rejections)
    if seen:  # else an earlier report, if there is one, stays
        write_json(folder / "audit.json", seen, rates, settings.audit)
        write_html(
            folder / "report.html",
            seen,
            rates,
            settings.audit,
            rejected=len(rejections),
            show_originals=show_originals,
        )
    return Summary(
        verdicts=Counter(clip.verdict for clip, _ in seen),
        failed=failures(clip for clip, _ in seen),
        rates=tuple(rates),
        rejected=len(rejections),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    annotation: Annotation
    media: Path
    clip: DeidentifiedClip
    audit: Audit
    known: Figures | None

    @property
    def seconds(self) -> float:
        """Of the clip."""
        return self.clip.annotation.end or 0.0


def _job(
    clip: DeidentifiedClip, raw: dict[str, Annotation], input: Path, audit: Audit
) -> _Job:
    """A clip and its original; `Refusal` if that is not what the clip was made of."""
    annotation = raw.get(clip.annotation.clip_id)
    if annotation is None:
        raise Refusal(
            f"{input / 'annotations.jsonl'} has no sound line of it",
            "name the folder that it was made from",
        )
    media = check_inside(input, annotation.media)
    if Clip(annotation=annotation, media=media).digest() != clip.source.split("-")[0]:
        raise Refusal(
            f"{annotation.media}, or the part of it, is not what it was made from",
            "name the folder that it was made from, or de-identify it again",
        )
    known = known_figures(clip, audit)
    if known is not None and judge(known, audit, clip.faces)[0] == FAILED:
        known = None  # the report shows what failed, so that is looked at again
    return _Job(annotation=annotation, media=media, clip=clip, audit=audit, known=known)


def _audit(threads: int, job: _Job, report: Report) -> Audited | Rejection:
    what = (job.annotation, job.media, job.clip, job.audit)
    try:
        if job.known is not None:
            return compare_again(*what, job.known, progress=report)
        return audit_clip(*what, threads=threads, progress=report)
    except Exception as error:
        return refused(error, job.annotation.clip_id)
