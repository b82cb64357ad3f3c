"""One run on one device, on four, on eight: the same losses."""

import json

import jax
import numpy as np
import pytest

from deemo_jax.train.loop import train
from tests.small import make_corpus, small_config

MESHES = {
    "1 device": dict(data=1, fsdp=1, tensor=1),
    "4 devices, fsdp": dict(data=1, fsdp=4, tensor=1),
    "8 devices, 2 x 2 x 2": dict(data=2, fsdp=2, tensor=2),
}
STEPS = 20


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """For what is compiled to be run a few times."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """Losses by mesh, of runs that differ in nothing else."""
    assert len(jax.devices()) == 8
    packed = make_corpus(tmp_path_factory.mktemp("corpus"))
    found = {}
    for name, mesh in MESHES.items():
        workdir = tmp_path_factory.mktemp("run")
        config = small_config(
            data__path=str(packed),
            train__steps=STEPS,
            train__save_every=STEPS,
            **{f"mesh__{axis}": size for axis, size in mesh.items()},
        )
        train(config, workdir)
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        found[name] = np.array([json.loads(line)["loss"] for line in lines])
    return found


@pytest.mark.parametrize("name", list(MESHES)[1:])
def test_losses_agree_over_twenty_steps(losses, name):
    alone = losses["1 device"]
    assert alone.shape == (STEPS,)
    assert alone[-1] < alone[0] - 0.5  # it learns, so agreement says something
    np.testing.assert_allclose(losses[name], alone, rtol=1e-4)
