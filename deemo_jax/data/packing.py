"""Several clips in a row, planned for a whole epoch: by (seed, epoch) and nothing else.

Every row has the same number of clips, so that the encoders' work is the same on every
device, and every epoch has the same number of rows, so that a step's place in the data
is one number. Rows are balanced, long clips with short ones. How long the longest is
does not depend on the epoch either: what is drawn is which of the clips of one length
goes where, and the order of the rows.

Where a clip is asked one of several tasks, the tasks of an epoch are drawn before its
rows are planned, by the lengths that follow. They are drawn together, so that each task
comes as often in every epoch, up to one; the longest rows of two epochs hardly differ
then. Where one is too long, which is rare, the tasks of that epoch are drawn
again, so that long ones come a little less often than they should.
"""

import math
from typing import NamedTuple

from jaxtyping import Float, Int
import numpy as np

QUANTUM = 8  # tokens; clips whose lengths round up to the same may change places
FILLER = -1
AHEAD = 64  # epochs whose rows are measured before a run begins
TRIES = (
    100  # draws of an epoch's tasks; of those that were measured, the first one fits
)


class Plan(NamedTuple):
    """Of an epoch: which clips stand in each row, and of each clip, which column."""

    rows: Int[np.ndarray, "R K"]
    columns: Int[np.ndarray, " N"]


def plan_epoch(
    lengths: Int[np.ndarray, "N C"],
    shares: Float[np.ndarray, "N C"],
    clips_per_row: int,
    *,
    max_length: int,
    seed: int,
    epoch: int,
) -> Plan:
    """Rows of an epoch, none with more than `max_length` tokens.

    Args:
        lengths: of each clip, the tokens by what it may be asked.
        shares: the probability of each of these columns; of a clip they sum to 1.
        clips_per_row: of which the last rows may have fewer.
        max_length: at least `needed_length`.
        seed: of the run.
        epoch: from 0 on.

    Raises:
        ValueError: no draw fits.
    """
    for attempt in range(TRIES):
        columns = draw_columns(shares, seed=seed, epoch=epoch, attempt=attempt)
        drawn = drawn_lengths(lengths, columns)
        rows = plan_rows(drawn, clips_per_row, seed=seed, epoch=epoch)
        if _longest(drawn, rows) <= max_length:
            return Plan(rows, columns)
    raise ValueError(
        f"in epoch {epoch} no draw of tasks fits into rows of config.data.max_length="
        f"{max_length}: set it higher"
    )


def needed_length(
    lengths: Int[np.ndarray, "N C"],
    shares: Float[np.ndarray, "N C"],
    clips_per_row: int,
) -> int:
    """Tokens that the longest row needs, whatever the seed.

    That of the epochs of one seed, as they are drawn first, and of the same where a
    clip is asked its longest, however rarely that is drawn: the one that then makes the
    longest row, as far as that can be told by lengths alone.
    """

    def row(columns: Int[np.ndarray, " N"]) -> int:
        return longest_row(drawn_lengths(lengths, columns), clips_per_row)

    possible = np.where(shares > 0, lengths, 0)
    most = possible.argmax(axis=1)
    draws = [
        draw_columns(shares, seed=0, epoch=epoch)
        for epoch in range(AHEAD if lengths.shape[1] > 1 else 1)
    ]
    growing = _growing(drawn_lengths(lengths, draws[0]), possible.max(axis=1))
    clip = max(growing, key=lambda one: row(_swapped(draws[0], shares, one, most)))
    return max(
        row(columns)
        for draw in draws
        for columns in (draw, _swapped(draw, shares, clip, most))
    )


def _growing(
    drawn: Int[np.ndarray, " N"], possible: Int[np.ndarray, " N"]
) -> list[int]:
    """Clips of which none is as short as another one, and may become as long."""
    drawn, possible = rounded(drawn), rounded(possible)
    order = np.lexsort((-possible, drawn))
    longest = np.maximum.accumulate(possible[order])
    return order[np.diff(longest, prepend=-1) > 0].tolist()


def _swapped(
    columns: Int[np.ndarray, " N"],
    shares: Float[np.ndarray, "N C"],
    clip: int,
    most: Int[np.ndarray, " N"],
) -> Int[np.ndarray, " N"]:
    """A draw of which a clip has its column of `most`, and another one that clip's.

    The other is one that had this column, so that each is drawn as often as before.
    """
    swapped, before, after = columns.copy(), columns[clip], most[clip]
    had = np.flatnonzero((columns == after) & (shares[:, before] > 0))
    swapped[had[:1]] = before
    swapped[clip] = after
    return swapped


def draw_columns(
    shares: Float[np.ndarray, "N C"], *, seed: int, epoch: int, attempt: int = 0
) -> Int[np.ndarray, " N"]:
    """One column for each clip, by their shares, drawn together: systematic sampling.

    Each clip takes a place of its own among N that are evenly spaced between 0 and 1,
    so that of clips with like shares, in each draw, each column is taken as often as it
    should be, up to one (Madow, "On the theory of systematic sampling, II", 1949).
    """
    clips = len(shares)
    rng = np.random.default_rng([seed, epoch, attempt, clips])
    places = (rng.permutation(clips) + rng.random()) / clips
    return (places[:, None] >= shares.cumsum(axis=1)[:, :-1]).sum(axis=1)


def drawn_lengths(
    lengths: Int[np.ndarray, "N C"], columns: Int[np.ndarray, " N"]
) -> Int[np.ndarray, " N"]:
    """The length of each clip in its column."""
    return np.take_along_axis(lengths, columns[:, None], axis=1)[:, 0]


def row_count(clips: int, clips_per_row: int) -> int:
    """Rows of an epoch; in the last ones, a place may stay empty."""
    return math.ceil(clips / clips_per_row)


def rounded(lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Lengths as they are planned with, multiples of `QUANTUM`, none too small."""
    return -(-lengths // QUANTUM) * QUANTUM


def plan_rows(
    lengths: Int[np.ndarray, " N"], clips_per_row: int, *, seed: int, epoch: int
) -> Int[np.ndarray, "R K"]:
    """Which clips stand in each row; `FILLER` where there is none.

    The longest clips go into rows of their own, the next ones where the sums are
    smallest, and so on: with clips_per_row=2

        lengths    80 72 64 56   40 24 16 8
        rows       80 + 8   72 + 16   64 + 24   56 + 40
    """
    rows = row_count(len(lengths), clips_per_row)
    draw = np.random.default_rng([seed, epoch])
    places = _places(lengths, clips_per_row)
    clips = np.full(len(places), FILLER)
    clips[: len(lengths)] = np.arange(len(lengths))
    # Longest first; clips of one length in an order of their own each epoch.
    order = np.lexsort((draw.random(len(places)), -places))
    planned = np.empty((rows, clips_per_row), np.int64)
    sums = np.zeros(rows, np.int64)
    for turn, chosen in enumerate(order.reshape(clips_per_row, rows)):
        emptiest = np.argsort(sums, kind="stable")
        planned[emptiest, turn] = clips[chosen]
        sums[emptiest] += places[chosen]
    return draw.permuted(planned[draw.permutation(rows)], axis=1)


def longest_row(lengths: Int[np.ndarray, " N"], clips_per_row: int) -> int:
    """Tokens that a row of `plan_rows` needs at most, in any epoch."""
    places = _places(lengths, clips_per_row)
    sums = np.zeros(row_count(len(lengths), clips_per_row), np.int64)
    for longest_first in -np.sort(-places).reshape(clips_per_row, -1):
        sums = np.sort(sums) + longest_first
    return int(sums.max())


def _places(
    lengths: Int[np.ndarray, " N"], clips_per_row: int
) -> Int[np.ndarray, " P"]:
    """Lengths as they are planned with, and zeros for places that stay empty."""
    rows = row_count(len(lengths), clips_per_row)
    places = np.zeros(rows * clips_per_row, np.int64)
    places[: len(lengths)] = rounded(lengths)
    return places


def _longest(lengths: Int[np.ndarray, " N"], rows: Int[np.ndarray, "R K"]) -> int:
    padded = np.append(rounded(lengths), 0)  # which `FILLER` finds at the end
    return int(padded[rows].sum(axis=1).max())
