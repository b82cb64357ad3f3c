"""Labels out of written text."""

import string

import pytest

from deemo_jax.evaluate.answers import parse_label, parse_labels, parse_times

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


def test_labels_come_once_in_the_order_of_their_mention():
    labels = ("arms", "folding arms", "bulging face, deep breath")
    text = "Bulging face, deep breath; then FOLDING  ARMS, arms; folding arms"
    assert parse_labels(text, labels) == (labels[2], labels[1], labels[0])
    assert parse_labels("farms", labels) is None
    assert parse_labels("None.", labels) == ()
    assert parse_labels("nonesuch", labels) is None
    assert parse_labels(f"None but {labels[0]}", labels) == (labels[0],)


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("0.5 to 2.3, 4.0 to 4.7", ((0.5, 2.3), (4.0, 4.7))),
        ("4.0 to 4.7, 0.5 to 2.3", ((0.5, 2.3), (4.0, 4.7))),
        ("From 0.5s until 2 seconds", ((0.5, 2.0),)),
        ("from 1 second to 12.25 s", ((1.0, 12.25),)),
        ("1.5-2.5", ((1.5, 2.5),)),
        ("1.5 – 2.5 s", ((1.5, 2.5),)),
        ("Never.", ()),
        ("Never but 1 to 2", ((1.0, 2.0),)),
        ("2.0 to 2.0, 3.0 to 1.0", None),
        ("at 2.0", None),
        ("nevertheless", None),
        ("", None),
    ],
)
def test_times_are_read_from_words(text, times):
    assert parse_times(text) == times
