"""One run on one device and on two meshes of eight: the same losses."""

import functools
import json

import jax
import numpy as np
import pytest

from deemo_jax.train.loop import train
from tests.small import make_corpus, small_config

# What differs from one device without any of them.
MESHES = {
    "1 device": dict(mesh__data=1),
    "data, fsdp, tensor": dict(mesh__data=2, mesh__fsdp=2, mesh__tensor=2),
    "network, sequence, towers apart": dict(
        mesh__data=1,
        mesh__dcn_fsdp=2,
        mesh__sequence=2,
        mesh__tensor=2,
        layout__vision_tower="fsdp",
        layout__audio_tower="replicated",
        layout__connectors="fsdp",
    ),
}
PACKED = dict(data__clips_per_row=2, data__max_length=192)
MESHES["packed, 1 device"] = MESHES["1 device"] | PACKED
MESHES["packed, data, fsdp, tensor"] = MESHES["data, fsdp, tensor"] | PACKED
STEPS = 20


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """Losses by the name of the mesh, of runs that differ in nothing else."""
    assert len(jax.devices()) == 8
    packed = make_corpus(tmp_path_factory.mktemp("corpus"))

    @functools.cache
    def run(name):
        workdir = tmp_path_factory.mktemp("run")
        config = small_config(
            data__path=str(packed),
            train__steps=STEPS,
            train__save_every=STEPS,
            **MESHES[name],
        )
        train(config, workdir)
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        return np.array([json.loads(line)["loss"] for line in lines])

    return run


@pytest.mark.parametrize(
    "name",
    [
        "network, sequence, towers apart",
        pytest.param("data, fsdp, tensor", marks=pytest.mark.slow),
    ],
)
def test_losses_agree_over_twenty_steps(losses, name):
    alone = losses("1 device")
    assert alone.shape == (STEPS,)
    assert alone[-1] < alone[0] - 0.5  # it learns, so agreement says something
    np.testing.assert_allclose(losses(name), alone, rtol=1e-4)


@pytest.mark.slow
def test_losses_of_packed_rows_agree_too(losses):
    alone = losses("packed, 1 device")
    assert alone[-1] < alone[0] - 0.5
    np.testing.assert_allclose(losses("packed, data, fsdp, tensor"), alone, rtol=1e-4)
