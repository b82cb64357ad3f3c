"""A long sound comes out whole in pieces that end where it is quiet."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from deemo_jax.deidentify.pieces import in_pieces

RATE = 16_000


def blocks_of(sound, sizes):
    for size in sizes:
        yield sound[:size]
        sound = sound[size:]
    if len(sound):
        yield sound


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 200 * RATE),
    st.lists(st.integers(0, 90 * RATE), max_size=8),
    st.integers(0, 2**32 - 1),
)
def test_the_same_samples_come_in_pieces_of_a_minute(length, sizes, seed):
    sound = np.random.default_rng(seed).standard_normal(length, dtype=np.float32)
    pieces = list(in_pieces(blocks_of(sound, sizes)))
    np.testing.assert_array_equal(np.concatenate([*pieces, sound[:0]]), sound)
    assert all(45 * RATE < len(piece) <= 60 * RATE for piece in pieces[:-1])
    assert len(pieces) <= 1 or 15 * RATE < len(pieces[-1]) <= 75 * RATE
    assert (len(pieces) == 1) == (0 < length <= 75 * RATE)


@pytest.mark.parametrize("at", [46.0, 52.3, 59.9])
def test_a_piece_ends_in_a_pause(at):
    sound = np.random.default_rng(0).standard_normal(90 * RATE).astype(np.float32)
    pause = slice(round((at - 0.1) * RATE), round((at + 0.1) * RATE))
    sound[pause] *= 0.01
    first, _ = in_pieces([sound])
    assert pause.start < len(first) < pause.stop


def test_no_more_is_read_than_a_piece_needs():
    taken = 0

    def blocks():
        nonlocal taken
        for _ in range(600):
            taken += 1
            yield np.zeros(RATE, np.float32)

    held = 0
    for number, piece in enumerate(in_pieces(blocks()), 1):
        held += len(piece)
        assert number == 11 or taken * RATE - held <= 76 * RATE
    assert held == 600 * RATE
