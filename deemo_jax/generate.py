"""Greedy text: the prompt at once, then token by token from a key-value cache."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int
import numpy as np

from deemo_jax.batch import Batch
from deemo_jax.models.deemo_llama import DeemoLlama
from deemo_jax.sharding import constrain


def generate(
    model: DeemoLlama,
    batch: Batch,
    *,
    max_new_tokens: int,
    eos_token_id: int | tuple[int, ...],
    pad_token_id: int,
) -> Int[Array, "B {max_new_tokens}"]:
    """The likeliest next token, again and again, after each row's prompt.

    A prompt is what is not padding (`segment_ids` 0) in its row; padding may stand on
    either side. A row ends with `eos_token_id`, or the first of several, which is part
    of the answer, and is filled with `pad_token_id`; a row without a prompt is all
    `pad_token_id`.

    Compiled once for each shape of `batch` and each `max_new_tokens`.

    Raises:
      ValueError: if `max_new_tokens` is below 1.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be 1 or more")
    graphdef, params = nnx.split(model)
    ends = (eos_token_id,) if isinstance(eos_token_id, int) else eos_token_id
    stop = np.asarray(ends, np.int32), np.int32(pad_token_id)  # of every process
    return _generate(graphdef, max_new_tokens, params, batch, stop)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generate(graphdef, max_new_tokens, params, batch, stop):
    model = nnx.merge(graphdef, params)
    decoder = model.language_model
    ends, padding = stop
    rows, places = batch.tokens.shape
    everyone = jnp.arange(rows)
    real = batch.segment_ids != 0
    last = jnp.where(real, jnp.arange(places)[None], 0).max(axis=1)
    segment = batch.segment_ids[everyone, last][:, None]
    start = batch.positions[everyone, last][:, None]

    def is_end(token):
        return (token[:, None] == ends[None]).any(axis=1)

    def choose(hidden):
        return jnp.argmax(decoder.logits(hidden)[:, 0], axis=-1)

    hidden, cache = decoder.extend(
        decoder.cache(rows, places + max_new_tokens),
        model.embed_batch(batch),
        positions=batch.positions,
        segment_ids=batch.segment_ids,
    )
    first = choose(hidden[everyone, last][:, None])
    first = jnp.where(real.any(axis=1), first, padding)
    answer = jnp.full((rows, max_new_tokens), padding, first.dtype)

    def going_on(state):
        step, _, ended, _, _ = state
        return (step < max_new_tokens) & ~ended.all()

    def next_token(state):
        step, token, ended, answer, cache = state
        hidden, cache = decoder.extend(
            cache,
            decoder.embed(token[:, None]),
            positions=start + step,
            segment_ids=segment,
        )
        token = jnp.where(ended, padding, choose(hidden))
        return (
            step + 1,
            token,
            ended | is_end(token),
            answer.at[:, step].set(token),
            cache,
        )

    ended = is_end(first) | ~real.any(axis=1)
    state = (1, first, ended, answer.at[:, 0].set(first), cache)
    answer = jax.lax.while_loop(going_on, next_token, state)[3]
    return constrain(answer, (None, None))  # all of it in every process
