"""Reads the label of a set out of a text that a model has written."""

import re
import unicodedata

# Scripts written without spaces: a label in them has no word boundary to look for.
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"


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
    by_key = {_key(label): label for label in labels}
    longest_first = sorted(by_key, key=len, reverse=True)
    pattern = "|".join(f"(?:{_pattern(key)})" for key in longest_first)
    found = re.findall(pattern, _key(text)) if pattern else []
    return by_key[_key(found[-1])] if found else None


def normalise(text: str) -> str:
    """Text with one spelling a character (Unicode NFKC) and no case."""
    return unicodedata.normalize("NFKC", text).casefold()


def _key(text: str) -> str:
    return " ".join(normalise(text).split())


def _pattern(key: str) -> str:
    """The label as a whole word; what a hyphen joins to another word is another."""
    before = "" if _unspaced(key[:1]) else r"(?<![^\W_])(?<![^\W_]-)"
    after = "" if _unspaced(key[-1:]) else r"(?!-?[^\W_])"
    return before + re.escape(key) + after


def _unspaced(letter: str) -> bool:
    return re.fullmatch(f"[{UNSPACED}]", letter) is not None
