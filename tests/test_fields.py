import dataclasses
from typing import Any

import pytest

from deemo_jax import fields
from deemo_jax.config import Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    model_type: str = dataclasses.field(default="round", init=False)
    radius: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Square:
    model_type: str = dataclasses.field(default="square", init=False)
    side: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plate:
    shape: Round | Square
    sizes: tuple[int, ...]
    rim: Round | None


def read(**changes: Any) -> Plate:
    values = {"shape": {"model_type": "square", "side": 3}, "sizes": [1], "rim": None}
    return fields.read_group([Plate], values | changes, "plate")


def test_a_group_is_of_the_kind_that_it_names():
    assert read().shape == Square(side=3)
    assert read(shape={"model_type": "round", "radius": 2}).shape == Round(radius=2.0)
    assert read(rim={"model_type": "round", "radius": 1.0}).rim == Round(radius=1.0)
    assert read().rim is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": {"model_type": "oval"}}, "'oval'; it must be round or square"),
        ({"shape": {"side": 3}}, "model_type is None; it must be round or square"),
        ({"shape": {"model_type": "square", "sied": 3}}, "did you mean .*shape.side"),
        ({"shape": None}, "config.plate.shape is None; it must be a group"),
        ({"sizes": [1.5]}, "sizes is 1.5, a float; it must be of type int"),
        ({"colour": 1}, "config.plate.colour does not exist"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(fields.ConfigError, match=message):
        read(**changes)


def test_check_key_walks_to_the_leaf():
    fields.check_key(Config, "model.vision_tower.hidden_size")
    fields.check_key(Config, "model.language_model.rope_scaling.factor")
    with pytest.raises(fields.ConfigError, match=r"did you mean config.mesh.fsdp"):
        fields.check_key(Config, "mesh.fsdpp")
    with pytest.raises(fields.ConfigError, match="config.seed.x does not exist"):
        fields.check_key(Config, "seed.x")
