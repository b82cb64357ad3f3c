"""Which clips may be packed: by the consent of who they show, and by their verdict."""

from collections.abc import Iterable
import dataclasses
from pathlib import Path

from deemo_jax.annotation import Taxonomy, read_annotations
from deemo_jax.clip import DeidentifiedClip
from deemo_jax.refusals import Refusal, Rejection, reject

EARLIER = "what it passed was an audit by another version"


def by_consent(
    clips: Iterable[DeidentifiedClip], input: Path, taxonomy: Taxonomy
) -> tuple[list[DeidentifiedClip], list[Rejection]]:
    """Leaves out whose line beside the media is refused: consent may be withdrawn.

    Or it may be unclear, or the line is no longer one.
    """
    path = input / "annotations.jsonl"
    refused = read_annotations(path, taxonomy)[1] if path.exists() else []
    gone = {each.clip_id: each for each in refused}
    ids = [(clip, clip.annotation.clip_id) for clip in clips]
    return (
        [clip for clip, clip_id in ids if clip_id not in gone],
        [gone[clip_id] for _, clip_id in ids if clip_id in gone],
    )


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
        if clip.verdict == "passed" and not clip.has_passed:
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
