"""The adapter folder: names and sizes that `peft` reads, whole or not at all."""

import json
import re

from flax import nnx
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from deemo_jax.config import LoraConfig
from deemo_jax.export.adapter import CONFIG, WEIGHTS, base_params, write_adapter
from deemo_jax.export.parity import ExportError
from deemo_jax.models.deemo_llama import DeemoLlama
from deemo_jax.models.lora import add_lora
from tests.small import ODD, drawn

LORA = LoraConfig(
    rank=3,
    alpha=7.0,
    dropout=0.25,
    targets=("language_model/layers/.*/[qo]_proj", "video_connector/projection"),
)


def make():
    return DeemoLlama(ODD, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def model():
    return drawn(lambda: add_lora(make(), LORA, nnx.Rngs(1)))


@pytest.fixture
def folder(model, tmp_path):
    write_adapter(tmp_path / "adapter", model, base="model")
    return tmp_path / "adapter"


def test_tensors_have_peft_names_and_pytorch_axes(model, folder):
    tensors = load_file(folder / WEIGHTS)
    stems = ["video_connector.projection"] + [
        f"language_model.model.layers.{layer}.self_attn.{name}_proj"
        for layer in range(3)
        for name in "qo"
    ]
    assert tensors.keys() == {
        f"base_model.model.{stem}.lora_{letter}.weight"
        for stem in stems
        for letter in "AB"
    }
    prefix = "base_model.model.language_model.model.layers.2.self_attn.q_proj."
    q_proj = model.language_model.layers.self_attn.q_proj
    np.testing.assert_array_equal(
        tensors[prefix + "lora_A.weight"], np.asarray(q_proj.lora_a[2]).T
    )
    assert tensors[prefix + "lora_B.weight"].shape == (40, 3)


def test_the_settings_are_those_of_the_run(folder):
    found = json.loads((folder / CONFIG).read_text())
    assert found["peft_type"] == "LORA"
    assert (found["r"], found["lora_alpha"], found["lora_dropout"]) == (3, 7.0, 0.25)
    assert found["base_model_name_or_path"] == "model"
    targets = found["target_modules"]
    assert re.fullmatch(targets, "language_model.model.layers.12.self_attn.o_proj")
    assert re.fullmatch(targets, "video_connector.projection")
    assert not re.fullmatch(targets, "audio_connector.projection")
    assert not re.fullmatch(targets, "language_model.model.layers.0.self_attn.v_proj")


def test_nothing_half_written_is_left(folder):
    assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS}


def test_the_base_is_the_model_without(model):
    plain = nnx.state(nnx.eval_shape(make))
    base = base_params(model)
    assert jax.tree.structure(base) == jax.tree.structure(plain)
    np.testing.assert_array_equal(
        base["video_connector"]["projection"]["kernel"][...],
        model.video_connector.projection.kernel[...],
    )


def test_a_model_without_lora_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"no LoRA .* stage tune"):
        write_adapter(tmp_path, nnx.eval_shape(make))
    assert list(tmp_path.iterdir()) == []
