"""The endless rows of several clips each, in any order."""

from collections.abc import Sequence
import sys

from jaxtyping import Float, Int
import numpy as np

from deemo_jax.data import packing
from deemo_jax.data.reader import Reader, Row
from deemo_jax.fields import ConfigError


class Packed:
    """Rows as `packing.plan_epoch` has them; picklable.

    `lengths` are the tokens of each clip, as `Reader.lengths` has them, and `shares`
    the probability of each column.

    Raises:
        ConfigError: `clips_per_row` of the clips do not fit into a row.
    """

    def __init__(
        self,
        reader: Reader,
        indices: Sequence[int],
        lengths: Int[np.ndarray, "N C"],
        shares: Float[np.ndarray, "N C"],
        seed: int,
    ):
        self._reader, self._indices, self._seed = reader, indices, seed
        self._lengths, self._shares = lengths, shares
        config = reader.config
        self._rows = packing.row_count(len(indices), config.clips_per_row)
        self._plans: dict[int, packing.Plan] = {}
        needed = packing.needed_length(lengths, shares, config.clips_per_row)
        if needed > config.max_length:
            raise ConfigError(
                f"config.data.max_length is {config.max_length}, but "
                f"config.data.clips_per_row={config.clips_per_row} clips need up to "
                f"{needed} tokens together: set it to {needed} or more, or put fewer "
                f"clips into a row"
            )

    def __len__(self) -> int:
        """As many as whole epochs can be numbered with."""
        return sys.maxsize // self._rows * self._rows

    def __getitem__(self, place: int) -> Row:
        """The row at a place in the endless sequence of rows."""
        epoch, row = divmod(place, self._rows)
        plan = self._plan(epoch)
        indices, rngs, tasks = [], [], []
        for clip in plan.rows[row].tolist():
            indices.append(self._indices[clip] if clip >= 0 else -1)
            rngs.append(np.random.default_rng([self._seed, epoch, max(indices[-1], 0)]))
            tasks.append(self._task(plan, clip))
        return self._reader.packed_row(indices, rngs, tasks)

    def describe(self) -> str:
        """How well the clips of the first epoch fill the rows.

        Of other things that a clip's length is drawn with, the longest are counted.
        """
        config, clips = self._reader.config, len(self._indices)
        drawn = packing.drawn_lengths(self._lengths, self._plan(0).columns)
        share = drawn.sum() / (self._rows * config.max_length)
        most = "up to " if config.phrasings > 1 or config.modality_dropout else ""
        return (
            f"{clips} clips in {self._rows} rows of up to {config.clips_per_row}: "
            f"{most}{100 * share:.1f}% of config.data.max_length={config.max_length} "
            "is used"
        )

    def _plan(self, epoch: int) -> packing.Plan:
        plan = self._plans.get(epoch)
        if plan is None:
            config = self._reader.config
            plan = packing.plan_epoch(
                self._lengths,
                self._shares,
                config.clips_per_row,
                max_length=config.max_length,
                seed=self._seed,
                epoch=epoch,
            )
            # Reading ahead, two epochs meet; threads that plan the same one agree.
            self._plans = dict(list(self._plans.items())[-1:]) | {epoch: plan}
        return plan

    def _task(self, plan: packing.Plan, clip: int) -> str | None:
        """The one that is asked of a clip, where it is drawn by weight."""
        config = self._reader.config
        if clip < 0 or not config.task_weights:
            return None
        return config.trained_tasks[plan.columns[clip]]
