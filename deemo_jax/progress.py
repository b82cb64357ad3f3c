"""Progress on the terminal: one bar a long step, silent where nobody watches."""

from collections.abc import Iterator
import contextlib

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Steps:
    """Bars by description: `steps("packing clips", 3, 100)` draws or moves one."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._tasks = {}

    def __call__(self, description: str, done: int, total: int | None) -> None:
        """Says that `done` of `total` (None: not known) of a step are done."""
        if description not in self._tasks:
            self._tasks[description] = self._progress.add_task(description, total=total)
        self._progress.update(self._tasks[description], completed=done, total=total)


@contextlib.contextmanager
def bars(console: Console | None = None) -> Iterator[Steps]:
    """Draws bars while the block runs; what is printed meanwhile stands above them."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield Steps(progress)
