"""Masked next-token cross-entropy, as sums that are added first and divided last."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def cross_entropy_sums(
    logits: Float[Array, "B S V"],
    tokens: Int[Array, "B S"],
    loss_mask: Bool[Array, "B S"],
) -> dict[str, Array]:
    """Sums over the tokens to be predicted.

    Token `s` is predicted from the logits at `s - 1`, so the first of a row never
    counts; the first of a packed segment must be masked, since what stands before it
    belongs to another.

        tokens      <s>  is  she  sad  yes  </s>  <pad>
        loss_mask    .   .   .    .    x    x     .
        logits at                 3    4

    Returns:
      `loss`: negative log-likelihood in nats, float32. `tokens`: how many were to be
      predicted, int32. `correct`: how many of them had the largest logit, int32.
    """
    mask = loss_mask[:, 1:]
    right = jnp.argmax(logits[:, :-1], axis=-1) == tokens[:, 1:]
    return {
        "loss": -_log_probabilities(logits, tokens, loss_mask).sum(),
        "tokens": mask.sum(dtype=jnp.int32),
        "correct": (right & mask).sum(dtype=jnp.int32),
    }


def log_likelihood(
    logits: Float[Array, "B S V"],
    tokens: Int[Array, "B S"],
    loss_mask: Bool[Array, "B S"],
) -> Float[Array, " B"]:
    """Log-likelihood of each row's masked tokens together, in nats."""
    return _log_probabilities(logits, tokens, loss_mask).sum(axis=1)


def _log_probabilities(
    logits: Float[Array, "B S V"],
    tokens: Int[Array, "B S"],
    loss_mask: Bool[Array, "B S"],
) -> Float[Array, "B S-1"]:
    """Of each token from the second on, given those before it; 0 where masked."""
    logits = logits[:, :-1].astype(jnp.float32)
    # A comparison instead of a gather: it stays on its shard of the vocabulary, and its
    # gradient is a product where a gather's is a scatter.
    vocabulary = jnp.arange(logits.shape[-1])[None, None]
    chosen = jnp.where(vocabulary == tokens[:, 1:, None], logits, 0.0).sum(axis=-1)
    found = chosen - jax.nn.logsumexp(logits, axis=-1)
    return jnp.where(loss_mask[:, 1:], found, 0.0)
