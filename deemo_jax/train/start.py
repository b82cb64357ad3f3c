"""Where a run begins or goes on: its batches, and its state from a checkpoint."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from deemo_jax.checkpoint import Checkpoints
from deemo_jax.config import Config, ConfigError
from deemo_jax.data.loader import Batches, check_evaluation
from deemo_jax.data.source import ShardSource
from deemo_jax.data.tokenizer import Tokenizer
from deemo_jax.distributed import broadcast, is_first
from deemo_jax.sharding import local_rows
from deemo_jax.storage import AnyPath
from deemo_jax.train.initial import initial_params
from deemo_jax.train.local_checkpoints import LocalCheckpoints
from deemo_jax.train.prepare import open_split
from deemo_jax.train.step import TrainState, abstract_state, init_state


def make_batches(
    config: Config, mesh: Mesh, source: ShardSource, tokenizer: Tokenizer
) -> Batches:
    """The batches of a run, of which this process reads the rows of its devices."""
    return Batches(
        source,
        config.data,
        tokenizer,
        _spans(config),
        seed=config.seed,
        batch_size=config.train.batch_size,
        rows=local_rows(mesh, config.train.batch_size),
    )


def check_split(config: Config, packed: AnyPath, tokenizer: Tokenizer) -> ShardSource:
    """The `evaluate.split` of a run; refused if it cannot be evaluated.

    Raises:
      ConfigError: if there is none, or it has rows that are too long, naming the clips
        and the length that they need.
      ValueError: if it has no answer to any task.
    """
    source = open_split(config, packed, config.evaluate.split)
    check_evaluation(source, config.data, tokenizer, _spans(config))
    return source


def _spans(config: Config) -> tuple[int, int]:
    return (
        config.model.video_connector.num_query_tokens,
        config.model.audio_connector.num_query_tokens,
    )


def first_state(
    config: Config,
    mesh: Mesh,
    checkpoints: Checkpoints,
    *,
    local: LocalCheckpoints | None = None,
    before: int | None = None,
) -> tuple[TrainState, int]:
    """The state to go on from, and the number of steps done.

    It is the newest whole checkpoint of the run (of a step below `before`, if that is
    not None), durable or `local`, or what `initial_params` gives.
    """
    abstract = abstract_state(config, mesh)
    items = items_of(abstract)
    near = None if local is None else local.newest(items)
    # Only what would be preferred to the local one is read.
    newest = checkpoints.newest(before=before, after=-1 if near is None else near)
    if newest is not None:
        start, found = newest, checkpoints.restore(newest, items)
    elif local is not None and near is not None:
        start, found = near, local.restore(near, items)
    elif before is None and broadcast(len(checkpoints.sealed()) if is_first() else 0):
        raise ConfigError(
            f"no checkpoint in {checkpoints.folder} is whole any more: give the run a "
            f"copy of one back, or begin in a new --workdir"
        )
    else:
        return init_state(config, mesh, initial_params(config, mesh)), 0
    step = jax.device_put(jnp.int32(start), abstract.step.sharding)
    return TrainState(step=step, **found), start


def items_of(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds; its number is the step, and so the place in the data."""
    return {"params": state.params, "opt_state": state.opt_state}
