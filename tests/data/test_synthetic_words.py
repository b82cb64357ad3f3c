"""The generated texts: one grade a saying, three clues and a conclusion a reasoning."""

import itertools
import re

import numpy as np
import pytest

from deemo_jax.data.synthetic_words import (
    FILLERS,
    OPENINGS,
    SAYINGS,
    WEIGHTS,
    explain,
    say,
)


def test_no_saying_has_two_grades():
    sayings = [saying for row in SAYINGS.values() for saying in row]
    assert len(sayings) == len(set(sayings)) == 16
    assert len(OPENINGS) == len(set(OPENINGS))


@pytest.mark.parametrize("grade", SAYINGS)
def test_a_transcript_holds_a_saying_of_its_grade_alone(grade):
    rng = np.random.default_rng(0)
    patterns = {
        of: [
            re.compile(re.escape(saying).replace(r"\{it\}", r"the [a-z ]+"), re.I)
            for saying in row
        ]
        for of, row in SAYINGS.items()
    }
    transcripts = {say(grade, rng) for _ in range(200)}
    assert len(transcripts) > 100
    for transcript in transcripts:
        found = {
            g for g, row in patterns.items() if any(p.search(transcript) for p in row)
        }
        assert found == {grade}
        assert any(filler in transcript.lower() for filler in map(str.lower, FILLERS))
        assert "{" not in transcript


def test_the_neutral_remarks_say_nothing_of_the_grade():
    seen = {}
    for grade in SAYINGS:
        rng = np.random.default_rng(1)
        texts = [say(grade, rng).lower() for _ in range(50)]
        seen[grade] = [next(f for f in FILLERS if f in text) for text in texts]
    assert len({tuple(row) for row in seen.values()}) == 1


def test_a_reasoning_names_three_weights_in_order_and_ends_with_the_emotion():
    rng = np.random.default_rng(2)
    for gesture, voice, words in itertools.product(WEIGHTS, repeat=3):
        emotion = "positive" if gesture + voice + words > 0 else "negative"
        text = explain(gesture, voice, words, emotion, rng)
        clues = re.findall(r"(?:strongly|mildly) (?:positive|negative)", text)
        assert clues == [WEIGHTS[grade] for grade in (gesture, voice, words)]
        assert text.endswith(f"emotion is {emotion}.")


def test_a_reasoning_tells_all_combinations_apart():
    texts = {
        explain(gesture, voice, words, "positive", np.random.default_rng(seed))
        for gesture, voice, words in itertools.product(WEIGHTS, repeat=3)
        for seed in range(4)
    }
    assert len(texts) > 64
    assert max(len(re.findall(r"\w+|[.,]", text)) for text in texts) <= 35
