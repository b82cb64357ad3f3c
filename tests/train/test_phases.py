import json

import pytest

from deemo_jax.train import phases as module
from deemo_jax.train.phases import PHASES, Goodput, Phases


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def spend(phases, clock, *spans):
    """`(phase, step, seconds)` one after another."""
    for phase, step, seconds in spans:
        phases.enter(phase, step)
        clock.now += seconds


def test_every_second_belongs_to_the_phase_it_was_spent_in(clock):
    phases = Phases(clock)
    clock.now += 2
    spend(phases, clock, ("data", 0, 1), ("step", 0, 4), ("data", 1, 3), ("step", 1, 5))
    found = phases.seconds()
    assert found == dict.fromkeys(PHASES, 0) | {"start": 2, "data": 4, "step": 9}
    assert sum(found.values()) == clock.now - 100


def test_a_phase_entered_again_goes_on_and_one_for_another_step_begins(clock):
    phases = Phases(clock)
    spend(phases, clock, ("step", 3, 2), ("step", 3, 2))
    assert (phases.now.phase, phases.now.step, phases.now.since) == ("step", 3, 100)
    phases.get_on()
    assert (phases.now.parts, phases.now.since) == (1, 100)
    phases.enter("step", 4)
    assert (phases.now.step, phases.now.since, phases.now.parts) == (4, 104, 0)


def test_goodput_adds_up_the_starts_and_what_they_lost(clock, tmp_path, monkeypatch):
    def read():
        return json.loads((tmp_path / "goodput.json").read_text())

    phases = Phases(clock)
    goodput = Goodput(tmp_path, phases)
    spend(phases, clock, ("compile", 0, 10), ("step", 0, 30))
    goodput.keep()
    spend(phases, clock, ("step", 1, 7))  # killed before it was kept
    monkeypatch.setattr(module, "TICK_SECONDS", -1.0)
    goodput.tick()
    assert read()["unkept_seconds"] == 7
    assert read()["wall_seconds"] == 47

    clock.now += 1000  # nobody was there
    phases = Phases(clock)
    goodput = Goodput(tmp_path, phases)
    spend(phases, clock, ("compile", 1, 10), ("step", 1, 33), ("save", 2, 10))
    goodput.keep()
    found = read()
    assert found["starts"] == 2
    assert found["unkept_seconds"] == 0
    assert found["wall_seconds"] == 100
    assert found["goodput"] == 0.63
    assert found["seconds"] == {
        "start": 0, "restore": 0, "data": 0, "compile": 20, "step": 63, "save": 10,
        "evaluate": 0, "lost": 7,
    }  # fmt: skip
    assert goodput.describe() == (
        "goodput: 63.0% of 100 s in 2 starts; compile 20.0%, save 10.0%, lost 7.0%"
    )


def test_a_start_that_keeps_nothing_counts_and_what_it_did_is_lost(clock, tmp_path):
    for start in (1, 2):
        phases = Phases(clock)
        clock.now += 5
        goodput = Goodput(tmp_path, phases)
        found = json.loads((tmp_path / "goodput.json").read_text())
        assert found["starts"] == start
        assert found["seconds"]["lost"] == 5 * (start - 1)
        assert found["unkept_seconds"] == 5
    assert goodput.describe() == (
        "goodput: 0.0% of 10 s in 2 starts; lost 50.0%, not kept yet 50.0%"
    )
