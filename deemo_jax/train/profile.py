"""An xprof trace of a few steps, for TensorBoard's profiler or Perfetto."""

from collections.abc import Callable
import re
from typing import Any

import jax

from deemo_jax.config import ConfigError
from deemo_jax.spool import growing
from deemo_jax.storage import AnyPath

FOLDER = "profile"


class Profile:
    """Traces the steps `first` to `last` of a run into `WORKDIR/profile/`.

    `say` is told where the trace is. Every process writes its own.
    """

    def __init__(
        self, first: int, last: int, workdir: AnyPath, say: Callable[[str], None]
    ):
        self._first, self._last = first, last
        self._folder = workdir / FOLDER
        self._say = say
        self._tracing = False

    def before(self, step: int, state: Any) -> None:
        """Call it with the number of the step that begins (from 1), and the state."""
        if step == self._first:
            jax.block_until_ready(state)  # nothing of the step before is in it
            jax.profiler.start_trace(str(growing(self._folder, folder=True)))
            self._tracing = True
        elif step == self._last + 1:
            self.stop(state)

    def stop(self, state: Any) -> None:
        """Ends a trace that is under way, when the devices have done their steps."""
        if self._tracing:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._tracing = False
            self._say(f"trace of steps {self._first} to {self._last}: {self._folder}")


def read_steps(words: str) -> tuple[int, int] | None:
    """The first and the last step of `10:15`; None of nothing.

    Raises:
      ConfigError: if the words are not two numbers in order.
    """
    if not words:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", words)
    if found and 0 < int(found[1]) <= int(found[2]):
        return int(found[1]), int(found[2])
    raise ConfigError(
        f"--profile_steps is {words!r}; it must be FIRST:LAST, such as 10:15, counted "
        f"from 1"
    )
