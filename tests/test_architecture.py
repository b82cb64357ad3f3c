"""Tower configurations state every constant and agree with each other."""

import dataclasses

import pytest

from configs import tiny
from deemo_jax import architecture
from deemo_jax.config import from_config_dict
from tests.small import HUBERT

CONFIGS = [
    cls
    for cls in vars(architecture).values()
    if dataclasses.is_dataclass(cls) and isinstance(cls, type)
]


@pytest.mark.parametrize("cls", CONFIGS)
def test_no_constant_of_a_checkpoint_has_a_default(cls):
    for field in dataclasses.fields(cls):
        if not field.init:  # what kind it is, no constant
            continue
        assert field.default is dataclasses.MISSING, field.name
        assert field.default_factory is dataclasses.MISSING, field.name


def test_convolutions_must_agree_in_number():
    with pytest.raises(ValueError, match=r"have \[2, 3, 2\] entries"):
        dataclasses.replace(HUBERT, conv_stride=(5, 2, 2))


def test_connectors_must_fit_their_towers():
    model = from_config_dict(tiny.get_config()).model
    tower = dataclasses.replace(model.vision_tower, hidden_size=32)
    with pytest.raises(ValueError, match=r"video_connector.encoder_hidden_size is 64"):
        dataclasses.replace(model, vision_tower=tower)
