"""Clips done one after another or by several processes, with progress in seconds."""

from collections.abc import Callable, Iterator, Sequence
import errno
import functools
import traceback
from typing import Protocol, TypeVar, runtime_checkable

from deemo_jax.config import ConfigError
from deemo_jax.refusals import Refusal, Rejection, reject
from deemo_jax.workers import cores, in_processes

Progress = Callable[[str, int, int | None], None]
Report = Callable[[float], None]
LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # of a disk, not of a clip


@runtime_checkable
class Timed(Protocol):
    """A job, and the seconds of media in it."""

    @property
    def seconds(self) -> float:
        """Its part of the work."""
        ...


Job = TypeVar("Job", bound=Timed)
Result = TypeVar("Result")


def check_workers(workers: int) -> None:
    """Refuses what is no number of processes, before anything is made.

    Raises:
        ConfigError: it is below 0.
    """
    if workers < 0:
        raise ConfigError(
            f"--workers is {workers}; give 1 or more, or 0 for the default"
        )


def shares(jobs: int, workers: int) -> tuple[int, int]:
    """How many processes do so many jobs, and the threads of each.

    `workers` processes at most, of 0 one for each core; what cores they leave become
    threads, so that one job alone has all.
    """
    processes = max(1, min(workers or cores(), jobs))
    return processes, max(1, cores() // processes)


def do_all(
    work: Callable[[Job, Report], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    what: str,
    progress: Progress | None,
) -> Iterator[Result]:
    """What `work` makes of each job, as it is done.

    Args:
        work: a function of a module, given the job and what to call with the seconds of
            it that are done.
        jobs: which are pickled where there are several workers.
        workers: processes.
        what: is being done, such as "auditing (seconds)".
        progress: called with that, the seconds done, and those in all.
    """
    total, before = round(sum(job.seconds for job in jobs)), 0.0

    def report(seconds: float) -> None:
        if progress is not None:
            progress(what, int(before + seconds), total)

    report(0.0)
    if workers == 1 or len(jobs) <= 1:
        results = ((job, work(job, report)) for job in jobs)
    else:
        apart = functools.partial(_apart, work)
        results = in_processes(apart, jobs, workers=min(workers, len(jobs)))
    for job, result in results:
        before += job.seconds
        report(0.0)
        yield result


def refused(error: Exception, clip_id: str) -> Rejection:
    """What becomes of a clip that cannot be worked on: the other clips go on.

    An error that nobody foresaw, of a codec or a detector, is printed whole.

    Raises:
        OSError: the error, if it is the disk's, which no other clip would escape.
        ConfigError: the error, if it is the settings'.
        ImportError: the error, if a package is there and broken.
    """
    if isinstance(error, Refusal):
        return reject(error, clip_id=clip_id)
    if isinstance(error, ConfigError | ImportError) or (
        isinstance(error, OSError) and error.errno in LASTING
    ):
        raise error
    traceback.print_exception(error)
    words = " ".join(str(error).split())[:200]
    unforeseen = Refusal(
        f"{type(error).__name__}: {words}",
        "convert its media, or leave it out; if other programs play them, report it "
        "with the traceback that was printed",
    )
    return reject(unforeseen, clip_id=clip_id)


def _apart(work: Callable[[Job, Report], Result], job: Job) -> tuple[Job, Result]:
    """In another process, whose progress nobody sees."""
    return job, work(job, lambda seconds: None)
