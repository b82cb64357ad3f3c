"""Several clips in a row, planned for a whole epoch: by (seed, epoch) and nothing else.

Every row has the same number of clips, so that the encoders' work is the same on every
device, and every epoch has the same number of rows, so that a step's place in the data
is one number. Rows are balanced, long clips with short ones. How long the longest is
does not depend on the epoch either: what is drawn is which of the clips of one length
goes where, and the order of the rows.
"""

import math

from jaxtyping import Int
import numpy as np

QUANTUM = 8  # tokens; clips whose lengths round up to the same may change places
FILLER = -1


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
    places = np.zeros(rows * clips_per_row, np.int64)
    places[: len(lengths)] = rounded(lengths)
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
    """Tokens that a row needs at most, in any epoch."""
    planned = plan_rows(lengths, clips_per_row, seed=0, epoch=0)
    padded = np.append(rounded(lengths), 0)  # which `FILLER` finds at the end
    return int(padded[planned].sum(axis=1).max())
