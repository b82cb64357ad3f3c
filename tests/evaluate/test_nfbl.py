"""Figures of body language, against values computed by hand."""

import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from deemo_jax.evaluate.nfbl import (
    F1,
    When,
    Which,
    disjoint,
    iou,
    when_figures,
    which_figures,
)

GROUPS = {"self": ("a", "b"), "objects": ("c",)}


def which(expected, named):
    return Which(
        expected=tuple(expected), text="-",
        named=None if named is None else tuple(named),
    )  # fmt: skip


def when(expected, named, seconds=10.0):
    return When(
        label="a", seconds=seconds, expected=tuple(expected), text="-",
        named=None if named is None else tuple(named),
    )  # fmt: skip


def test_which_by_hand():
    answers = [which("ab", "ab"), which("a", "b"), which("c", None), which("d", "da")]
    answers += [which("", ""), which("", None), which("c", "")]
    found = which_figures(answers, GROUPS)
    assert found.clips == 7
    # 3 of the 6 annotated and of the 5 named: a, b and d.
    assert found.classes.micro == pytest.approx(2 * 3 / (6 + 5))
    by_class = {"a": 2 / 4, "b": 2 / 3, "c": 0, "d": 1}
    assert found.per_class == pytest.approx(by_class)
    assert found.classes.macro == pytest.approx(np.mean([*by_class.values()]))
    # Of the groups, self is annotated twice and named three times, objects missed
    # twice.
    assert found.groups.micro == pytest.approx(2 * 2 / (4 + 3))
    assert found.groups.macro == pytest.approx((2 * 2 / 5 + 0) / 2)
    # The first, and the one without body language of which that is said.
    assert found.exact == 2 / 7
    assert (found.without, found.none) == (2, 1 / 2)
    assert found.unparsed == 2
    assert found.commonest_label == "a"
    assert found.commonest.micro == pytest.approx(2 * 2 / (6 + 7))


def test_right_answers_score_one_and_order_does_not_matter():
    found = which_figures([which("ab", "ba"), which("c", "c")], GROUPS)
    assert found.classes == found.groups == F1(micro=1.0, macro=1.0)
    assert found.exact == 1


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([(0, 2)], [(0, 2)], 1),
        ([(0, 2)], [(1, 4)], 1 / 4),
        ([(0, 2)], [(2, 4)], 0),
        ([(0, 1), (3, 4)], [(0, 4)], 2 / 4),
        ([(0, 2), (1, 3)], [(0, 3)], 1),
        ([], [(0, 2)], 0),
        ([], [], 0),
    ],
)
def test_iou(one, other, expected):
    one, other = ([(float(a), float(b)) for a, b in each] for each in (one, other))
    assert iou(one, other) == pytest.approx(expected)
    assert iou(other, one) == pytest.approx(expected)


TENTHS = st.lists(st.tuples(st.integers(0, 80), st.integers(1, 20)), max_size=6)


@given(TENTHS, TENTHS)
def test_iou_counts_seconds(one, other):
    sets = [{t for s, n in each for t in range(s, s + n)} for each in (one, other)]
    intervals = [[(float(s), float(s + n)) for s, n in each] for each in (one, other)]
    either = len(sets[0] | sets[1])
    expected = len(sets[0] & sets[1]) / either if either else 0
    assert iou(*intervals) == pytest.approx(expected)
    assert sum(b - a for a, b in disjoint(intervals[0])) == len(sets[0])


def test_when_by_hand():
    answers = [
        when([(0.0, 2.0), (4.0, 6.0)], [(0.0, 2.0)]),  # half, one of two
        when([(0.0, 4.0)], [(3.0, 5.0)]),  # a fifth, none
        when([(0.0, 5.0)], ()),  # never, which is wrong
        when([(5.0, 10.0)], None),
        when([], ()),
        when([], [(1.0, 2.0)]),
        when([], None),
    ]
    found = when_figures(answers)
    assert (found.shown, found.absent, found.unparsed) == (4, 3, 2)
    assert found.iou == pytest.approx((2 / 4 + 1 / 5) / 4)
    assert found.recall == pytest.approx(1 / 5)
    assert found.iou_of_all == pytest.approx((0.4 + 0.4 + 0.5 + 0.5) / 4)
    assert found.never == pytest.approx(1 / 3)


def test_nothing_asked_is_not_a_number():
    assert math.isnan(which_figures([], GROUPS).classes.micro)
    found = when_figures([when([], ())])
    assert math.isnan(found.iou)
    assert found.never == 1
