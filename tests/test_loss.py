"""The loss against PyTorch's, its sums against each other, its edges for finiteness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from deemo_jax.loss import cross_entropy_sums, log_likelihood


def draw(batch=3, length=7, vocabulary=11, scale=3.0):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=scale, size=(batch, length, vocabulary))
    tokens = rng.integers(0, vocabulary, (batch, length))
    mask = rng.random((batch, length)) < 0.5
    return jnp.asarray(logits, jnp.float32), jnp.asarray(tokens), jnp.asarray(mask)


def test_agrees_with_pytorch():
    logits, tokens, mask = draw()
    sums = cross_entropy_sums(logits, tokens, mask)
    labels = torch.tensor(np.where(mask, tokens, -100)[:, 1:]).long()
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(np.asarray(logits))[:, :-1].reshape(-1, 11),
        labels.reshape(-1),
        reduction="sum",
    )
    np.testing.assert_allclose(sums["loss"], theirs, rtol=1e-6)
    assert sums["tokens"] == (labels != -100).sum().item()


def test_expected_values_by_hand():
    #         predicts:   1     2     0
    chances = [[.1, .8, .1], [.3, .5, .2], [.6, .2, .2], [.1, .2, .7]]  # fmt: skip
    logits = jnp.log(jnp.asarray([chances]))
    tokens = jnp.asarray([[2, 1, 2, 0]])
    table = [
        # loss_mask                   likelihood    correct
        ([True, True, True, True],    .8 * .2 * .6, 2),
        ([True, False, False, False], 1.,           0),
        ([False, True, False, False], .8,           1),
        ([False, False, True, False], .2,           0),
        ([False, False, False, True], .6,           1),
    ]  # fmt: skip
    for mask, likelihood, correct in table:
        arguments = (logits, tokens, jnp.asarray([mask]))
        sums = cross_entropy_sums(*arguments)
        np.testing.assert_allclose(jnp.exp(-sums["loss"]), likelihood, rtol=1e-6)
        assert sums["correct"] == correct
        assert sums["tokens"] == sum(mask[1:])
        np.testing.assert_allclose(
            jnp.exp(log_likelihood(*arguments)), [likelihood], rtol=1e-6
        )


def test_sums_of_parts_are_the_sums_of_the_whole():
    logits, tokens, mask = draw(batch=4)
    whole = cross_entropy_sums(logits, tokens, mask)
    parts = [
        cross_entropy_sums(logits[rows], tokens[rows], mask[rows])
        for rows in (slice(0, 1), slice(1, 4))
    ]
    for name, value in whole.items():
        np.testing.assert_allclose(sum(part[name] for part in parts), value, rtol=1e-6)


def test_rows_add_up_to_the_loss():
    arguments = draw()
    rows = log_likelihood(*arguments)
    np.testing.assert_allclose(
        -rows.sum(), cross_entropy_sums(*arguments)["loss"], rtol=1e-6
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_large_logits_stay_finite_and_so_do_their_gradients(dtype):
    logits, tokens, mask = draw(scale=1e4)

    def loss(logits):
        return cross_entropy_sums(logits, tokens, mask)["loss"]

    value, gradient = jax.value_and_grad(loss)(logits.astype(dtype))
    assert value.dtype == jnp.float32
    assert np.isfinite(value)
    assert np.isfinite(gradient.astype(jnp.float32)).all()


def test_only_logits_before_masked_tokens_get_a_gradient():
    logits, tokens, mask = draw()
    gradient = jax.grad(lambda x: cross_entropy_sums(x, tokens, mask)["loss"])(logits)
    reached = np.abs(gradient).sum(-1) > 0
    np.testing.assert_array_equal(reached[:, :-1], mask[:, 1:])
    assert not reached[:, -1].any()


def test_what_is_not_finite_behind_the_mask_does_not_matter():
    logits, tokens, mask = draw()
    spoiled = jnp.where(jnp.roll(mask, -1, 1)[..., None], logits, jnp.inf)
    np.testing.assert_array_equal(
        cross_entropy_sums(spoiled, tokens, mask.at[:, 0].set(False))["loss"],
        cross_entropy_sums(logits, tokens, mask.at[:, 0].set(False))["loss"],
    )
