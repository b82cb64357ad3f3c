"""Labels out of written text."""

import string

import pytest

from deemo_jax.evaluate.answers import parse_label

TWO = ("positive", "negative")
CALM = ("calm", "very calm")
SAD = ("sad", "sad at first")
SURE = ("self-assured", "assured")
ODD = ("n/a (none)", "any")
GERMAN = ("Überrascht", "ruhig")
CHINESE = ("积极", "消极")
# fmt: off
TABLE = [
    # labels  text                                     parsed
    (TWO,     "positive",                              "positive"),
    (TWO,     " Positive.\n",                          "positive"),
    (TWO,     "NEGATIVE!",                             "negative"),
    (TWO,     "**negative**",                          "negative"),
    (TWO,     "_negative_",                            "negative"),
    (TWO,     "emotion:positive",                      "positive"),
    (TWO,     "a positive start, yet she is negative", "negative"),
    (TWO,     "negative? no, positive",                "positive"),
    (TWO,     "not negative",                          "negative"),
    (TWO,     "positive-",                             "positive"),
    (TWO,     "ｐｏｓｉｔｉｖｅ",                      "positive"),
    (TWO,     "",                                      None),
    (TWO,     "happy",                                 None),
    (TWO,     "positively negatives",                  None),
    (TWO,     "non-negative",                          None),
    (TWO,     "negative-leaning",                      None),
    (TWO,     "pos itive",                             None),
    (CALM,    "Very\n calm",                           "very calm"),
    (CALM,    "calm, not very calm",                   "very calm"),
    (CALM,    "very calm, or calm",                    "calm"),
    (SAD,     "sad at first",                          "sad at first"),
    (SURE,    "self-assured",                          "self-assured"),
    (SURE,    "assured",                               "assured"),
    (ODD,     "N/A (none)",                            "n/a (none)"),
    (GERMAN,  "sie ist u\u0308berrascht",              "Überrascht"),
    (CHINESE, "她的情绪是积极的。",                    "积极"),
    ((),      "positive",                              None),
]
# fmt: on


@pytest.mark.parametrize(("labels", "text", "parsed"), TABLE)
def test_table(labels, text, parsed):
    assert parse_label(text, labels) == parsed


def test_the_order_of_the_labels_does_not_matter():
    for labels, text, parsed in TABLE:
        assert parse_label(text, labels[::-1]) == parsed


def test_each_label_is_read_back_between_any_punctuation():
    joined = [mark for mark in string.punctuation if mark != "-"]
    for label in TWO:
        for mark in [*joined, " ", "\t", "–", "—", "…", "“"]:
            assert parse_label(f"so{mark}{label}{mark}so", TWO) == label


def test_letters_and_digits_beside_a_label_make_another_word():
    for letter in "aZé9ß":
        for text in (f"{letter}positive", f"positive{letter}"):
            assert parse_label(text, TWO) is None
