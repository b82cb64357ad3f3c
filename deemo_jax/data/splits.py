"""Which split the clips of each subject go to, and which clips go to none."""

from collections import Counter
from collections.abc import Iterable

from deemo_jax.clip import DeidentifiedClip
from deemo_jax.data.record import pseudonym
from deemo_jax.refusals import Refusal, Rejection, reject

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}  # of subjects without a split


def assign_splits(
    clips: Iterable[DeidentifiedClip],
    salt: bytes,
    *,
    withdrawn: frozenset[str] = frozenset(),
    stratify: bool = False,
) -> tuple[dict[str, list[DeidentifiedClip]], list[Rejection]]:
    """The clips of each split, in the order of their pseudonyms; no subject in two.

    A subject goes where its annotations say; where none says, a hash decides, by
    `FRACTIONS`, so that it stays there whoever comes later. With `stratify`, those
    who stand out by the same label (the emotion, of clips without one their body
    language) are dealt out by `FRACTIONS` instead, in the order of that hash: splits
    have the labels alike.

    Refused: what is not de-identified, a withdrawn consent (by the annotation, or by
    the pseudonym), all clips of a subject that is put into two splits, a clip id that
    comes again.
    """
    sound: dict[str, DeidentifiedClip] = {}
    rejections: list[Rejection] = []
    stated: dict[str, set[str]] = {}
    for clip in clips:
        clip_id = clip.annotation.clip_id
        try:
            if not isinstance(clip, DeidentifiedClip):
                raise Refusal("it is not de-identified", "run `deemo deidentify` first")
            if (
                clip.annotation.consent != "granted"
                or pseudonym(salt, "subject", clip.annotation.subject) in withdrawn
            ):
                raise Refusal("the consent is withdrawn", "delete the clip")
            if clip_id in sound:
                raise Refusal(f"clip_id {clip_id!r} comes twice", "name it otherwise")
        except Refusal as refusal:
            rejections.append(reject(refusal, clip_id=clip_id))
            continue
        sound[clip_id] = clip
        if clip.annotation.split is not None:
            stated.setdefault(clip.annotation.subject, set()).add(clip.annotation.split)
    splits: dict[str, list[DeidentifiedClip]] = {split: [] for split in FRACTIONS}

    def drawn(subject: str) -> str:
        return _drawn_split(pseudonym(salt, "subject", subject))

    free = [c for c in sound.values() if c.annotation.subject not in stated]
    dealt = _deal(free, salt) if stratify else {}
    for clip in sorted(
        sound.values(), key=lambda c: pseudonym(salt, "clip", c.annotation.clip_id)
    ):
        subject = clip.annotation.subject
        said = stated.get(subject, {dealt.get(subject) or drawn(subject)})
        if len(said) > 1:
            refusal = Refusal(
                f"subject {subject!r} stands in {' and '.join(sorted(said))}",
                "put all clips of a subject into one split",
            )
            rejections.append(reject(refusal, clip_id=clip.annotation.clip_id))
            continue
        splits[min(said)].append(clip)
    return {split: members for split, members in splits.items() if members}, rejections


def _deal(clips: Iterable[DeidentifiedClip], salt: bytes) -> dict[str, str]:
    """The split of each subject, those of one label dealt out by `FRACTIONS`.

    It is the one of which a subject has the largest part of all that there is: what
    is seen of everybody tells nobody apart.
    """
    labels: dict[str, Counter[str]] = {}
    for clip in clips:
        count = labels.setdefault(clip.annotation.subject, Counter())
        shown = [interval.label for interval in clip.annotation.nfbl or ()]
        count.update([clip.annotation.emotion] if clip.annotation.emotion else shown)
    total = sum(labels.values(), Counter())
    order = sorted(
        (
            min(count, key=lambda label: (-count[label] / total[label], label))
            if count
            else "",
            pseudonym(salt, "subject", name),
            name,
        )
        for name, count in labels.items()
    )
    # Whichever split is furthest from its share of those dealt so far is next.
    held: Counter[str] = Counter()
    dealt = {}
    for number, (_, _, name) in enumerate(order, start=1):
        split = max(FRACTIONS, key=lambda s: FRACTIONS[s] * number - held[s])
        held[split] += 1
        dealt[name] = split
    return dealt


def _drawn_split(subject: str) -> str:
    """The split of a subject, by its pseudonym alone: others do not change it."""
    drawn, edge = int(subject, 16) / 16 ** len(subject), 0.0
    for split, fraction in FRACTIONS.items():
        edge += fraction
        if drawn < edge:
            return split
    return next(iter(FRACTIONS))
