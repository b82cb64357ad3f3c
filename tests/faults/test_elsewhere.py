"""What eight devices wrote under FSDP is taken up elsewhere: the whole model."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.faults.conftest import ROOT, environment, steps

pytestmark = pytest.mark.slow
SETTINGS = {
    "program": "", "train__save_every": 2, "train__batch_size": 8,
    "train__stage": "align",
}  # fmt: skip
LAYOUTS = {
    "one device": (1, {}),
    "2 x 2 x 2": (8, {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2}),
}


@pytest.fixture(scope="module")
def written(launch, tmp_path_factory):
    """The workdir of a run that ended after two steps, and of one that took four."""
    folder = tmp_path_factory.mktemp("written")
    for steps_of_all in (2, 4):
        run = launch(
            folder / str(steps_of_all), mesh__fsdp=8, train__steps=steps_of_all,
            **SETTINGS,
        )  # fmt: skip
        assert run.end() == 0, run.said
    return folder / "2", folder / "4"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gone_on_with_on_other_devices(launch, written, tmp_path, layout):
    devices, mesh = LAYOUTS[layout]
    shutil.copytree(written[0], tmp_path / "run")
    (tmp_path / "run" / ".lock").unlink(missing_ok=True)
    run = launch(tmp_path / "run", devices=devices, train__steps=4, **mesh, **SETTINGS)
    assert run.end() == 0, run.said
    assert "resumed at step 2" in run.said
    found, expected = steps(run.workdir), steps(written[1])
    assert list(found) == list(expected)
    np.testing.assert_allclose([*found.values()], [*expected.values()], rtol=1e-4)


def test_begun_with_by_another_stage(launch, written, tmp_path):
    losses = []
    for devices, mesh in LAYOUTS.values():
        run = launch(
            tmp_path / str(devices), devices=devices, train__steps=1,
            init_from=str(written[0]), **mesh, **SETTINGS | {"train__stage": "full"},
        )  # fmt: skip
        assert run.end() == 0, run.said
        losses += steps(run.workdir).values()
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    # The same records as those of the first step, seen by what had learnt from two.
    assert losses[0] < 0.999 * steps(written[0])[1]


def test_exported(written, tmp_path):
    weights = []
    for devices in (1, 8):
        output = tmp_path / str(devices)
        done = subprocess.run(
            [*environment("")["DEEMO"].split(), "export", f"--workdir={written[0]}",
             f"--output={output}"],
            env=environment("")
            | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
            capture_output=True,
            text=True,
            cwd=ROOT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads((output / "parity.json").read_text())["passed"]
        weights.append(load_file(output / "model.safetensors"))
    one, eight = weights
    assert one.keys() == eight.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, eight[name])
