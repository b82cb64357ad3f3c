"""The lexical scorer of reasoning: word overlap with a reference, computed offline.

It is a regression measure: it tells whether a run writes what its references say. It is
no judge of meaning, a paraphrase scores low, and its figures do not compare with those
that a language model gave in a paper.
"""

from collections import Counter
from collections.abc import Iterable
import dataclasses
import math
import re

from deemo_jax.evaluate.answers import UNSPACED, normalise, parse_label

WORD = re.compile(f"[{UNSPACED}]|[^\\W_{UNSPACED}]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lexical:
    """Scores of one text, from 0 to 1.

    `word_f1` counts common words whatever their order, `rouge_l` those in common order.
    `same_emotion`: the text concludes with the reference's emotion; None where there is
    none to compare with.
    """

    word_f1: float
    rouge_l: float
    same_emotion: bool | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LexicalMeans:
    """Means over `clips` texts, each with the standard error of its mean.

    `same_emotion` is over the `clips_with_emotion` texts that have one to compare with,
    NaN if there are none.
    """

    clips: int
    word_f1: float
    word_f1_error: float
    rouge_l: float
    rouge_l_error: float
    clips_with_emotion: int
    same_emotion: float


def lexical(
    prediction: str,
    reference: str,
    labels: tuple[str, ...],
    emotion: str | None = None,
) -> Lexical:
    """Scores a text against its reference.

    The reference's emotion is the label it mentions last; a reference that mentions
    none is taken to conclude with `emotion`, the clip's annotation.
    """
    words, expected = words_of(prediction), words_of(reference)
    common = sum((Counter(words) & Counter(expected)).values())
    concluded = parse_label(reference, labels) or emotion
    return Lexical(
        word_f1=_f1(common, len(words), len(expected)),
        rouge_l=_f1(longest_common(words, expected), len(words), len(expected)),
        same_emotion=None
        if concluded is None
        else parse_label(prediction, labels) == concluded,
    )


def average(scores: Iterable[Lexical]) -> LexicalMeans:
    """The means of the scores of many texts; NaN where there are none."""
    scores = list(scores)
    word_f1, word_f1_error = _mean([score.word_f1 for score in scores])
    rouge_l, rouge_l_error = _mean([score.rouge_l for score in scores])
    same = [float(s.same_emotion) for s in scores if s.same_emotion is not None]
    return LexicalMeans(
        clips=len(scores),
        word_f1=word_f1,
        word_f1_error=word_f1_error,
        rouge_l=rouge_l,
        rouge_l_error=rouge_l_error,
        clips_with_emotion=len(same),
        same_emotion=_mean(same)[0],
    )


def words_of(text: str) -> list[str]:
    """Words without case and punctuation; a character is a word where none are spaced.

    "She's calm, 冷静" is `she s calm 冷 静`.
    """
    return WORD.findall(normalise(text))


def longest_common(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence, in time len(a) · len(b).

    ROUGE-L is the F1 of this length (Lin, "ROUGE: a package for automatic evaluation of
    summaries", 2004, section 3.1).
    """
    row = [0] * (len(b) + 1)
    for word in a:
        above_left = 0
        for column, other in enumerate(b, start=1):
            above = row[column]
            row[column] = (
                above_left + 1 if word == other else max(above, row[column - 1])
            )
            above_left = above
    return row[-1]


def _f1(common: int, predicted: int, expected: int) -> float:
    return 2 * common / (predicted + expected) if predicted + expected else 1.0


def _mean(values: list[float]) -> tuple[float, float]:
    """Mean, and the standard error of the mean; NaN for what cannot be told."""
    if not values:
        return math.nan, math.nan
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
