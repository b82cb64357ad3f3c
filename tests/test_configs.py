"""Every file under configs/ says its command and builds, whatever its size."""

import ast
import importlib
from pathlib import Path

from flax import nnx
import pytest

from deemo_jax import sharding
from deemo_jax.config import STAGES, from_config_dict
from deemo_jax.train import optimizer
from deemo_jax.train.step import split_model

FOLDER = Path(__file__).parents[1] / "configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_gives_the_command(name):
    docstring = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
    assert f"deemo train --config=configs/{name}.py" in (docstring or "")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stage", STAGES)
def test_every_parameter_has_a_sharding_row_and_a_freeze_row(name, stage):
    config = from_config_dict(
        importlib.import_module(f"configs.{name}").get_config(stage)
    )
    assert config.train.stage == stage
    for path, value in nnx.to_flat_state(split_model(config)[1]):
        name = "/".join(map(str, path))
        sharding.partition_spec(name, value.shape, dict.fromkeys(sharding.AXES, 2))
        assert isinstance(optimizer.is_trained(stage, name), bool)


def test_every_stage_has_its_freeze_table():
    assert set(optimizer.FREEZE) == set(STAGES)
