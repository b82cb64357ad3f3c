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
