"""Reads labels of a set, and times, out of a text that a model has written."""

import re
import unicodedata

from deemo_jax.annotation import NONE

# Scripts written without spaces: a label in them has no word boundary to look for.
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
SECONDS = r"(\d+(?:\.\d+)?)\s*(?:s|sec\w*)?"
INTERVAL = re.compile(rf"{SECONDS}\s*(?:to|until|[-–—])\s*{SECONDS}")
NEVER = re.compile(r"\bnever\b")
SAYS_NONE = re.compile(rf"\b{NONE}\b")


def parse_label(text: str, labels: tuple[str, ...]) -> str | None:
    """The label that `text` mentions last, or None where it mentions none.

    A label is met as a whole word, in any case and with any white space between its
    words; where two overlap, the longer one stands. The last one counts, because a text
    that weighs several concludes with its own. Negation is not guessed.

        labels               text                                      parsed
        positive, negative   Positive.                                 positive
        positive, negative   A positive start, yet she is NEGATIVE     negative
        positive, negative   not negative                              negative
        positive, negative   positively, non-negative, happy           None
        calm, very calm      very  calm                                very calm
    """
    found = _mentioned(text, labels)
    return found[-1] if found else None


def parse_labels(text: str, labels: tuple[str, ...]) -> tuple[str, ...] | None:
    """All labels that `text` mentions, each once, in the order of their first mention.

    Each is met as `parse_label` meets it: "Touching ears; then folding arms" names two.
    () where it mentions none of them and says none, None for neither.
    """
    found = tuple(dict.fromkeys(_mentioned(text, labels)))
    return found if found or SAYS_NONE.search(normalise(text)) else None


def parse_times(text: str) -> tuple[tuple[float, float], ...] | None:
    """The intervals in a text, in order; () where it says never, None for neither.

    0.5 to 2.3, 4.0 to 4.7      (0.5, 2.3), (4.0, 4.7)
    From 0.5s until 2 seconds   (0.5, 2.0)
    Never.                      ()
    2.0 to 2.0, 3.0 to 1.0      None: nothing ends after its start
    """
    said = normalise(text)
    found = [(float(start), float(end)) for start, end in INTERVAL.findall(said)]
    found = [(start, end) for start, end in found if end > start]
    if not found and not NEVER.search(said):
        return None
    return tuple(sorted(found))


def normalise(text: str) -> str:
    """Text with one spelling a character (Unicode NFKC) and no case."""
    return unicodedata.normalize("NFKC", text).casefold()


def _mentioned(text: str, labels: tuple[str, ...]) -> list[str]:
    """The labels that a text mentions, as often as it does."""
    by_key = {_key(label): label for label in labels}
    longest_first = sorted(by_key, key=len, reverse=True)
    pattern = "|".join(f"(?:{_pattern(key)})" for key in longest_first)
    found = re.findall(pattern, _key(text)) if pattern else []
    return [by_key[_key(mention)] for mention in found]


def _key(text: str) -> str:
    return " ".join(normalise(text).split())


def _pattern(key: str) -> str:
    """The label as a whole word; what a hyphen joins to another word is another."""
    before = "" if _unspaced(key[:1]) else r"(?<![^\W_])(?<![^\W_]-)"
    after = "" if _unspaced(key[-1:]) else r"(?!-?[^\W_])"
    return before + re.escape(key) + after


def _unspaced(letter: str) -> bool:
    return re.fullmatch(f"[{UNSPACED}]", letter) is not None
