"""The lexical scorer: its bounds, its symmetries, and its own emotion."""

import difflib
import math
import random

import pytest

from deemo_jax.evaluate.judge import average, lexical, longest_common, words_of

LABELS = ("positive", "negative")
REFERENCE = "She rubs her hands and her voice falls, so the emotion is negative."


def test_a_text_agrees_with_itself_whatever_its_case_and_punctuation():
    for text in (REFERENCE, REFERENCE.upper(), REFERENCE.replace(",", " ; ")):
        score = lexical(text, REFERENCE, LABELS)
        assert (score.word_f1, score.rouge_l, score.same_emotion) == (1, 1, True)


def test_no_word_in_common_scores_nothing():
    score = lexical("Quiet.", REFERENCE, LABELS)
    assert (score.word_f1, score.rouge_l, score.same_emotion) == (0, 0, False)
    assert lexical("", REFERENCE, LABELS).word_f1 == 0


def test_order_counts_for_rouge_l_alone():
    backwards = " ".join(reversed(words_of(REFERENCE)))
    score = lexical(backwards, REFERENCE, LABELS)
    assert score.word_f1 == 1
    assert score.rouge_l < 0.5


def test_a_repeated_word_does_not_count_twice():
    score = lexical("hands hands hands", "rubs her hands", LABELS)
    assert score.word_f1 == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("prediction",             "reference",           "annotated", "same"),
    [
        ("it is negative",     "it is negative",      "positive",  True),
        ("it is positive",     "it is negative",      "positive",  False),
        ("it is positive",     "she smiles",          "positive",  True),
        ("she smiles",         "she smiles",          "positive",  False),
        ("positive, no: negative", "so: negative",    None,        True),
        ("it is positive",     "she smiles",          None,        None),
    ],
)  # fmt: skip
def test_the_emotion_concluded(prediction, reference, annotated, same):
    assert lexical(prediction, reference, LABELS, annotated).same_emotion is same


def test_longest_common_subsequence_against_brute_force():
    draw = random.Random(0)
    for _ in range(200):
        a = [draw.choice("abc") for _ in range(draw.randrange(8))]
        b = [draw.choice("abc") for _ in range(draw.randrange(8))]
        subsequences = {
            tuple(word for bit, word in enumerate(a) if mask >> bit & 1)
            for mask in range(2 ** len(a))
        }
        brute = max(len(s) for s in subsequences if _is_subsequence(s, b))
        assert longest_common(a, b) == longest_common(b, a) == brute


def test_longest_common_subsequence_of_long_texts_is_quick_and_not_a_substring():
    a, b = ["x", "y"] * 100, ["x", "z", "y"] * 100
    assert longest_common(a, b) == 200
    assert difflib.SequenceMatcher(None, a, b).find_longest_match().size == 1


def test_words_of_unspaced_scripts_are_their_characters():
    assert words_of("She's calm_ly, 冷静ok 2") == [
        "she", "s", "calm", "ly", "冷", "静", "ok", "2",
    ]  # fmt: skip


def test_means_leave_out_what_cannot_be_compared():
    scores = [
        lexical("a b", "a b", LABELS),
        lexical("it is positive", "it is negative", LABELS),
        lexical("it is negative", "it is negative", LABELS),
    ]
    means = average(scores)
    assert (means.clips, means.clips_with_emotion, means.same_emotion) == (3, 2, 0.5)
    assert means.word_f1 == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert means.word_f1_error == pytest.approx(1 / 9)


def test_means_of_nothing_are_not_numbers():
    means = average([])
    assert means.clips == 0
    assert math.isnan(means.word_f1)
    assert math.isnan(means.same_emotion)


def _is_subsequence(short, long):
    rest = iter(long)
    return all(word in rest for word in short)
