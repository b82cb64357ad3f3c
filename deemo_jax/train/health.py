"""Whether the training is sound: steps skipped, losses that leap, and when to stop."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
import math
import statistics

import numpy as np

WINDOW = 64  # steps that a loss is compared with
SETTLED = 32  # steps before anything is called a spike
DEVIATIONS = 6.0  # above the mean, where a spike begins,
RISE = 1.1  # and how many times the mean it is at least: flat curves vary by nothing


class UnsoundError(RuntimeError):
    """Step after step gave no finite gradient: what, where, and what to do."""


class Health:
    """Judges one finished step after another.

    Args:
      max_skipped: how many steps in a row may be skipped.
      clip_ids: of the split's records, by their index.
      say: told of every skipped step and of every spike, with the step's clips.
    """

    def __init__(
        self,
        *,
        max_skipped: int,
        clip_ids: Sequence[str],
        say: Callable[[str], None],
    ):
        self._max_skipped = max_skipped
        self._clip_ids = clip_ids
        self._say = say
        self._in_a_row = 0
        self._losses: deque[float] = deque(maxlen=WINDOW)

    def judge(self, row: Mapping[str, int | float], index: np.ndarray) -> None:
        """Takes in a row of `Metrics.finish`, and the records of this process's rows.

        Raises:
          UnsoundError: if more than `max_skipped` steps in a row were skipped.
        """
        step, loss = row["step"], row["loss"]
        if not row["skipped"]:
            self._in_a_row = 0
            self._look_for_spike(step, loss, index)
            self._losses.append(loss)
            return
        self._in_a_row += 1
        values = f"loss {loss}, grad_norm {row['grad_norm']}"
        told = f"step {step} is skipped: {values}; {self._name(index)}"
        if self._in_a_row <= self._max_skipped:
            self._say(told)
            return
        raise UnsoundError(
            f"{told}. It is number {self._in_a_row} in a row, and "
            f"config.train.max_skipped_steps is {self._max_skipped}: lower "
            f"config.optimizer.learning_rate or clip_norm and go on from the last "
            f"checkpoint, or look at these clips"
        )

    def _look_for_spike(
        self, step: int | float, loss: int | float, index: np.ndarray
    ) -> None:
        if len(self._losses) < SETTLED:
            return
        mean = statistics.fmean(self._losses)
        limit = mean + DEVIATIONS * math.sqrt(statistics.pvariance(self._losses))
        if loss > max(limit, RISE * mean):
            self._say(
                f"loss {loss:.4f} of step {step} is a spike (mean of the last "
                f"{len(self._losses)} steps {mean:.4f}); {self._name(index)}"
            )

    def _name(self, index: np.ndarray) -> str:
        names = [str(self._clip_ids[i]) for i in index if i >= 0]
        return f"clips {', '.join(names)}"
