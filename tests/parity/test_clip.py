"""Agreement with transformers' CLIP, weights read from its folder and written back."""

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel

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
PIXELS = np.random.default_rng(0).standard_normal((2, 21, 21, 3)).astype(np.float32)


def randomise(model: Any) -> Any:
    """Every parameter drawn anew, the norms' and the biases' too."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + 0.2 * torch.randn_like(parameter))
    return model.eval()


def hidden_states(model: Any) -> list[np.ndarray]:
    pixels = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    with torch.no_grad():
        output = model(pixel_values=pixels, output_hidden_states=True)
    return [state.numpy() for state in output.hidden_states]


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_every_hidden_state_agrees_both_ways(hidden_act, tmp_path):
    theirs = randomise(
        CLIPVisionModel(CLIPVisionConfig(hidden_act=hidden_act, **SIZES))
    )
    theirs.save_pretrained(tmp_path / "theirs")
    ours = ClipVision.from_pretrained(tmp_path / "theirs")
    expected = hidden_states(theirs)
    assert len(expected) == 4
    for layer, state in enumerate(expected):
        np.testing.assert_allclose(
            ours(jnp.asarray(PIXELS), layer), state, rtol=0, atol=1e-4
        )
    np.testing.assert_array_equal(
        ours(jnp.asarray(PIXELS)), ours(jnp.asarray(PIXELS), 3)
    )
    ours.save_pretrained(tmp_path / "ours")
    reader: Any = CLIPVisionModel
    again, loading = reader.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(loading.values()), loading
    for before, after in zip(expected, hidden_states(again.eval()), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_whole_clip_gives_its_vision_half(tmp_path):
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "vocab_size": 11}
    whole = CLIPModel(CLIPConfig(vision_config=SIZES, text_config=text))
    randomise(whole).save_pretrained(tmp_path)
    ours = ClipVision.from_pretrained(tmp_path)
    expected = hidden_states(whole.vision_model)[-1]
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
