"""A decoder's vocabulary, extended by tokens that its checkpoint does not have."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deemo_jax.models.llama import Llama


def extend_vocabulary(
    model: Llama,
    tokenizer: Any,
    tokens: Sequence[str],
    *,
    vocab_size: int | None = None,
) -> tuple[int, ...]:
    """Adds special tokens to the tokenizer and the rows they need to the model.

    A new row, of the embedding as of an untied head, is the mean of the rows of the
    tokens there were: so a new token is nothing in particular, and its logit below the
    largest. A token that the tokenizer has already keeps its row. Both arguments are
    changed in place; every logit of an old token stays.

    Args:
      model: a decoder; place it on a mesh afterwards.
      tokenizer: a tokenizer of `transformers` (all that is used is `len`,
        `add_tokens` and `convert_tokens_to_ids`).
      tokens: those to add.
      vocab_size: rows to end up with, a multiple of 64 for accelerators and meshes;
        None for as many as are needed.

    Returns:
      The ids of `tokens`.

    Raises:
      ValueError: if the tokenizer has more tokens than the embedding has rows, which
        is then not the model's own, or `vocab_size` is too small.
    """
    old = model.config.vocab_size
    used = len(tokenizer)
    if used > old:
        raise ValueError(
            f"the tokenizer has {used} tokens and the embedding {old} rows; take the "
            f"tokenizer that belongs to the model"
        )
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    needed = max(old, len(tokenizer))
    rows = needed if vocab_size is None else vocab_size
    if rows < needed:
        raise ValueError(
            f"vocab_size is {rows}, but the embedding and the tokens added to it take "
            f"{needed} rows; raise it to that, better to the next multiple of 64"
        )
    embedding = model.embed_tokens.embedding
    embedding.set_value(_extended(embedding[...], used, len(tokenizer), rows))
    model.embed_tokens.num_embeddings = rows
    if model.lm_head is not None:
        kernel = model.lm_head.kernel
        head = _extended(kernel[...].T, used, len(tokenizer), rows)
        kernel.set_value(head.T)
        model.lm_head.out_features = rows
    model.config = dataclasses.replace(model.config, vocab_size=rows)
    return tuple(tokenizer.convert_tokens_to_ids(list(tokens)))


def _extended(
    table: Float[Array, "V D"], used: int, needed: int, rows: int
) -> Float[Array, "{rows} D"]:
    """The table with the mean of its first `used` rows in those up to `needed`.

    Rows behind `needed` that the checkpoint has (it was padded) stay, new ones are the
    mean as well.
    """
    mean = table[:used].mean(axis=0, keepdims=True)
    spare = jnp.arange(table.shape[0])
    new = (spare >= used) & (spare < needed)
    table = jnp.where(new[:, None], mean, table)
    more = jnp.broadcast_to(mean, (rows - table.shape[0], table.shape[1]))
    return jax.block_until_ready(jnp.concatenate([table, more]))
