"""How often a masked face is recognised among the people of a corpus."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from jaxtyping import Float
import numpy as np

from deemo_jax.deidentify.audit import Audited
from deemo_jax.deidentify.audit_faces import SAME_PERSON


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rate:
    """How often an attack succeeds, of how many trials; or why that is not known.

    Attributes:
        attack: who knows what.
        measure: what counts as success.
        value: from 0 to 1; None where it was not measured.
        trials: that it is of.
        subjects: among whom.
        chance: what guessing would give; None where there is no such thing.
        why_not: it was not measured.
    """

    attack: str
    measure: str
    value: float | None = None
    trials: int = 0
    subjects: int = 0
    chance: float | None = None
    why_not: str = ""

    def to_json(self) -> dict[str, Any]:
        """Its fields, for the report."""
        return dataclasses.asdict(self)

    def describe(self) -> str:
        """A line for people, with the size of the sample."""
        if self.value is None:
            return f"{self.attack}, {self.measure}: not measured, {self.why_not}"
        chance = "" if self.chance is None else f", by chance {self.chance:.0%}"
        return (
            f"{self.attack}, {self.measure}: {self.value:.0%} of {self.trials} trials "
            f"among {self.subjects} subjects{chance}"
        )


def face_rates(clips: Sequence[Audited]) -> list[Rate]:
    """Re-identification of each clip's largest face, by three kinds of attackers.

    Everybody in the gallery is known by the mean of their clips' embeddings, the probe
    itself left out. *Clear* is the control: nothing is masked. *Naive*: the gallery is
    clear; of a subject with this clip alone, it is the very recording. *Parrot* (Newton
    et al., "Preserving Privacy by De-Identifying Face Images", 2005): the gallery is
    masked as the probe is. Rank 1 is that a probe is nearest to its own subject.
    """
    found = [clip for clip in clips if clip.clear is not None]
    clear = {clip.clip_id: np.asarray(clip.clear) for clip in found}
    masked = {clip.clip_id: np.asarray(clip.masked) for clip in found}
    subject = {clip.clip_id: clip.subject for clip in found}
    rates = []
    for attack, probes, gallery, itself in (
        ("faces, clear", clear, clear, False),
        ("faces, naive", masked, clear, True),
        ("faces, parrot", masked, masked, False),
    ):
        rates += _rank(attack, subject, probes, gallery, itself=itself)
    return rates


def _rank(
    attack: str,
    subject: dict[str, str],
    probes: dict[str, Float[np.ndarray, " 128"]],
    gallery: dict[str, Float[np.ndarray, " 128"]],
    *,
    itself: bool,
) -> list[Rate]:
    """Rank 1, and the share of probes near enough to their own subject."""
    first, near, sizes = [], [], []
    for probe, own in subject.items():
        known: dict[str, list[np.ndarray]] = {}
        for clip_id, name in subject.items():
            if clip_id != probe:
                known.setdefault(name, []).append(gallery[clip_id])
        if own not in known and itself:
            known[own] = [gallery[probe]]
        if own not in known or len(known) < 2:
            continue
        distances = {
            name: float(np.linalg.norm(probes[probe] - np.mean(points, axis=0)))
            for name, points in known.items()
        }
        first.append(min(distances, key=lambda name: distances[name]) == own)
        near.append(distances[own] < SAME_PERSON)
        sizes.append(len(known))
    measures = ("rank 1", f"nearer than {SAME_PERSON}")
    if not first:
        people = len(set(subject.values()))
        why_not = (
            f"it takes faces of two subjects, and there {_are(people, 'subject')}"
            if people < 2
            else "it takes a second clip of a subject, and nobody has one"
        )
        return [Rate(attack=attack, measure=m, why_not=why_not) for m in measures]
    chances = (float(np.mean([1 / size for size in sizes])), None)
    return [
        Rate(
            attack=attack,
            measure=measure,
            value=float(np.mean(hits)),
            trials=len(hits),
            subjects=max(sizes),
            chance=chance,
        )
        for measure, hits, chance in zip(measures, (first, near), chances, strict=True)
    ]


def _are(count: int, what: str) -> str:
    return f"is {count} {what}" if count == 1 else f"are {count} {what}s"
