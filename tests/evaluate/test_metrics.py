"""The figures of recognition against scikit-learn, and their edges."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import sklearn.metrics

from deemo_jax.evaluate.metrics import (
    UNPARSED,
    confusion,
    majority,
    recognition,
    wilson,
)

sklearn_metrics: Any = sklearn.metrics  # its stubs refuse what its documentation shows
LABELS = ("joy", "anger", "calm", "fear")


def draw(seed, clips=200, classes=4, unparsed=0.1):
    rng = np.random.default_rng(seed)
    truth = rng.choice(classes, clips, p=rng.dirichlet(np.full(classes, 2.0)))
    wrong = rng.integers(0, classes, clips)
    predicted = np.where(rng.random(clips) < 0.6, truth, wrong)
    return truth, np.where(rng.random(clips) < unparsed, UNPARSED, predicted)


@pytest.mark.parametrize("unparsed", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed, unparsed):
    truth, predicted = draw(seed, unparsed=unparsed)
    ours = recognition(confusion(truth, predicted, 4), LABELS)
    present = np.unique(truth)

    def f1(average):
        return sklearn_metrics.f1_score(
            truth, predicted, labels=present, average=average, zero_division=0
        )

    recalls = sklearn_metrics.recall_score(
        truth, predicted, labels=range(4), average=None, zero_division=0
    )
    precisions = sklearn_metrics.precision_score(
        truth, predicted, labels=range(4), average=None, zero_division=0
    )
    uar = sklearn_metrics.recall_score(
        truth, predicted, labels=present, average="macro", zero_division=0
    )
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(truth, predicted),
        "weighted_f1": f1("weighted"),
        "macro_f1": f1("macro"),
        "uar": uar,
    }
    for name, value in expected.items():
        assert getattr(ours, name) == pytest.approx(value, abs=1e-12), name
    for c, label in enumerate(LABELS):
        assert ours.per_class[label].recall == pytest.approx(recalls[c], abs=1e-12)
        assert ours.per_class[label].precision == pytest.approx(
            precisions[c], abs=1e-12
        )
    assert ours.unparsed == (predicted == UNPARSED).sum()
    square = sklearn_metrics.confusion_matrix(truth, predicted, labels=range(4))
    np.testing.assert_array_equal(np.array(ours.confusion)[:, :-1], square)


@pytest.mark.parametrize("seed", range(5))
def test_the_majority_baseline_agrees_with_scikit_learn(seed):
    truth, predicted = draw(seed)
    commonest = np.bincount(truth).argmax()
    ours = majority(confusion(truth, predicted, 4), LABELS)
    always = recognition(
        confusion(truth, np.full_like(truth, commonest), 4), LABELS
    )  # fmt: skip
    for field in dataclasses.fields(ours):
        if field.name != "label":
            assert getattr(ours, field.name) == getattr(always, field.name)
    assert ours.label == LABELS[commonest]
    assert ours.weighted_f1 == pytest.approx(
        sklearn_metrics.f1_score(
            truth,
            np.full_like(truth, commonest),
            average="weighted",
            zero_division=0,
        )
    )


def test_parts_of_a_split_add_up_to_the_split():
    truth, predicted = draw(0)
    parts = [
        confusion(truth[rows], predicted[rows], 4)
        for rows in np.array_split(np.arange(len(truth)), 7)
    ]
    np.testing.assert_array_equal(sum(parts), confusion(truth, predicted, 4))


def test_naming_the_classes_otherwise_changes_no_average():
    truth, predicted = draw(3)
    new = np.array([2, 0, 3, 1])
    renamed = np.where(predicted == UNPARSED, UNPARSED, new[predicted])
    a = recognition(confusion(truth, predicted, 4), LABELS)
    b = recognition(confusion(new[truth], renamed, 4), LABELS)
    for name in ("accuracy", "weighted_f1", "macro_f1", "uar", "unparsed"):
        assert getattr(a, name) == pytest.approx(getattr(b, name))


def test_an_unparsed_answer_is_wrong_and_is_counted():
    truth = np.array([0, 0, 1, 1])
    ours = recognition(confusion(truth, np.full(4, UNPARSED), 2), LABELS[:2])
    assert (ours.accuracy, ours.uar, ours.unparsed) == (0, 0, 4)
    assert ours.confusion == [[0, 0, 2], [0, 0, 2]]


def test_a_class_that_does_not_occur_weighs_nothing():
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    ours = recognition(confusion(truth, predicted, 3), LABELS[:3])
    assert ours.uar == pytest.approx(0.75)
    assert ours.macro_f1 == pytest.approx((2 / 3 + 1) / 2)
    assert ours.per_class["calm"].support == 0
    assert ours.per_class["calm"].predicted == 1


def test_nothing_scored_is_not_a_number_and_does_not_fail():
    none = np.array([], np.int64)
    ours = recognition(confusion(none, none, 2), LABELS[:2])
    assert ours.clips == 0
    assert math.isnan(ours.accuracy)
    assert math.isnan(ours.majority.uar)
    assert (ours.accuracy_low, ours.accuracy_high) == (0, 1)


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [
        # a binomial table; Wilson's own formula, three decimals
        (0,    10,   0.000, 0.278),
        (5,    10,   0.237, 0.763),
        (10,   10,   0.722, 1.000),
        (282,  320,  0.841, 0.912),
    ],
)  # fmt: skip
def test_wilson_interval(hits, trials, low, high):
    assert wilson(hits, trials) == (
        pytest.approx(low, abs=6e-4),
        pytest.approx(high, abs=6e-4),
    )


def test_wilson_interval_solves_its_equation():
    for hits, trials in ((3, 17), (140, 150), (1, 400)):
        for bound in wilson(hits, trials):
            deviation = math.sqrt(bound * (1 - bound) / trials)
            assert abs(hits / trials - bound) == pytest.approx(1.959964 * deviation)


@pytest.mark.parametrize(
    ("truth", "predicted", "named"),
    [([2], [0], "truth"), ([-1], [0], "truth"), ([0], [2], "predicted")],
)
def test_classes_outside_the_set_are_refused(truth, predicted, named):
    with pytest.raises(ValueError, match=named):
        confusion(np.array(truth), np.array(predicted), 2)
