"""Every file under configs/ says its command and builds, whatever its size."""

import ast
import importlib
from pathlib import Path

from flax import nnx
import pytest

from deemo_jax import sharding
from deemo_jax.config import STAGES, from_config_dict, read_config_dict
from deemo_jax.deidentify.settings import Settings
from deemo_jax.train import optimizer
from deemo_jax.train.step import split_model

FOLDER = Path(__file__).parents[1] / "configs"
VERBS = {path.stem: "train" for path in sorted(FOLDER.glob("*.py"))}
VERBS["deidentify"] = "deidentify"


@pytest.mark.parametrize("name", VERBS)
def test_the_docstring_gives_the_command(name):
    docstring = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
    assert f"deemo {VERBS[name]} --config=configs/{name}.py" in (docstring or "")


def test_what_deidentifies_unless_told_otherwise_is_shown():
    shown = importlib.import_module("configs.deidentify").get_config()
    assert read_config_dict(shown, Settings) == Settings()


@pytest.mark.parametrize("name", [name for name in VERBS if VERBS[name] == "train"])
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
