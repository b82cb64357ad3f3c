import dataclasses
import errno

import pytest

from deemo_jax.config import ConfigError
from deemo_jax.deidentify import jobs as room
from deemo_jax.deidentify.jobs import do_all, refused, shares


@dataclasses.dataclass(frozen=True)
class Job:
    name: str
    seconds: float


def work(job: Job, report) -> str:
    report(job.seconds / 2)
    return job.name.upper()


@pytest.mark.parametrize("workers", [1, 2])
def test_all_are_done_and_seconds_are_told(workers):
    jobs, told = [Job("a", 4.0), Job("b", 6.0)], []
    done = do_all(
        work, jobs, workers=workers, what="working",
        progress=lambda *said: told.append(said),
    )  # fmt: skip
    assert sorted(done) == ["A", "B"]
    assert told[0] == ("working", 0, 10)
    assert told[-1] == ("working", 10, 10)
    within = [("working", 2, 10), ("working", 4, 10), ("working", 7, 10)]
    assert workers > 1 or told[1:-1] == within


def test_nothing_to_do():
    assert list(do_all(work, [], workers=2, what="x", progress=None)) == []


@pytest.mark.parametrize(
    ("jobs", "workers", "expected"),
    [
        (9, 0, (8, 1)),
        (3, 0, (3, 2)),
        (1, 0, (1, 8)),
        (0, 0, (1, 8)),
        (9, 2, (2, 4)),
        (9, 12, (9, 1)),
        (1, 2, (1, 8)),
    ],
)
def test_cores_are_shared_out(jobs, workers, expected, monkeypatch):
    monkeypatch.setattr(room, "cores", lambda: 8)
    assert shares(jobs, workers) == expected


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("config.words.redactor cannot be read"),
        ImportError("libcudart.so.12: cannot open shared object file"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_what_no_other_clip_would_escape_ends_the_run(error):
    with pytest.raises(type(error)) as raised:
        refused(error, "a")
    assert raised.value is error
