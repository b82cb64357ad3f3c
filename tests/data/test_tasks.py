"""Questions ask for what their answers tell, and times in words are those annotated."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st
import pytest

from deemo_jax.annotation import Interval, load_taxonomy
from deemo_jax.config_data import PHRASINGS, TASKS
from deemo_jax.data import tasks
from deemo_jax.evaluate.answers import parse_labels, parse_times
from deemo_jax.evaluate.nfbl import disjoint

EMOTIONS = ("anger", "joy", "fear")


def shown(*intervals):
    return tuple(Interval(label=a, start=b, end=c) for a, b, c in intervals)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_its_wordings_each_once(task, make_record):
    assert set(tasks.WORDINGS) == set(TASKS)
    asked = [
        tasks.question(
            make_record(0), task, EMOTIONS, label="folding arms", phrasing=phrasing
        )
        for phrasing in range(PHRASINGS)
    ]
    assert len(tasks.WORDINGS[task]) == PHRASINGS == len(set(asked))
    for words in asked:
        assert words == words.strip()
        assert "{" not in words
        if task == "recognition":
            assert all(emotion in words for emotion in EMOTIONS)
        if task == "nfbl_when":
            assert "folding arms" in words
            assert "2.0 seconds" in words
        else:
            assert "folding arms" not in words


def test_a_question_in_words_is_asked_as_it_is(make_record):
    asked = tasks.question(make_record(0), "Is {label} seen?", EMOTIONS, label="no")
    assert asked == "Is {label} seen?"


def test_answers_are_those_annotated(make_record):
    record = make_record(0, reasoning=None, nfbl=None)
    assert tasks.answered(record) == ("recognition",)
    assert tasks.answered(make_record(0, emotion=None, nfbl=None)) == ("reasoning",)
    assert tasks.answered(make_record(0)) == TASKS


def test_no_body_language_is_an_answer_where_somebody_looked(make_record):
    record = make_record(0, nfbl=())
    # That it is never shown is no question: every answer would be the same.
    assert tasks.answered(record) == ("recognition", "reasoning", "nfbl_which")
    answer = tasks.answer(record, "nfbl_which")
    assert answer == tasks.cues(record) == "none"
    assert parse_labels(answer or "", load_taxonomy().nfbl) == ()
    unknown = make_record(0, nfbl=None)
    assert tasks.answer(unknown, "nfbl_which") is None
    assert tasks.cues(unknown) == ""


def test_classes_come_as_they_begin_each_once(make_record):
    nfbl = shown(("b", 3.0, 4.0), ("a", 1.0, 1.5), ("b", 0.5, 0.9), ("c", 0.7, 5.0))
    record = make_record(0, nfbl=nfbl, duration=9.0)
    assert tasks.answer(record, "nfbl_which") == "b; c; a"
    assert tasks.answer(record, "nfbl_when", "b") == "0.5 to 0.9, 3.0 to 4.0"
    assert tasks.answer(record, "nfbl_when", "d") == "never"
    told = "b 0.5 to 0.9, 3.0 to 4.0; c 0.7 to 5.0; a 1.0 to 1.5"
    assert tasks.cues(record) == told


@pytest.mark.parametrize(
    ("intervals", "answer"),
    [
        ([(0.0, 2.04)], "0.0 to 2.0"),
        ([(0.51, 0.52)], "0.5 to 0.6"),  # none is empty
        ([(1.0, 2.0), (1.5, 3.0)], "1.0 to 3.0"),  # overlaps are one
        ([(1.0, 2.0), (2.01, 3.0)], "1.0 to 3.0"),  # and what touches, in tenths
        ([(1.0, 3.0), (1.5, 2.0), (3.2, 4.0)], "1.0 to 3.0, 3.2 to 4.0"),
        ([(8.0, 30.0)], "8.0 to 9.0"),  # the clip ends
        ([(8.99, 9.0)], "9.0 to 9.1"),
    ],
)
def test_times_are_rounded_to_tenths(intervals, answer, make_record):
    nfbl = shown(*(("a", start, end) for start, end in intervals))
    record = make_record(0, nfbl=nfbl, duration=9.0)
    assert tasks.answer(record, "nfbl_when", "a") == answer


SECONDS = st.floats(0, 600, allow_nan=False)
INTERVALS = st.lists(
    st.tuples(st.sampled_from("ab"), SECONDS, st.floats(0.01, 60)), min_size=1
)


@given(INTERVALS)
def test_answers_parse_back_to_what_is_annotated(make_record, drawn):
    nfbl = shown(*((label, start, start + length) for label, start, length in drawn))
    record = dataclasses.replace(make_record(0), nfbl=nfbl, duration=700.0)
    for label in "ab":
        found = tasks.times(record, label)
        assert parse_times(tasks.answer(record, "nfbl_when", label) or "") == found
        assert list(found) == disjoint(found)
        for interval in (each for each in nfbl if each.label == label):
            assert any(
                start <= interval.start + 0.051 and interval.end - 0.051 <= end
                for start, end in found
            )
        covered = sum(end - start for start, end in found)
        asked = sum(i.end - i.start + 0.2 for i in nfbl if i.label == label)
        assert covered <= asked


def test_classes_with_commas_parse_back(make_record):
    labels = load_taxonomy().nfbl
    nfbl = shown(*((label, float(i), i + 1.0) for i, label in enumerate(labels)))
    answer = tasks.answer(make_record(0, nfbl=nfbl), "nfbl_which")
    assert parse_labels(answer or "", labels) == labels
