import dataclasses

import pytest

from deemo_jax.deidentify.jobs import do_all


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
