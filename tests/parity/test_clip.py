"""Agreement with transformers' CLIP, weights read from its folder and written back."""

import json
from typing import Any

from flax import nnx
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
)

from deemo_jax.models.clip import ClipVision
from deemo_jax.pretrained import PretrainedError

SIZES: dict[str, Any] = {
    "hidden_size": 15,
    "intermediate_size": 22,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "image_size": 21,
    "patch_size": 7,
}
# What the checkpoints of the hub differ in.
VARIANTS: dict[str, dict[str, Any]] = {
    "openai": {},  # quick_gelu
    "laion": {"hidden_act": "gelu"},
    "224 / 14": {"image_size": 32, "patch_size": 2, "num_hidden_layers": 1},
    "336 / 14": {"image_size": 72, "patch_size": 3, "num_hidden_layers": 2},
    "one head": {"hidden_size": 9, "num_attention_heads": 1, "image_size": 7},
    "wide epsilon": {"layer_norm_eps": 1e-2, "intermediate_size": 7},
}


def drawn_pixels(size: int) -> np.ndarray:
    draw = np.random.default_rng(0).standard_normal
    return draw((2, size, size, 3)).astype(np.float32)


PIXELS = drawn_pixels(21)


def randomise(model: Any) -> Any:
    """Every parameter drawn anew, the norms' and the biases' too."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + 0.2 * torch.randn_like(parameter))
    return model.eval()


def states(model: Any, pixels: np.ndarray = PIXELS) -> list[np.ndarray]:
    """Every hidden state, and then `last_hidden_state`."""
    with torch.no_grad():
        output = model(
            pixel_values=torch.from_numpy(pixels).permute(0, 3, 1, 2),
            output_hidden_states=True,
        )
    found = (*output.hidden_states, output.last_hidden_state)
    return [state.numpy() for state in found]


@pytest.mark.parametrize("changes", list(VARIANTS.values()), ids=list(VARIANTS))
def test_every_hidden_state_agrees_both_ways(changes, tmp_path):
    theirs = randomise(CLIPVisionModel(CLIPVisionConfig(**SIZES | changes)))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = ClipVision.from_pretrained(tmp_path / "theirs")
    drawn = drawn_pixels(theirs.config.image_size)
    expected = states(theirs, drawn)
    layers = [*range(theirs.config.num_hidden_layers + 1), None]
    found = nnx.jit(lambda tower, x: [tower(x, layer) for layer in layers])(ours, drawn)
    for ours_there, state in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours_there, state, rtol=0, atol=1e-4)
    ours.save_pretrained(tmp_path / "ours")
    reader: Any = CLIPVisionModel
    again, loading = reader.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(loading.values()), loading
    for before, after in zip(expected, states(again.eval(), drawn), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("kind", [CLIPModel, CLIPForImageClassification])
def test_a_whole_clip_gives_its_vision_half(kind, tmp_path):
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "vocab_size": 11}
    whole = randomise(kind(CLIPConfig(vision_config=SIZES, text_config=text)))
    whole.save_pretrained(tmp_path)
    ours = ClipVision.from_pretrained(tmp_path)
    tower: Any = CLIPVisionModel.from_pretrained(tmp_path)
    expected = states(tower.eval())[-1]
    np.testing.assert_allclose(ours(jnp.asarray(PIXELS)), expected, rtol=0, atol=1e-4)


def test_other_models_are_refused_by_name(tmp_path):
    for changed, message in (
        ({"model_type": "siglip_vision_model"}, "'siglip_vision_model'.*vision tower"),
        ({"num_channels": 1}, "num_channels 1 "),
        ({"hidden_act": "tanh"}, "activation 'tanh' is not supported"),
    ):
        CLIPVisionModel(CLIPVisionConfig(**SIZES)).save_pretrained(tmp_path)
        config = tmp_path / "config.json"
        values = json.loads(config.read_text()) | changed
        config.write_text(json.dumps(values))
        error = ValueError if "hidden_act" in changed else PretrainedError
        with pytest.raises(error, match=message):
            ClipVision.from_pretrained(tmp_path)
