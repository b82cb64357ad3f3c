"""Figures of body language: which is shown, and when, by what a model has written."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import math

FOUND = 0.5  # the intersection over union from which on an interval is found

Intervals = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Which:
    """A text that was written when asked which body language a clip shows.

    `expected` are the annotated classes, `named` those in it; none in either is that
    no body language is shown. `named` is None where the text is unparsed.
    """

    expected: tuple[str, ...]
    text: str
    named: tuple[str, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class When:
    """A text that was written when asked when a clip of `seconds` shows `label`.

    Intervals are (start, end) in seconds; none in `expected` or `named` is never.
    `named` is None where the text is unparsed.
    """

    label: str
    seconds: float
    expected: tuple[tuple[float, float], ...]
    text: str
    named: tuple[tuple[float, float], ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class F1:
    """F1 of sets of names: `micro` over all mentions, `macro` over names that occur."""

    micro: float
    macro: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class WhichFigures:
    """Which body language is shown, over `clips` clips; fractions, NaN for none.

    `classes` is over the classes of body language, `groups` over the groups of the
    taxonomy that they belong to; `exact` is the share of clips of which just those
    classes are named that are annotated. Of the clips without body language, `without`
    of them, `none` is the share of which that is said. `commonest` is what naming the
    class that most clips show would score every time, and `commonest_label` that class.
    """

    clips: int
    classes: F1
    groups: F1
    exact: float
    without: int
    none: float
    unparsed: int
    commonest_label: str
    commonest: F1
    per_class: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WhenFigures:
    """When it is shown, over `shown` questions about what is and `absent` others.

    `iou` is the mean intersection over union of named and annotated seconds; `recall`
    the share of annotated intervals that a named one meets with `FOUND` or more;
    `never` the share of questions about what is not shown that are answered so.
    `iou_of_all` is the mean that the whole clip would score as the answer.
    """

    shown: int
    iou: float
    recall: float
    iou_of_all: float
    absent: int
    never: float
    unparsed: int


def which_figures(
    answers: Sequence[Which], groups: Mapping[str, Sequence[str]]
) -> WhichFigures:
    """The figures of some answers; `groups` are the classes of each group."""
    group_of = {label: group for group, labels in groups.items() for label in labels}

    def grouped(names: set[str]) -> set[str]:
        return {group_of[name] for name in names if name in group_of}

    pairs = [(set(a.expected), set(a.named or ())) for a in answers]
    in_groups = [(grouped(expected), grouped(named)) for expected, named in pairs]
    truth = sorted({label for expected, _ in pairs for label in expected})
    commonest = max(
        truth, key=lambda label: sum(label in e for e, _ in pairs), default=""
    )
    return WhichFigures(
        clips=len(pairs),
        classes=_f1(pairs),
        groups=_f1(in_groups),
        exact=_mean(
            a.named is not None and {*a.named} == {*a.expected} for a in answers
        ),
        without=sum(not a.expected for a in answers),
        none=_mean(a.named == () for a in answers if not a.expected),
        unparsed=sum(a.named is None for a in answers),
        commonest_label=commonest,
        commonest=_f1([(expected, {commonest}) for expected, _ in pairs]),
        per_class={label: _f1_of(label, pairs) for label in truth},
    )


def when_figures(answers: Sequence[When]) -> WhenFigures:
    """The figures of some answers."""
    shown = [a for a in answers if a.expected]
    absent = [a for a in answers if not a.expected]
    return WhenFigures(
        shown=len(shown),
        iou=_mean(iou(a.named or (), a.expected) for a in shown),
        recall=_mean(
            any(iou([one], [interval]) >= FOUND for one in a.named or ())
            for a in shown
            for interval in a.expected
        ),
        iou_of_all=_mean(iou([(0.0, a.seconds)], a.expected) for a in shown),
        absent=len(absent),
        never=_mean(a.named == () for a in absent),
        unparsed=sum(a.named is None for a in answers),
    )


def iou(one: Intervals, other: Intervals) -> float:
    """Seconds in both over seconds in either: of (0, 2) and (1, 4) a quarter."""
    both = math.fsum(
        max(0.0, min(end, until) - max(start, since))
        for start, end in disjoint(one)
        for since, until in disjoint(other)
    )
    either = _seconds(one) + _seconds(other) - both
    return both / either if either else 0.0


def disjoint(intervals: Intervals) -> list[tuple[float, float]]:
    """The same seconds in intervals that do not overlap, in order."""
    found: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _seconds(intervals: Intervals) -> float:
    return math.fsum(end - start for start, end in disjoint(intervals))


def _f1(pairs: Sequence[tuple[set[str], set[str]]]) -> F1:
    """F1 of (expected, named) sets."""
    expected, named = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    common = sum(len(e & n) for e, n in pairs)
    truth = {name for e, _ in pairs for name in e}
    return F1(
        micro=2 * common / (expected + named) if expected else math.nan,
        macro=_mean(_f1_of(name, pairs) for name in sorted(truth)),
    )


def _f1_of(name: str, pairs: Sequence[tuple[set[str], set[str]]]) -> float:
    """F1 of one name, which occurs."""
    hits = sum(name in expected and name in named for expected, named in pairs)
    return 2 * hits / sum((name in e) + (name in n) for e, n in pairs)


def _mean(values: Iterable[float]) -> float:
    listed = [*values]
    return sum(listed) / len(listed) if listed else math.nan
