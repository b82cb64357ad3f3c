"""What is compared: the prompt of a row, noise of every kind, distances by hand."""

import numpy as np
import pytest

from deemo_jax.batch import Batch
from deemo_jax.export import parity


def batch(tokens, loss_mask, index=(0, 1)):
    tokens, rows = np.array(tokens, np.int32), len(tokens)
    return Batch(
        tokens=tokens,
        positions=np.zeros_like(tokens),
        segment_ids=(tokens > 0).astype(np.int32),
        loss_mask=np.array(loss_mask, bool),
        frames=np.zeros((rows, 1, 2, 2, 3), np.uint8),
        frame_mask=np.ones((rows, 1), bool),
        audio=np.zeros((rows, 400), np.float32),
        audio_length=np.zeros(rows, np.int32),
        index=np.array(index, np.int32),
    )


def test_prompts_end_before_the_first_answer_and_are_padded_left():
    answered = batch(
        [
            [1, 11, 12, 13, 2, 21, 2],  # two turns; the second is no prompt
            [1, 14, 2, 0, 0, 0, 0],
        ],
        [
            [0, 0, 0, 1, 1, 0, 1],
            [0, 0, 1, 0, 0, 0, 0],
        ],
    )
    (prompt,) = parity.prompts([answered])
    assert prompt.tokens.tolist() == [[1, 11, 12], [0, 1, 14]]
    assert prompt.segment_ids.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert prompt.positions.tolist() == [[0, 1, 2], [0, 0, 1]]
    assert not prompt.loss_mask.any()


def test_prompts_of_several_batches_have_one_length():
    long = batch([[0, 1, 11], [1, 12, 13]], np.zeros((2, 3)))
    short = batch([[1, 21, 2]], [[0, 0, 1]], index=(0,))
    first, second = parity.prompts([long, short])
    # Without an answer, all of a row is its prompt.
    assert first.tokens.tolist() == long.tokens.tolist()
    assert second.tokens.tolist() == [[0, 1, 21]]
    assert second.positions.tolist() == [[0, 0, 1]]


def test_rows_that_only_fill_are_left_out():
    rows = batch([[1, 11], [1, 12]], np.zeros((2, 2)), index=(5, -1))
    assert parity._filled_rows(rows).tokens.tolist() == [[1, 11]]


def test_packed_rows_are_refused():
    rows = batch([[1, 11], [1, 12]], np.zeros((2, 2)))
    rows.segment_ids[0, 1] = 2
    with pytest.raises(ValueError, match="several conversations"):
        parity._filled_rows(rows)


def test_an_answer_ends_with_its_end():
    assert parity._until(np.array([5, 6, 2, 9, 2]), 2) == [5, 6, 2]
    assert parity._until(np.array([5, 6, 7]), 2) == [5, 6, 7]
    assert parity._until(np.array([2, 2]), 2) == [2]


def test_divergence_by_hand():
    ours, theirs = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.5, 0.5], [0.5, 0.5]])
    expected = [0.0, 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)]
    np.testing.assert_allclose(parity._divergence(ours + 3, theirs - 7), expected)


def test_what_is_no_number_is_infinitely_far():
    assert parity._largest(np.array([[0.5, -2.0]])) == 2.0
    assert parity._largest(np.array([[0.5, np.nan]])) == float("inf")
