"""Error rates by their definition, and attackers who know what theirs may know."""

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from deemo_jax.deidentify.attackers import attack_voices, equal_error_rate, link

# fmt: off
RATES = [
    # same             other            equal error rate
    ([3, 4],           [1, 2],          0.0),
    ([1, 2],           [3, 4],          1.0),
    ([1, 1],           [1, 1],          0.5),
    ([1, 3],           [2, 0],          0.5),
    ([1, 3, 4, 5],     [2, 0, 0, 0],    0.25),
    ([5],              [1, 2, 6, 3],    0.125),  # 0 rejected, 1 of 4 accepted
]
# fmt: on


@pytest.mark.parametrize(("same", "other", "expected"), RATES)
def test_equal_error_rate(same, other, expected):
    same, other = np.array(same, float), np.array(other, float)
    assert equal_error_rate(same, other) == pytest.approx(expected)


def test_it_depends_on_the_order_of_scores_alone():
    rng = np.random.default_rng(0)
    same, other = rng.normal(1, 1, 40), rng.normal(0, 1, 90)
    rate = equal_error_rate(same, other)
    assert equal_error_rate(np.exp(3 * same), np.exp(3 * other)) == rate
    assert equal_error_rate(rng.permutation(same), other) == rate
    assert equal_error_rate(-other, -same) == pytest.approx(rate, abs=0.02)


def test_it_lies_on_the_roc_curve():
    rng = np.random.default_rng(1)
    same, other = rng.normal(1, 1, 400), rng.normal(0, 1, 900)
    labels = np.repeat([1, 0], [400, 900])
    false, true, _ = roc_curve(labels, np.concatenate([same, other]))
    expected = false[np.abs(1 - true - false).argmin()]
    assert equal_error_rate(same, other) == pytest.approx(expected, abs=0.005)
    # Two normal distributions that are one deviation apart: the tail beyond half of it.
    assert equal_error_rate(same, other) == pytest.approx(0.3085, abs=0.03)


def test_no_scores_are_refused():
    with pytest.raises(ValueError, match="0 scores of one person and 3 of two"):
        equal_error_rate(np.zeros(0), np.zeros(3))


def test_top1_counts_whose_own_is_best():
    scores = np.array([[0.9, 0.1], [0.2, 0.3], [0.5, 0.5], [0.4, 0.1]])
    own = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], bool)
    linking = link(scores, own)
    assert (linking.top1, linking.trials, linking.speakers) == (0.5, 4, 2)


def direction(wave: np.ndarray) -> np.ndarray:
    """An embedding for tests: who speaks is the angle between two samples."""
    return wave[:2] / np.linalg.norm(wave[:2])


def turned(wave: np.ndarray, angle: float) -> np.ndarray:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]]) @ wave


@pytest.fixture
def clear() -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(2)
    return {
        name: [turned(np.array([1.0, 0.0]), at + rng.normal(0, 0.02)) for _ in range(6)]
        for name, at in (("a", 0.0), ("b", 0.4), ("c", 0.8))
    }


def attacked(clear, angle, guesses=(0.0,)):
    return attack_voices(
        clear,
        {
            name: [turned(wave, angle) for wave in waves]
            for name, waves in clear.items()
        },
        enrolment=2,
        embed=direction,
        inverses=lambda wave: (turned(wave, -guess) for guess in guesses),
    )


def test_a_fixed_turn_fools_only_who_does_not_know_of_it(clear):
    rates = attacked(clear, 0.4)
    assert {name: rate.top1 for name, rate in rates.items()} == {
        "clear": 1.0, "ignorant": 1 / 3, "lazy": 1.0, "blind inversion": 1 / 3,
    }  # fmt: skip
    assert rates["clear"].eer == rates["lazy"].eer == 0.0
    assert rates["ignorant"].eer > 0.3
    assert rates["lazy"].trials == 12
    assert rates["lazy"].speakers == 3


def test_one_right_guess_among_useless_ones_undoes_it(clear):
    rates = attacked(clear, 0.4, guesses=(0.4, 2.5, 3.0))
    assert rates["ignorant"].top1 == pytest.approx(1 / 3)
    assert rates["blind inversion"].top1 == 1.0


def test_nothing_left_to_try_is_refused(clear):
    clear["b"] = clear["b"][:2]
    with pytest.raises(ValueError, match="'b' has 2 utterances, of which 2 are enrol"):
        attacked(clear, 0.4)
