"""`deemo_small.py`, of which one process fails: FAIL=PROCESS:TIME:HOW, or …:HOW:WHERE.

HOW is the name of an exception, SIGKILL, or SLOW, which it is from that time on. WHERE
is among `POINTS`; in a step unless given, and then TIME counts the steps of this start.
"""

import builtins
from collections.abc import Callable
import os
import signal
import sys
import time

import jax

from deemo_jax import workdir
from deemo_jax.checkpoint import Checkpoints
from deemo_jax.cli import main
from deemo_jax.config import ConfigError
from deemo_jax.train import loop, step
from deemo_jax.train.phases import Phases
from tests.small import Bigrams

PROCESS, TIME, HOW, *WHERE = os.environ["FAIL"].split(":")
POINTS = {
    "step": (loop, "place"),  # puts the batch of a step on the devices
    "save": (Checkpoints, "_seal"),  # while Orbax writes what it has copied
    "restore": (Checkpoints, "restore"),
    "evaluate": (Phases, "get_on"),  # between two batches
}


def failing(act: Callable) -> Callable:
    """`act` that fails at the time that is asked for."""
    calls = 0

    def act_or_fail(*given, **named):
        nonlocal calls
        calls += 1
        if HOW == "SLOW" and jax.process_index() == int(PROCESS) and calls >= int(TIME):
            time.sleep(0.5)
        elif (jax.process_index(), calls) == (int(PROCESS), int(TIME)):
            if HOW == "SIGKILL":
                os.kill(os.getpid(), signal.SIGKILL)
            kinds = vars(builtins) | {"ConfigError": ConfigError}
            raise kinds[HOW]("out of luck")
        return act(*given, **named)

    return act_or_fail


def evaluator(*_):
    """Stands in for the evaluation, which takes the whole model."""

    def evaluate(model, step, got_on):
        for _ in range(3):
            got_on()
        return {"step": step}

    return evaluate


if __name__ == "__main__":
    owner, name = POINTS[(WHERE or ["step"])[0]]
    setattr(owner, name, failing(getattr(owner, name)))
    setattr(step, "DeemoLlama", Bigrams)  # noqa: B010
    setattr(workdir, "evaluator", evaluator)  # noqa: B010
    sys.exit(main(sys.argv[1:]))
