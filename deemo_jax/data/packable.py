"""Which clips may be packed: by the consent of who they show, and by their verdict."""

from collections.abc import Iterable
import dataclasses
from pathlib import Path

from deemo_jax.annotation import Taxonomy, read_annotations
from deemo_jax.clip import MEASURE, DeidentifiedClip
from deemo_jax.refusals import Refusal, Rejection, reject

UNLISTED = "mend it there, or run `deemo deidentify` again, to its end"
EARLIER = "what it passed was an audit by another version"


def by_consent(
    clips: Iterable[DeidentifiedClip], input: Path, taxonomy: Taxonomy
) -> tuple[list[DeidentifiedClip], list[Rejection]]:
    """Clips with a sound line in the annotations beside their media, if there are any.

    Consent is withdrawn there, and a line that is gone may have said so.

    Raises:
        ValueError: a line that is no clip's may say so, too.
    """
    path = input / "annotations.jsonl"
    if not path.exists():
        return list(clips), []
    annotations, refused = read_annotations(path, taxonomy)
    for each in refused:
        if each.clip_id is None:
            raise ValueError(
                f"{path}, line {each.line}, may withdraw a consent and cannot be read, "
                f"{each.reason}: {each.remedy}"
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
