"""Plans of rows: whole, balanced, the same for everybody, another every epoch."""

from hypothesis import given, settings, strategies
import numpy as np
import pytest

from deemo_jax.annotation import load_taxonomy
from deemo_jax.data import prompt
from deemo_jax.data.packing import (
    FILLER,
    QUANTUM,
    longest_row,
    plan_rows,
    rounded,
    row_count,
)
from deemo_jax.data.reader import Loose, Reader
from deemo_jax.data.synthetic import emotion_of
from deemo_jax.data.synthetic_words import explain, say
from deemo_jax.data.tokenizer import train_tokenizer

LENGTHS = strategies.lists(strategies.integers(1, 400), min_size=1, max_size=60)
SEEDS = strategies.integers(0, 2**31 - 1)


@settings(deadline=None, max_examples=200)
@given(LENGTHS, strategies.integers(2, 7), SEEDS, strategies.integers(0, 1000))
def test_every_clip_stands_in_one_row_and_every_row_fits(lengths, each, seed, epoch):
    sizes = np.array(lengths)
    planned = plan_rows(sizes, each, seed=seed, epoch=epoch)
    assert planned.shape == (row_count(len(lengths), each), each)
    flat = planned.ravel()
    assert sorted(flat[flat != FILLER]) == list(range(len(lengths)))
    used = np.append(sizes, 0)[planned].sum(axis=1)
    assert used.max() <= longest_row(sizes, each)
    again = plan_rows(sizes, each, seed=seed, epoch=epoch)
    np.testing.assert_array_equal(planned, again)


@settings(deadline=None, max_examples=200)
@given(LENGTHS, strategies.integers(2, 7))
def test_the_longest_row_is_no_longer_than_it_has_to_be(lengths, each):
    """Greedy filling stays within the longest clip of the mean (Graham, 1969)."""
    sizes = rounded(np.array(lengths))
    mean = sizes.sum() / row_count(len(lengths), each)
    assert sizes.max() <= longest_row(sizes, each) <= mean + each * sizes.max()
    if len(lengths) <= each:
        assert longest_row(sizes, each) == sizes.sum()


def test_clips_of_a_corpus_fill_nine_tenths_of_their_rows():
    sizes = np.random.default_rng(0).integers(60, 200, 10_000)
    for each in (2, 3, 4, 8):
        longest = longest_row(sizes, each)
        assert sizes.sum() / (row_count(len(sizes), each) * longest) > 0.9


def test_epochs_and_seeds_differ_and_their_longest_rows_do_not():
    sizes = np.random.default_rng(0).integers(60, 200, 1000)
    plans = [
        plan_rows(sizes, 4, seed=seed, epoch=epoch)
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (plans[one] == plans[other]).mean() < 0.05
        together = [{frozenset(row) for row in plans[i]} for i in (one, other)]
        assert len(together[0] & together[1]) < 100  # of 250 rows
    longest = {int(rounded(sizes)[plan].sum(axis=1).max()) for plan in plans}
    assert longest == {longest_row(sizes, 4)}


def test_as_the_docstring_has_it():
    sizes = np.array([8, 16, 24, 40, 56, 64, 72, 80])
    planned = plan_rows(sizes, 2, seed=3, epoch=5)
    rows = {tuple(sorted(sizes[row], reverse=True)) for row in planned}
    assert rows == {(80, 8), (72, 16), (64, 24), (56, 40)}


@pytest.mark.parametrize(("length", "planned"), [(1, 8), (8, 8), (9, 16)])
def test_lengths_are_rounded_up(length, planned):
    assert rounded(np.array([length])).tolist() == [planned]
    assert QUANTUM == 8


def test_rows_of_the_generated_corpus_are_full(make_record, asker, config):
    """Nine places in ten and more hold a token, however many clips are in a row."""
    rng = np.random.default_rng(0)
    grades = rng.choice([-3, -1, 1, 3], size=(200, 3))
    records = []
    for number, (gesture, voice, words) in enumerate(grades.tolist()):
        emotion = emotion_of(gesture, voice, words)
        reasoning = explain(gesture, voice, words, emotion, rng)
        said = {"transcript": say(words, rng), "reasoning": reasoning}
        records.append(make_record(number, emotion=emotion, **said))
    reader = Reader(
        source=Loose(records=tuple(records), taxonomy=load_taxonomy()),
        config=config,
        tokenizer=train_tokenizer(prompt.corpus_texts(records, asker), 512),
        spans=(8, 4),
    )
    lengths = np.array([reader.length(i) for i in range(len(records))])
    for each in (2, 3, 4, 8):
        places = row_count(len(lengths), each) * longest_row(lengths, each)
        assert 0.9 < lengths.sum() / places < 1
