"""A run that is asked to make room: it saves, and ends so that it is started again."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import signal
import threading
from typing import Any

from jaxtyping import Float
import numpy as np

# Schedulers send the first one before they kill, and the second one where asked to
# (`--signal=USR1@120` of SLURM).
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What a process asks of the run: to `save` its state, to `stop` when it is saved.

    The processes tell each other with every step what they ask (`told`, and then
    `distributed.exchange`), and act on the same answer after the same step (`by_any`).
    """

    save: bool
    stop: bool

    def told(self, *, busy_seconds: float) -> Float[np.ndarray, "3"]:
        """As numbers, with the seconds that the host was busy for this step."""
        return np.array([self.save, self.stop, busy_seconds], np.float32)

    @classmethod
    def by_any(cls, wishes: Float[Any, "process 3"]) -> "Asked":
        """What any of the processes asked; waits for what they told each other."""
        save, stop, _ = np.asarray(wishes).max(axis=0)
        return cls(save=bool(save), stop=bool(stop))


class Preempted(Exception):
    """The run was asked to stop, has saved its state, and can go on."""


@contextlib.contextmanager
def preemption() -> Iterator[Callable[[], bool]]:
    """Whether this process was sent one of `SIGNALS`, instead of being ended by it.

    A second one ends the process as it would have without this. Outside of the main
    thread, where Python hears no signals, nothing is ever asked.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(*_: object) -> None:
        asked.set()
        restore()

    for number in SIGNALS:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        restore()
