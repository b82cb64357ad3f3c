"""Attackers who link people to recordings, and how often they succeed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses

from jaxtyping import Bool, Float
import numpy as np

Waveform = np.ndarray  # [N] samples at 16 kHz
Embed = Callable[[Waveform], np.ndarray]  # to [E], of unit length
Inverses = Callable[[Waveform], Iterable[Waveform]]
ATTACKERS = ("clear", "ignorant", "lazy", "blind inversion")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linking:
    """What an attacker achieved; a protected voice has a high `eer`, a low `top1`.

    Attributes:
        eer: equal error rate, 0 to 1; 0.5 is guessing.
        top1: share of trials that are most like their own speaker.
        trials: recordings tried, each against every speaker.
        speakers: enrolled.
    """

    eer: float
    top1: float
    trials: int
    speakers: int


def equal_error_rate(
    same: Float[np.ndarray, " S"], other: Float[np.ndarray, " O"]
) -> float:
    """Error rate (0 to 1) at the threshold that makes both kinds of error alike.

    `same` and `other` are scores of pairs of one person and of two. Where no threshold
    makes the rates of false rejections and false acceptances equal, it is the mean of
    the two at the threshold that brings them closest.

    Raises:
        ValueError: one of them is empty.
    """
    if not len(same) or not len(other):
        raise ValueError(
            f"{len(same)} scores of one person and {len(other)} of two: both are needed"
        )
    thresholds = np.concatenate([np.unique(np.concatenate([same, other])), [np.inf]])
    rejected = np.searchsorted(np.sort(same), thresholds) / len(same)
    accepted = 1 - np.searchsorted(np.sort(other), thresholds) / len(other)
    closest = np.abs(rejected - accepted).argmin()
    return float(rejected[closest] + accepted[closest]) / 2


def link(scores: Float[np.ndarray, "T P"], own: Bool[np.ndarray, "T P"]) -> Linking:
    """Rates of one attacker from the score of every trial with every person.

    `own` tells whose the trial is. A trial that is as like another is not recognised.

    Raises:
        ValueError: fewer than two persons, or no trial.
    """
    best_other = np.where(own, -np.inf, scores).max(axis=1)
    recognised = np.where(own, scores, -np.inf).max(axis=1) > best_other
    return Linking(
        eer=equal_error_rate(scores[own], scores[~own]),
        top1=float(recognised.mean()),
        trials=len(scores),
        speakers=scores.shape[1],
    )


def attack_voices(
    clear: Mapping[str, Sequence[Waveform]],
    anonymised: Mapping[str, Sequence[Waveform]],
    *,
    enrolment: int,
    embed: Embed,
    inverses: Inverses,
) -> dict[str, Linking]:
    """The attackers of the VoicePrivacy challenge, and one who inverts blindly.

    "clear" tries the originals, which nobody protected: what the embedding can do.
    "ignorant" knows clear speech of the speakers, "lazy" anonymised speech of them (by
    the same method, of other draws). "blind inversion" knows clear speech, undoes each
    trial in every way that `inverses` gives, and keeps its best score with each of
    them.

    Args:
        clear: utterances of each speaker.
        anonymised: the same utterances, in the same order, after anonymisation.
        enrolment: first utterances of a speaker that the attacker knows the speaker
            of; the rest are tried.
        embed: for instance a `SpeakerVerifier`.
        inverses: of an anonymised utterance.

    Raises:
        ValueError: fewer than two speakers, or one of them has nothing left to try.
    """
    for speaker, utterances in clear.items():
        if len(utterances) <= enrolment:
            raise ValueError(
                f"speaker {speaker!r} has {len(utterances)} utterances, of which "
                f"{enrolment} are enrolled: give more, or enrol fewer"
            )
    known = np.stack([_mean(embed, clear[name][:enrolment]) for name in clear])
    known_after = np.stack(
        [_mean(embed, anonymised[name][:enrolment]) for name in clear]
    )
    owners = [name for name in clear for _ in clear[name][enrolment:]]
    own = np.array([[owner == name for name in clear] for owner in owners])
    originals = [wave for name in clear for wave in clear[name][enrolment:]]
    trials = [wave for name in clear for wave in anonymised[name][enrolment:]]
    before = np.stack([embed(wave) for wave in originals])
    after = np.stack([embed(wave) for wave in trials])
    undone = np.stack(
        [
            np.max([known @ embed(tried) for tried in inverses(wave)], axis=0)
            for wave in trials
        ]
    )
    scores = (before @ known.T, after @ known.T, after @ known_after.T, undone)
    return {
        name: link(found, own) for name, found in zip(ATTACKERS, scores, strict=True)
    }


def _mean(embed: Embed, waveforms: Sequence[Waveform]) -> Float[np.ndarray, " E"]:
    """The direction between the embeddings of several utterances."""
    total = np.sum([embed(wave) for wave in waveforms], axis=0)
    return total / np.linalg.norm(total)
