"""Killed at random moments, a run gets where it would have got, to the last bit."""

import json
import random
import time

import numpy as np
import pytest

from tests.faults.conftest import steps

STEPS = 40
SETTINGS = {"train__steps": STEPS, "train__save_every": 2}
EVALUATED = {
    "program": "", "devices": 4, "train__steps": 4, "train__save_every": 2,
    "evaluate__every": 2, "evaluate__batch_size": 8, "evaluate__ablations": False,
    "evaluate__max_new_tokens": 4, "evaluate__split": "train", "mesh__fsdp": 2,
}  # fmt: skip
MOMENTS = [
    pytest.param(moment, marks=[pytest.mark.slow] if moment > 2 else [])
    for moment in range(20)
]


@pytest.fixture(scope="module")
def straight(launch, tmp_path_factory):
    """The run that nobody killed, and how long it took from its first step on."""
    run = launch(tmp_path_factory.mktemp("straight") / "run", **SETTINGS)
    run.until_step(1)
    began = time.monotonic()
    assert run.end() == 0, run.said
    return steps(run.workdir), time.monotonic() - began


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_started_again(launch, straight, tmp_path, moment):
    expected, seconds = straight
    run = launch(tmp_path / "run", **SETTINGS)
    draw = random.Random(moment)
    while True:
        # A restore, a save, a step: from before the first one to after the last one.
        run.until_there("heartbeats")
        if draw.random() < 0.7:
            run.until_there("metrics.jsonl")
        time.sleep(draw.uniform(0, seconds))
        run.kill()
        run = launch(tmp_path / "run", **SETTINGS)
        if draw.random() < 0.5:
            break
    assert run.end() == 0, run.said
    assert steps(run.workdir) == expected


@pytest.mark.slow  # it takes the whole model
@pytest.mark.parametrize("seconds", [0, 1, 5, 15])
def test_killed_while_it_evaluates(launch, evaluated, tmp_path, seconds):
    run = launch(tmp_path / "run", **EVALUATED)
    run.until_there("heartbeats/0.json")
    run.until(lambda: run.beat(0)["phase"] == "evaluate")
    time.sleep(seconds)
    run.kill()
    # Those that are whole; what a kill left half written is cleared away.
    folder = run.workdir / "checkpoints"
    left = {path for path in folder.iterdir() if path.name.isdigit()}
    run = launch(tmp_path / "run", **EVALUATED)
    assert run.end() == 0, run.said
    assert left <= set((run.workdir / "checkpoints").iterdir())
    assert steps(run.workdir) == steps(evaluated)
    assert scores(run.workdir) == scores(evaluated)


@pytest.fixture(scope="module")
def evaluated(launch, tmp_path_factory):
    run = launch(tmp_path_factory.mktemp("evaluated") / "run", **EVALUATED)
    assert run.end() == 0, run.said
    return run.workdir


def scores(workdir):
    """Both tasks' figures of every evaluation."""
    found = {}
    for path in sorted(workdir.glob("eval/*/metrics.json")):
        metrics = json.loads(path.read_text())
        found[path.parent.name] = [metrics["recognition"], metrics["reasoning"]]
    assert list(found) == ["2", "4"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("layout", [[(1, 8), (1, 4), (1, 8)], [(2, 4), (4, 2), (1, 8)]])
def test_killed_and_started_again_on_another_mesh(launch, straight, tmp_path, layout):
    expected, _ = straight
    for turn, (count, devices) in enumerate(layout):
        run = launch(tmp_path / "run", count, devices, mesh__fsdp=2, **SETTINGS)
        if turn < len(layout) - 1:
            run.until_step(12 * (turn + 1))
            run.kill()
    assert run.end() == 0, run.said
    found = steps(run.workdir)
    assert list(found) == list(expected)
    np.testing.assert_allclose([*found.values()], [*expected.values()], rtol=1e-4)
