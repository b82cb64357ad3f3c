"""Which steps are traced."""

import pytest

from deemo_jax.config import ConfigError
from deemo_jax.train import profile
from deemo_jax.train.profile import Profile, read_steps


@pytest.mark.parametrize(
    ("words", "steps"), [("", None), ("10:15", (10, 15)), ("3:3", (3, 3))]
)
def test_steps_as_words(words, steps):
    assert read_steps(words) == steps


@pytest.mark.parametrize("words", ["10", "0:5", "5:3", "a:b", "1:2:3", "-1:2"])
def test_words_that_are_no_steps_are_refused(words):
    with pytest.raises(ConfigError, match="must be FIRST:LAST, such as 10:15"):
        read_steps(words)


@pytest.fixture
def calls(monkeypatch):
    found = []
    monkeypatch.setattr(
        profile.jax.profiler, "start_trace", lambda folder: found.append("start")
    )
    monkeypatch.setattr(
        profile.jax.profiler, "stop_trace", lambda: found.append("stop")
    )
    return found


def run(tracer, steps, calls):
    for step in steps:
        tracer.before(step, None)
        calls.append(step)
    tracer.stop(None)


def test_the_steps_that_are_asked_for_and_no_others(calls, tmp_path):
    said = []
    run(Profile(3, 4, tmp_path, said.append), range(1, 7), calls)
    assert calls == [1, 2, "start", 3, 4, "stop", 5, 6]
    assert said == [f"trace of steps 3 to 4: {tmp_path / 'profile'}"]


def test_a_run_that_ends_before_ends_the_trace(calls, tmp_path):
    run(Profile(3, 9, tmp_path, print), range(1, 5), calls)
    assert calls == [1, 2, "start", 3, 4, "stop"]


def test_none_is_traced_unless_asked_for(calls, tmp_path):
    run(Profile(0, 0, tmp_path, print), range(1, 5), calls)
    assert calls == [1, 2, 3, 4]
