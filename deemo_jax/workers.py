"""Jobs done by several threads, or by processes that do not outlive their starter."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from concurrent.futures.process import BrokenProcessPool
import multiprocessing
import os
import signal
import threading
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def in_threads(
    work: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    threads: int,
    held: int | None = None,
) -> Iterator[tuple[Job, Result]]:
    """Each job with what `work` makes of it, in order, several at once.

    `held` jobs are taken ahead, by default two for each thread, so memory is bounded.
    """
    ahead: deque[tuple[Job, Future[Result]]] = deque()
    most = 2 * threads if held is None else held
    with ThreadPoolExecutor(threads) as pool:
        for job in jobs:
            ahead.append((job, pool.submit(work, job)))
            if len(ahead) > most:
                job, future = ahead.popleft()
                yield job, future.result()
        for job, future in ahead:
            yield job, future.result()


def in_processes(
    work: Callable[[Job], Result], jobs: Iterable[Job], *, workers: int
) -> Iterator[Result]:
    """What `work` makes of each job, in the order in which they are done.

    `work` and the jobs are pickled: it is a function of a module, and what it raises
    ends them all.

    Raises:
        RuntimeError: a worker was killed, or died of what it read.
    """
    # A fork would take over the locks of threads that it has not.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _begin) as pool:
        try:
            for future in as_completed([pool.submit(work, job) for job in jobs]):
                yield future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker died (out of memory, or of a file that ends its decoder): "
                "the same command goes on, with --workers=1 it shows at which clip"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.kill()
            raise


def _begin() -> None:
    """Leaves interrupts to the process that started this one, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
