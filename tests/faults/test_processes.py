"""The same run, whatever the number of its processes."""

import json

import numpy as np
import pytest

from tests.faults.conftest import steps

STEPS = 20
SHARDED = {
    "train__steps": STEPS, "mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2,
}  # fmt: skip


@pytest.fixture(
    scope="module",
    params=["", pytest.param("-m deemo_jax", marks=pytest.mark.slow)],
    ids=["small", "whole model"],
)
def settings(request):
    return SHARDED | ({"program": ""} if request.param else {})


@pytest.fixture(scope="module")
def alone(launch, settings, tmp_path_factory):
    run = launch(tmp_path_factory.mktemp("alone") / "run", **settings)
    assert run.end() == 0, run.said
    return steps(run.workdir)


@pytest.mark.parametrize(
    ("count", "devices"), [(2, 4), pytest.param(4, 2, marks=pytest.mark.slow)]
)
def test_processes_see_the_losses_of_one(
    launch, settings, alone, tmp_path, count, devices
):
    run = launch(tmp_path / "run", count, devices, **settings)
    assert run.end() == 0, run.said
    assert run.said.count(f"done: {STEPS} steps") == 1
    environment = json.loads((run.workdir / "environment.json").read_text())
    assert environment["devices"]["processes"] == count
    found = steps(run.workdir)
    assert list(found) == list(alone) == list(range(1, STEPS + 1))
    np.testing.assert_allclose([*found.values()], [*alone.values()], rtol=1e-5)
    ledger = (run.workdir / "ledger.jsonl").read_text().splitlines()
    assert [json.loads(line)["steps"] for line in ledger] == [[1, STEPS]]
    last = json.loads((run.workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["slowest_process"] in range(count)


@pytest.mark.slow
def test_nobody_leaves_before_the_last_checkpoint_is_sealed(launch, tmp_path):
    """Longer than JAX lets processes wait for one another at their end."""
    settings = {"train__steps": 4, "train__save_every": 4}
    program = "tests/faults/deemo_slow_seal.py"
    run = launch(tmp_path / "run", 2, 2, program=program, **settings)
    assert run.end() == 0, run.said
    assert (run.workdir / "checkpoints" / "4" / "manifest.json").exists()


@pytest.mark.slow  # it takes the whole model
def test_processes_evaluate_together_as_one_does(launch, tmp_path):
    settings = {
        "program": "", "train__steps": 4, "train__save_every": 4,
        "evaluate__every": 2, "evaluate__batch_size": 8, "evaluate__ablations": False,
        "evaluate__max_new_tokens": 4, "evaluate__split": "train", "mesh__fsdp": 2,
    }  # fmt: skip
    found = []
    for count in (1, 2):
        run = launch(tmp_path / f"run_{count}", count, 4 // count, **settings)
        assert run.end() == 0, run.said
        texts = [
            (run.workdir / "eval" / str(step) / "metrics.json").read_text()
            for step in (2, 4)
        ]
        found.append([json.loads(text) for text in texts])
        report = run.workdir / "eval" / "4" / "report.html"
        assert report.stat().st_size > 1000
    for one, two in zip(*found, strict=True):
        assert one["recognition"] == two["recognition"]
        assert one["reasoning"] == two["reasoning"]
