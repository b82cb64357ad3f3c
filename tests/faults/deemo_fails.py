"""`deemo_small.py`, of which one process fails at one step: FAIL=PROCESS:STEP:HOW.

HOW is the name of an exception, SIGKILL, or SLOW, which it is from that step on.
"""

import builtins
import os
import signal
import sys
import time

import jax

from deemo_jax.cli import main
from deemo_jax.config import ConfigError
from deemo_jax.train import loop, step
from tests.small import Bigrams

PROCESS, STEP, HOW = os.environ["FAIL"].split(":")
placed = 0
place = loop.place


def place_or_fail(*given, **named):
    """What puts the batch of a step on the devices."""
    global placed
    placed += 1
    if HOW == "SLOW" and jax.process_index() == int(PROCESS) and placed >= int(STEP):
        time.sleep(0.5)
        return place(*given, **named)
    if (jax.process_index(), placed) == (int(PROCESS), int(STEP)):
        if HOW == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        kinds = vars(builtins) | {"ConfigError": ConfigError}
        raise kinds[HOW]("out of luck")
    return place(*given, **named)


if __name__ == "__main__":
    setattr(step, "DeemoLlama", Bigrams)  # noqa: B010
    setattr(loop, "place", place_or_fail)  # noqa: B010
    sys.exit(main(sys.argv[1:]))
