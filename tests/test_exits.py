import multiprocessing
from pathlib import Path
import subprocess
import sys
import time

import pytest

from deemo_jax.config import ConfigError
from deemo_jax.distributed import ElsewhereError
from deemo_jax.exits import LostError, exit_code_of

WORKER = """
import multiprocessing, time
from deemo_jax.exits import end_now
worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
worker.start()
print(worker.pid, flush=True)
try:
    end_now(76)
finally:
    print("not reached")
"""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError(), 1),
        (ConfigError(""), 2),
        (LostError(), 76),
        (ElsewhereError("", 2), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_what_an_exception_stands_for(error, code):
    assert exit_code_of(error) == code


def test_what_was_said_before_the_end_is_heard():
    """Into a pipe or a file, nothing is written before much is said."""
    program = (
        "import sys; from deemo_jax.exits import end_now; print('why'); "
        "sys.stdout.write('no line'); end_now(76)"
    )
    words = ["env", "--unset=PYTHONUNBUFFERED", sys.executable, "-c", program]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=50)
    assert (ended.returncode, ended.stdout) == (76, "why\nno line")


def test_an_end_that_waits_for_nobody_takes_the_workers_along():
    ended = subprocess.run(
        [sys.executable, "-c", WORKER], capture_output=True, text=True, timeout=50
    )
    assert ended.returncode == 76
    assert multiprocessing.active_children() == []
    worker = Path(f"/proc/{int(ended.stdout)}")  # nothing else was printed
    end = time.monotonic() + 20  # it would sleep for 60 s
    while worker.exists() and time.monotonic() < end:  # killed, not waited for
        time.sleep(0.05)
    assert not worker.exists()
