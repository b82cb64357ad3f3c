"""Figures of recognition, all from one confusion matrix, which is a sum."""

import dataclasses
import math

from jaxtyping import Int
import numpy as np

UNPARSED = -1  # the class of an answer that names no label


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """One class: `support` clips have it, `predicted` answers name it."""

    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recognition:
    """Recognition over `clips` clips; fractions from 0 to 1, NaN where there are none.

    `accuracy_error` is the standard error of the accuracy, `accuracy_low` and
    `accuracy_high` bound its 95 % Wilson interval. Means over classes (`macro_f1`,
    `uar`, the unweighted average recall) are over the classes that occur; `weighted_f1`
    weighs each by its support. An unparsed answer is a wrong one. `majority` is what
    naming the commonest class every time would score.
    """

    clips: int
    accuracy: float
    accuracy_error: float
    accuracy_low: float
    accuracy_high: float
    weighted_f1: float
    macro_f1: float
    uar: float
    unparsed: int
    per_class: dict[str, ClassMetrics]
    confusion: list[list[int]]
    majority: "Majority"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Majority:
    """What naming the class `label` for every clip scores."""

    label: str
    accuracy: float
    weighted_f1: float
    macro_f1: float
    uar: float


def confusion(
    truth: Int[np.ndarray, " B"], predicted: Int[np.ndarray, " B"], classes: int
) -> Int[np.ndarray, "C C_and_one"]:
    """Counts of (true class, predicted class); the last column is `UNPARSED`.

                 positive  negative  unparsed
        positive       40         9         1
        negative        7        42         1

    Matrices of parts of a split add up to the matrix of the split.

    Raises:
      ValueError: a true class outside 0 … classes - 1, or a predicted one outside
        -1 … classes - 1.
    """
    for name, values, least in (("truth", truth, 0), ("predicted", predicted, -1)):
        outside = values[(values < least) | (values >= classes)]
        if outside.size:
            raise ValueError(
                f"{name} holds class {outside[0]} of {classes}; "
                f"give indices from {least} to {classes - 1}"
            )
    counts = np.zeros((classes, classes + 1), np.int64)
    np.add.at(counts, (truth, np.where(predicted == UNPARSED, classes, predicted)), 1)
    return counts


def recognition(
    counts: Int[np.ndarray, "C C_and_one"], labels: tuple[str, ...]
) -> Recognition:
    """The figures of a confusion matrix whose rows are `labels`."""
    clips, support = int(counts.sum()), counts.sum(axis=1)
    hits = int(np.trace(counts))
    accuracy = hits / clips if clips else math.nan
    low, high = wilson(hits, clips)
    precision, recall, f1 = _per_class(counts)
    weighted_f1, macro_f1, uar = _averages(counts)
    return Recognition(
        clips=clips,
        accuracy=accuracy,
        accuracy_error=math.sqrt(accuracy * (1 - accuracy) / clips)
        if clips
        else math.nan,
        accuracy_low=low,
        accuracy_high=high,
        weighted_f1=weighted_f1,
        macro_f1=macro_f1,
        uar=uar,
        unparsed=int(counts[:, -1].sum()),
        per_class={
            label: ClassMetrics(
                precision=float(precision[c]),
                recall=float(recall[c]),
                f1=float(f1[c]),
                support=int(support[c]),
                predicted=int(counts[:, c].sum()),
            )
            for c, label in enumerate(labels)
        },
        confusion=counts.tolist(),
        majority=majority(counts, labels),
    )


def majority(
    counts: Int[np.ndarray, "C C_and_one"], labels: tuple[str, ...]
) -> Majority:
    """What the commonest class of a confusion matrix scores when always named."""
    support = counts.sum(axis=1)
    commonest = int(support.argmax())
    always = np.zeros_like(counts)
    always[:, commonest] = support
    weighted_f1, macro_f1, uar = _averages(always)
    clips = int(support.sum())
    return Majority(
        label=labels[commonest],
        accuracy=int(support[commonest]) / clips if clips else math.nan,
        weighted_f1=weighted_f1,
        macro_f1=macro_f1,
        uar=uar,
    )


def wilson(hits: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """The score interval of a proportion, 95 % by default; the unit interval for none.

    Wilson, "Probable inference, the law of succession, and statistical inference",
    Journal of the American Statistical Association, 1927.
    """
    if not trials:
        return 0.0, 1.0
    share, spread = hits / trials, z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt((share * (1 - share) + spread / 4) / trials)
    return max(0.0, middle - half), min(1.0, middle + half)


def _per_class(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of each class; 0 where there is nothing to divide by."""
    hits = np.diagonal(counts).astype(np.float64)
    predicted, support = counts[:, :-1].sum(axis=0), counts.sum(axis=1)
    return (
        hits / np.maximum(predicted, 1),
        hits / np.maximum(support, 1),
        2 * hits / np.maximum(predicted + support, 1),
    )


def _averages(counts: np.ndarray) -> tuple[float, float, float]:
    """Weighted F1, macro F1 and UAR, over the classes that occur."""
    support = counts.sum(axis=1)
    present = support > 0
    if not present.any():
        return math.nan, math.nan, math.nan
    _, recall, f1 = _per_class(counts)
    return (
        float((f1 * support).sum() / support.sum()),
        float(f1[present].mean()),
        float(recall[present].mean()),
    )
