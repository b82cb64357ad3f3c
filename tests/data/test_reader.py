"""Rows of one clip and of several; what batches are made of is in `test_loader.py`."""

import dataclasses

import numpy as np
import pytest

from deemo_jax.config import ConfigError
from deemo_jax.data.prompt import Spans
from deemo_jax.data.reader import MEDIA, Reader

SPANS = Spans(video=4, audio=2)


def test_a_row_of_several_clips_numbers_them_and_begins_each_anew(
    source, config, tokenizer
):
    config = dataclasses.replace(config, max_length=240)
    reader = Reader(source=source, config=config, tokenizer=tokenizer, spans=SPANS)
    rngs = [np.random.default_rng(seed) for seed in range(3)]
    row = reader.packed_row([5, -1, 2], rngs, [None] * 3)
    numbers = row["segment_ids"]
    assert [k for k in range(1, 4) if (numbers == k).any()] == [1, 3]
    assert (np.diff(numbers[numbers > 0]) >= 0).all()
    for number in (1, 3):
        places = row["positions"][numbers == number]
        np.testing.assert_array_equal(places, np.arange(len(places)))
    assert not row["loss_mask"][numbers == 0].any()
    assert row["index"].tolist() == [5, -1, 2]
    assert all(len(row[name]) == 3 for name in MEDIA)


def test_clips_that_do_not_fit_into_a_row_are_refused_by_name(
    source, config, tokenizer
):
    config = dataclasses.replace(config, max_length=96)
    reader = Reader(source=source, config=config, tokenizer=tokenizer, spans=SPANS)
    rngs = [np.random.default_rng(seed) for seed in range(4)]
    with pytest.raises(ConfigError, match=r"clip002 and clip000 as many as \d+ tokens"):
        reader.packed_row([5, -1, 2, 0], rngs, [None] * 4)


def test_what_lengths_follow_from_is_known(source, config, tokenizer):
    one = Reader(source=source, config=config, tokenizer=tokenizer, spans=SPANS)
    other = Reader(source=source, config=config, tokenizer=tokenizer, spans=(4, 3))
    assert one.follows_from() == one.follows_from()
    assert one.follows_from() != other.follows_from()
