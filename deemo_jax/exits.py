"""How a process ends: the exit codes of all verbs, and an end that waits for nobody."""

import contextlib
import multiprocessing
import os
import sys
from typing import NoReturn

DONE = 0
FAILED = 1
BAD_USAGE = 2  # of flags or settings: the same command fails again
SOME_REFUSED = 3  # done, and what was refused is listed
PREEMPTED = 75  # asked to stop and saved (EX_TEMPFAIL of sysexits.h): it may go on
LOST = 76  # hung, or without the other processes: it may go on
INTERRUPTED = 130


class LostError(RuntimeError):
    """Without the others, or what they share, this process of a run cannot go on."""

    exit_code = LOST


def exit_code_of(error: BaseException) -> int:
    """The exit code that an exception stands for: its `exit_code`, or `FAILED`."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return getattr(error, "exit_code", FAILED)


def end_now(code: int) -> NoReturn:
    """Ends this process and the workers it has started: nothing is waited for."""
    for worker in multiprocessing.active_children():
        worker.kill()
    for stream in (sys.stdout, sys.stderr):  # what was printed is not lost
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
