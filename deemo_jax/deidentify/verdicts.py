"""Verdicts on clips: passed, failed or unaudited, by thresholds on their figures."""

from collections.abc import Iterable
import dataclasses
import itertools

from deemo_jax.clip import MEASURE, DeidentifiedClip, together
from deemo_jax.deidentify import speakers
from deemo_jax.deidentify.audit import Figures
from deemo_jax.deidentify.settings import Audit
from deemo_jax.fields import ConfigError, read_group

PASSED, FAILED, UNAUDITED = "passed", "failed", "unaudited"
FEW = 5  # frames; what is in fewer of those that are looked at may be a false alarm
USUAL = dataclasses.asdict(Audit())
THE_MORE_THE_STRICTER = ("seen", "longest_side")
NO_FIGURES = ("reasons", "measure", "thresholds", "looser")


def judge(
    figures: Figures, audit: Audit, faces: dict[str, int]
) -> tuple[str, tuple[str, ...]]:
    """The verdict on a clip, and the reasons, if it is not that it passed.

    `faces` are the counts of `DeidentifiedClip.faces`: where the auditing detector sees
    too few of the faces that were masked, it can say nothing of them. A clip passes
    if all that it has, pictures and voice, could be audited and is well.
    """
    wrong = []
    if figures.faces_left > audit.faces_left:
        wrong.append(f"{figures.faces_left} of {figures.faces} faces are left")
    if figures.gap_frames > audit.gap_frames:
        wrong.append(
            f"no mask is on a face for {figures.gap_frames} frames, "
            f"{figures.gap_seconds:.2f} s from {figures.gap_start:.2f} s on"
        )
    if figures.alike > audit.alike * figures.compared:
        wrong.append(
            f"{figures.alike} of {figures.compared} masked faces are taken for their "
            f"originals, the nearest at {figures.nearest:.2f}"
        )
    if _recognised(figures, audit):
        wrong.append(
            f"its voice is taken for its original's ({figures.voice:.2f}): "
            "run `deemo deidentify` again for other draws, or choose another "
            "config.voice"
        )
    if wrong:
        return FAILED, tuple(wrong)
    unknown = [*_unseen(figures, audit, faces), *_unheard(figures)]
    return (UNAUDITED if unknown else PASSED), tuple(unknown)


def judged(clip: DeidentifiedClip, figures: Figures, audit: Audit) -> DeidentifiedClip:
    """The clip with the verdict, with the figures and thresholds it follows from.

    `looser` are those settings that let pass what the defaults might not.
    """
    verdict, reasons = judge(figures, audit, clip.faces)
    found = dataclasses.asdict(figures)
    thresholds = dataclasses.asdict(audit)
    found |= {
        "reasons": list(reasons),
        "measure": MEASURE,
        "thresholds": thresholds,
        "looser": [
            name
            for name, value in thresholds.items()
            if value != USUAL[name]
            and (value < USUAL[name]) == (name in THE_MORE_THE_STRICTER)
        ],
    }
    return dataclasses.replace(clip, verdict=verdict, audit=found)


def known_figures(clip: DeidentifiedClip, audit: Audit) -> Figures | None:
    """Those of an earlier audit; None if they were not measured as they now would be.

    Nor were they if there was nothing to recognise its voice by, and now is.
    """
    figures = _figures(clip)
    if figures is None or (figures.unheard and speakers.missing() is None):
        return None
    if (figures.longest_side, figures.every) != (audit.longest_side, audit.every):
        return None
    return figures


def judged_again(clip: DeidentifiedClip, audit: Audit) -> DeidentifiedClip | None:
    """By the thresholds that now hold; None if its figures were not measured so."""
    figures = known_figures(clip, audit)
    return figures and judged(clip, figures, audit)


def needs_another_voice(clip: DeidentifiedClip, audit: Audit) -> bool:
    """Whether it fails for its voice alone, which another draw may mend."""
    figures = _figures(clip)
    return (
        figures is not None
        and _recognised(figures, audit)
        and len(judge(figures, audit, clip.faces)[1]) == 1
    )


def unjudged(clip: DeidentifiedClip) -> DeidentifiedClip:
    """The clip, unaudited if it passed an audit that was another one than today's."""
    if clip.verdict != PASSED:
        return clip
    return dataclasses.replace(clip, verdict=UNAUDITED)


def failures(clips: Iterable[DeidentifiedClip]) -> tuple[str, ...]:
    """A line for each clip that failed, with the reasons."""
    return tuple(
        f"{clip.annotation.clip_id} failed: {'; '.join(clip.audit.get('reasons', ()))}"
        for clip in clips
        if clip.verdict == FAILED
    )


def _figures(clip: DeidentifiedClip) -> Figures | None:
    """Those of a clip, if they are of today's measure and nobody edited them away."""
    if clip.audit.get("measure") != MEASURE:
        return None
    try:
        found = {k: v for k, v in clip.audit.items() if k not in NO_FIGURES}
        return read_group([Figures], found, "audit")
    except ConfigError:
        return None


def _recognised(figures: Figures, audit: Audit) -> bool:
    # What is no number, of sound that is none, is not below.
    return figures.voice is not None and not figures.voice <= audit.voice


def _unseen(figures: Figures, audit: Audit, faces: dict[str, int]) -> list[str]:
    """Why nothing can be said of a clip's pictures, if there are any."""
    if not figures.frames:
        return []
    boxes = faces.get("boxes", 0)
    if not boxes and not figures.frames_with_face:
        return ["no detector sees a face in it"]
    masked = boxes / figures.frames * figures.looked  # in the frames that it looks at
    if figures.faces < audit.seen * masked:
        return [f"it sees {figures.faces} of about {masked:.0f} faces that were masked"]
    for several in itertools.count(2):
        if together(several) not in faces:
            break
        masked = faces[together(several)] / figures.frames * figures.looked
        seen = figures.together[several - 2 : several - 1] or (0,)
        if masked >= FEW and seen[0] < audit.seen * masked:
            words = f"about {masked:.0f} frames in which so many were masked"
            return [f"it sees {several} faces in {seen[0]} of {words}"]
    if not figures.compared:
        return ["none of its faces can be compared: the verifier knows none of them"]
    return []


def _unheard(figures: Figures) -> list[str]:
    """Why nothing can be said of a clip's voice, if that matters."""
    if figures.unheard:
        return [f"its voice was not compared: {figures.unheard}"]
    if figures.voice is None and figures.audible:
        return ["its voice was not compared: it has no half a second of speech"]
    if figures.voice is None and not figures.frames:
        return ["it has neither pictures nor half a second of a voice"]
    return []
