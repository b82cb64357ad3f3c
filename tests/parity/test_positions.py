"""Interpolated positions: PyTorch's bicubic, and both towers at other image sizes."""

from typing import Any

from flax import nnx
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from deemo_jax.models.clip import ClipVision
from deemo_jax.models.positions import resample
from deemo_jax.models.siglip import SiglipVision

SIZES: dict[str, Any] = {
    "hidden_size": 15,
    "intermediate_size": 22,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 21,
    "patch_size": 7,
}
TOWERS = {
    "clip": (ClipVision, CLIPVisionModel, CLIPVisionConfig),
    "siglip": (SiglipVision, SiglipVisionModel, SiglipVisionConfig),
}
# side of the grid, height and width wanted
GRIDS = [
    (3, 3, 3),
    (3, 7, 5),
    (7, 3, 2),
    (1, 4, 3),
    (4, 1, 9),
    (16, 24, 24),  # ViT-L/14 of 224 pixels at 336
    (24, 16, 16),
    (27, 16, 31),  # so400m/14 of 384 pixels
]
SHAPES = [(21, 21), (35, 35), (14, 14), (21, 42), (49, 14), (30, 23), (7, 7)]


@pytest.mark.parametrize(("side", "height", "width"), GRIDS)
def test_resampling_is_bicubic_interpolation(side, height, width):
    draw = np.random.default_rng(0).standard_normal
    places = draw((side * side, 5)).astype(np.float32)
    grid = torch.from_numpy(places).reshape(1, side, side, 5).permute(0, 3, 1, 2)
    theirs = torch.nn.functional.interpolate(
        grid, size=(height, width), mode="bicubic", align_corners=False
    )
    expected = theirs.permute(0, 2, 3, 1).reshape(-1, 5).numpy()
    ours = resample(jnp.asarray(places), height, width)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module", params=TOWERS)
def towers(request, tmp_path_factory):
    """A tower of transformers, every parameter drawn anew, and ours of its folder."""
    ours, model, config = TOWERS[request.param]
    torch.manual_seed(0)
    theirs = model(config(**SIZES)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(parameter + 0.2 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    return ours.from_pretrained(folder), theirs


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_towers_agree_on_images_of_other_sizes(towers, height, width):
    ours, theirs = towers
    draw = np.random.default_rng(0).standard_normal
    pixels = draw((2, height, width, 3)).astype(np.float32)
    with torch.no_grad():
        output = theirs(
            pixel_values=torch.from_numpy(pixels).permute(0, 3, 1, 2),
            interpolate_pos_encoding=True,
        )
    found = nnx.jit(lambda tower, x: tower(x, interpolate=True))(ours, pixels)
    expected = output.last_hidden_state.numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
