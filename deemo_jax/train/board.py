"""TensorBoard's event files, written at once and by the thread that trains.

TensorBoard's own `EventFileWriter` leaves it to a thread. When that one fails, on a
full disk say, whoever writes next waits for it without end.
"""

from collections.abc import Mapping
from pathlib import Path
import socket
import time

# Their names are made when they are imported, so the type checker does not see them.
from tensorboard.compat.proto.event_pb2 import (  # pyright: ignore
    Event,  # pyright: ignore
    SessionLog,  # pyright: ignore
)
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore
from tensorboard.summary.writer.record_writer import RecordWriter


class Board:
    """The events of a run from `start` steps on; what was shown of later ones goes."""

    def __init__(self, folder: Path, *, start: int):
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}"
        self._events = RecordWriter(open(folder / name, "wb"))  # noqa: SIM115
        self._write(Event(file_version="brain.Event:2"))
        began = SessionLog(status=SessionLog.SessionStatus.START)
        self._write(Event(step=start + 1, session_log=began))

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        """Shows each number but the step's own under its name."""
        shown = [
            Summary.Value(tag=name, simple_value=float(value))
            for name, value in values.items()
            if name != "step"
        ]
        self._write(Event(step=step, summary=Summary(value=shown)))

    def close(self, _: int) -> None:
        """Closes the file; TensorBoard does not show with what exit code it ended."""
        self._events.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events.write(event.SerializeToString())
        self._events.flush()
