"""Agreement with transformers' SigLIP, weights from its folder and written back."""

from typing import Any

from flax import nnx
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import (
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from deemo_jax.models.siglip import SiglipVision

SIZES: dict[str, Any] = {
    "hidden_size": 15,
    "intermediate_size": 22,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "image_size": 23,  # the last two rows and columns are left out
    "patch_size": 7,
}
PIXELS = np.random.default_rng(0).standard_normal((2, 23, 23, 3)).astype(np.float32)


def randomise(model: Any) -> Any:
    """Every parameter drawn anew, the norms' and the biases' too."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + 0.2 * torch.randn_like(parameter))
    return model.eval()


def states(model: Any) -> list[np.ndarray]:
    """Every hidden state, and then `last_hidden_state`."""
    pixels = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    with torch.no_grad():
        output = model(pixel_values=pixels, output_hidden_states=True)
    found = (*output.hidden_states, output.last_hidden_state)
    return [state.numpy() for state in found]


VARIANTS = {
    "with head": {},
    "without head": {"vision_use_head": False},
    "exact gelu": {"hidden_act": "gelu"},
    "wide epsilon": {"layer_norm_eps": 1e-2},
}


@pytest.mark.parametrize("changes", list(VARIANTS.values()), ids=list(VARIANTS))
def test_every_hidden_state_agrees_both_ways(changes, tmp_path):
    theirs = randomise(SiglipVisionModel(SiglipVisionConfig(**SIZES | changes)))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = SiglipVision.from_pretrained(tmp_path / "theirs")
    *expected, last = states(theirs)
    layers = [0, 1, 2, 3, None]
    found = nnx.jit(lambda tower, x: [tower(x, k) for k in layers])(ours, PIXELS)
    for ours_there, state in zip(found, [*expected, last], strict=True):
        np.testing.assert_allclose(ours_there, state, rtol=0, atol=1e-4)
    ours.save_pretrained(tmp_path / "ours")
    reader: Any = SiglipVisionModel
    again, loading = reader.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(loading.values()), loading
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name


def test_a_whole_siglip_gives_its_vision_half(tmp_path):
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "vocab_size": 11, "projection_size": 15}
    whole = SiglipModel(SiglipConfig(vision_config=SIZES, text_config=text))
    randomise(whole).save_pretrained(tmp_path)
    ours = SiglipVision.from_pretrained(tmp_path)
    expected = states(whole.vision_model)[-1]
    np.testing.assert_allclose(ours(jnp.asarray(PIXELS)), expected, rtol=0, atol=1e-4)
