import math

import numpy as np
import pytest

from deemo_jax.train.health import SETTLED, Health, UnsoundError

IDS = ["ada", "bob", "cy", "dee"]
INDEX = np.array([2, -1, 0])


@pytest.fixture
def said():
    return []


@pytest.fixture
def health(said):
    return Health(max_skipped=2, clip_ids=IDS, say=said.append)


def row(step, loss=1.0, skipped=0):
    return {"step": step, "loss": loss, "grad_norm": loss, "skipped": skipped}


def test_skipped_steps_are_told_and_too_many_in_a_row_stop(health, said):
    for step, skipped in enumerate([1, 1, 0, 1, 1]):
        health.judge(row(step, math.nan if skipped else 1.0, skipped), INDEX)
    assert len(said) == 4
    assert said[0] == "step 0 is skipped: loss nan, grad_norm nan; clips cy, ada"
    words = (
        r"step 5 is skipped.*clips cy, ada.*number 3 in a row.*max_skipped_steps is 2"
    )
    with pytest.raises(UnsoundError, match=words):
        health.judge(row(5, math.inf, 1), INDEX)
    assert len(said) == 4


def losses(count):
    return 1 + 0.1 * np.random.default_rng(0).standard_normal(count)


@pytest.mark.parametrize(("loss", "spikes"), [(1.3, 0), (9.0, 1), (0.0, 0)])
def test_a_loss_far_above_the_last_ones_is_a_spike(health, said, loss, spikes):
    for step, before in enumerate(losses(SETTLED)):
        health.judge(row(step, float(before)), INDEX)
    health.judge(row(99, loss), INDEX)
    assert len(said) == spikes
    if spikes:
        assert said[0].startswith("loss 9.0000 of step 99 is a spike (mean of the last")
        assert said[0].endswith("clips cy, ada")


@pytest.mark.parametrize(("loss", "spikes"), [(0.51, 0), (0.56, 1)])
def test_after_a_flat_curve_a_spike_is_a_tenth_above_it(health, said, loss, spikes):
    for step in range(SETTLED):
        health.judge(row(step, 0.5), INDEX)
    health.judge(row(99, loss), INDEX)
    assert len(said) == spikes


def test_nothing_is_a_spike_before_the_loss_has_settled(health, said):
    for step, before in enumerate(losses(SETTLED - 1)):
        health.judge(row(step, float(before)), INDEX)
    health.judge(row(99, 9.0), INDEX)
    assert said == []
