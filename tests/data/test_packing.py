"""Plans of rows: whole, balanced, the same for everybody, another every epoch."""

from hypothesis import given, settings, strategies
import numpy as np
import pytest

from deemo_jax.annotation import load_taxonomy
from deemo_jax.data import prompt
from deemo_jax.data.packing import (
    FILLER,
    QUANTUM,
    _growing,
    _swapped,
    draw_columns,
    drawn_lengths,
    longest_row,
    needed_length,
    plan_epoch,
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


def mixtures(count: int, columns: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and shares, where each clip lacks some of the columns."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 200, (count, columns))
    shares = rng.random((count, columns)) * (rng.random((count, columns)) < 0.7)
    shares[np.arange(count), rng.integers(columns, size=count)] += 0.1
    return lengths, shares / shares.sum(axis=1, keepdims=True)


@settings(deadline=None, max_examples=100)
@given(
    strategies.integers(1, 60), strategies.integers(1, 4), strategies.integers(2, 5),
    SEEDS, strategies.integers(0, 1000),
)  # fmt: skip
def test_what_is_drawn_can_be_and_every_row_of_it_fits(
    count, columns, each, seed, epoch
):
    lengths, shares = mixtures(count, columns, seed)
    most = needed_length(lengths, shares, each)
    how = {"max_length": most, "seed": seed, "epoch": epoch}
    plan = plan_epoch(lengths, shares, each, **how)
    assert (np.take_along_axis(shares, plan.columns[:, None], axis=1) > 0).all()
    flat = plan.rows.ravel()
    assert sorted(flat[flat != FILLER]) == list(range(count))
    drawn = drawn_lengths(lengths, plan.columns)
    assert np.append(drawn, 0)[plan.rows].sum(axis=1).max() <= most
    again = plan_epoch(lengths, shares, each, **how)
    for one, other in zip(plan, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("share", [0.5, 0.3, 0.04])
def test_every_column_is_drawn_as_often_in_each_epoch(share):
    shares = np.tile([share, 1 - share], (50, 1))
    drawn = np.array([draw_columns(shares, seed=3, epoch=e) for e in range(400)])
    counts = (drawn == 0).sum(axis=1)
    assert set(counts) <= {int(50 * share), int(50 * share) + 1}
    # Of each clip as often as of any, by 400 draws of it.
    assert abs((drawn == 0).mean(axis=0) - share).max() < 0.11
    assert len({row.tobytes() for row in drawn}) > 300


def test_tasks_that_do_not_fit_are_drawn_again():
    lengths, shares = mixtures(24, 3, 5)
    longest = [
        longest_row(drawn_lengths(lengths, draw_columns(shares, seed=5, epoch=e)), 2)
        for e in range(40)
    ]
    low = int(np.quantile(longest, 0.3))
    again = 0
    for epoch, first in enumerate(longest):
        how = {"max_length": low, "seed": 5, "epoch": epoch}
        plan = plan_epoch(lengths, shares, 2, **how)
        assert longest_row(drawn_lengths(lengths, plan.columns), 2) <= low
        before = draw_columns(shares, seed=5, epoch=epoch)
        assert (plan.columns == before).all() == (first <= low)
        again += first > low
    assert again > 20
    with pytest.raises(ValueError, match="in epoch 7 no draw of tasks fits .*=9: set"):
        plan_epoch(lengths, shares, 2, max_length=9, seed=5, epoch=7)


@pytest.mark.parametrize("share", [0.1, 0.01])
def test_what_is_long_and_rare_is_asked_all_the_same(share):
    """It fits into the shortest rows that are not refused, whenever it is drawn."""
    lengths = np.tile([50, 60], (60, 1))
    lengths[7, 1] = 1230
    shares = np.tile([1 - share, share], (60, 1))
    most = needed_length(lengths, shares, 2)
    assert 1230 < most < 1300
    asked = [
        plan_epoch(lengths, shares, 2, max_length=most, seed=5, epoch=e).columns[7]
        for e in range(800)
    ]
    assert abs(np.mean(asked) - share) < 3.5 * np.sqrt(share * (1 - share) / 800)


@pytest.mark.parametrize("share", [0.1, 0.01])
def test_what_is_rare_is_asked_though_others_are_longer(share):
    """Beside fifty of 496 tokens, one of 488 makes a row twice as long as before."""
    lengths = np.tile([[496, 496], [8, 8]], (50, 1))
    lengths[99] = [8, 488]
    shares = np.tile([1 - share, share], (100, 1))
    most = needed_length(lengths, shares, 2)
    assert most == 496 + 488
    asked = [
        plan_epoch(lengths, shares, 2, max_length=most, seed=5, epoch=e).columns[99]
        for e in range(800)
    ]
    assert abs(np.mean(asked) - share) < 3.5 * np.sqrt(share * (1 - share) / 800)


def test_of_a_swap_each_column_is_drawn_as_often_as_before():
    """By the other one of two clips that have both; a third one never has this one."""
    columns, most = np.array([0, 0, 1, 1]), np.array([1, 0, 1, 1])
    shares = np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    assert _swapped(columns, shares, 0, most).tolist() == [1, 0, 1, 0]
    assert columns.tolist() == [0, 0, 1, 1]


def test_clips_that_may_grow_the_most_are_found_for_each_length():
    drawn, possible = np.array([8, 8, 16, 24, 32]), np.array([40, 48, 48, 64, 56])
    assert _growing(drawn, possible) == [1, 3]


@pytest.mark.parametrize("each", [2, 4])
def test_few_epochs_of_another_seed_are_drawn_again(each):
    """With four epochs measured instead of 64, three of ten would be."""
    lengths, _ = mixtures(120, 3, 2)
    shares = np.full(lengths.shape, 1 / 3)
    most = needed_length(lengths, shares, each)
    draws = (draw_columns(shares, seed=9, epoch=epoch) for epoch in range(500))
    rows = [longest_row(drawn_lengths(lengths, draw), each) for draw in draws]
    assert np.mean(np.array(rows) > most) < 0.04


def test_tasks_are_asked_nearly_as_often_as_they_should_be():
    """Of those that are long, too, though an epoch of them may be drawn again."""
    lengths = np.random.default_rng(0).integers([40, 100], [60, 300], (40, 2))
    shares = np.tile([0.9, 0.1], (40, 1))
    most, again, asked = needed_length(lengths, shares, 2), 0, []
    for epoch in range(3000):
        plan = plan_epoch(lengths, shares, 2, max_length=most, seed=7, epoch=epoch)
        first = draw_columns(shares, seed=7, epoch=epoch)
        again += (plan.columns != first).any()
        asked.append(plan.columns)
    assert again < 60
    assert abs(np.mean(asked, axis=0)[lengths[:, 1].argmax()] - 0.1) < 0.02


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
    lengths = np.array([reader.lengths(i) for i in range(len(records))])[:, 0]
    for each in (2, 3, 4, 8):
        places = row_count(len(lengths), each) * longest_row(lengths, each)
        assert 0.9 < lengths.sum() / places < 1
