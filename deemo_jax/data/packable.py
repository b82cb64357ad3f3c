"""Which clips may be used: by the consent of who they show, and by their verdict."""

from collections.abc import Collection, Iterable
import dataclasses
from pathlib import Path

from deemo_jax.annotation import Taxonomy, folder_taxonomy, read_annotations
from deemo_jax.clip import AGAIN, MANIFEST, MEASURE, DeidentifiedClip, read_deidentified
from deemo_jax.refusals import Refusal, Rejection, reject

UNLISTED = "mend it there, or run `deemo deidentify` again, to its end"
EARLIER = "what it passed was an audit by another version"


def packable_clips(
    input: Path, *, allow_unaudited: bool
) -> tuple[list[DeidentifiedClip], list[Rejection]]:
    """Those of a de-identified folder that may be used, and a rejection for each other.

    Raises:
        ValueError: it is no such folder; or what it says of consents and verdicts is
            not there, or cannot be read: any clip may be meant.
    """
    clips, rejections = read_deidentified(input)
    for each in rejections:
        if each.clip_id is None:
            raise ValueError(
                f"{input / MANIFEST}, line {each.line}, may be of a clip that failed "
                f"its audit and cannot be read, {each.reason}: {AGAIN}"
            )
    known = {each.clip_id for each in rejections if each.clip_id}
    known |= {clip.annotation.clip_id for clip in clips}
    clips, withdrawn = by_consent(clips, input, folder_taxonomy(input), known)
    clips, unfit = by_verdict(clips, allow_unaudited=allow_unaudited)
    return clips, rejections + withdrawn + unfit


def by_consent(
    clips: Iterable[DeidentifiedClip],
    input: Path,
    taxonomy: Taxonomy,
    known: Collection[str],
) -> tuple[list[DeidentifiedClip], list[Rejection]]:
    """Clips with a sound line in the annotations beside their media.

    Consent is withdrawn there, and a line that is gone may have said so. `known` are
    the ids of all clips, be they sound or not.

    Raises:
        ValueError: all lines are gone, or one that may say so is of no clip.
    """
    path = input / "annotations.jsonl"
    if not path.exists():
        raise ValueError(
            f"{path}, where consents are withdrawn, is missing: copy it again, or run "
            "`deemo deidentify` again, to its end"
        )
    annotations, refused = read_annotations(path, taxonomy)
    for each in refused:
        if each.clip_id is None:
            raise ValueError(
                f"{path}, line {each.line}, may withdraw a consent and cannot be read, "
                f"{each.reason}: {each.remedy}"
            )
        if each.clip_id not in known:
            raise ValueError(
                f"{path}, line {each.line}, may withdraw the consent to a clip, and "
                f"none has the id {each.clip_id!r} ({each.reason}): correct it, or "
                "remove the line if its clip is gone"
            )
    listed = {annotation.clip_id for annotation in annotations}
    why = {each.clip_id: each for each in refused}
    sound, rejections = [], []
    for clip in clips:
        clip_id = clip.annotation.clip_id
        if clip_id in why:  # one of two lines may say so
            rejections.append(why[clip_id])
        elif clip_id in listed:
            sound.append(clip)
        else:
            unlisted = Refusal(f"{path} has no sound line of it", UNLISTED)
            rejections.append(reject(unlisted, clip_id=clip_id))
    return sound, rejections


def by_verdict(
    clips: Iterable[DeidentifiedClip], *, allow_unaudited: bool
) -> tuple[list[DeidentifiedClip], list[Rejection]]:
    """Clips that passed their audit or are generated, and a rejection for each other.

    With `allow_unaudited`, those that nobody audited are among the former. A clip that
    passed an audit by another measure than today's is unaudited.
    """
    allowed = {"passed", "generated", *(["unaudited"] if allow_unaudited else [])}
    sound, rejections = [], []
    for clip in clips:
        if clip.verdict == "passed" and clip.audit.get("measure") != MEASURE:
            clip = dataclasses.replace(
                clip, verdict="unaudited", audit={"reasons": [EARLIER]}
            )
        if clip.verdict in allowed:
            sound.append(clip)
            continue
        why = "; ".join(map(str, clip.audit.get("reasons", ())))
        refusal = Refusal(
            f"its verdict is {clip.verdict!r}" + (f" ({why})" if why else ""),
            "audit it with `deemo audit`, or pack with --allow_unaudited"
            if clip.verdict == "unaudited"
            else "look at it, and de-identify it with other settings, or leave it out",
        )
        rejections.append(reject(refusal, clip_id=clip.annotation.clip_id))
    return sound, rejections
