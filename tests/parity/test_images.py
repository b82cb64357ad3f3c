"""Frames as the model gets them, against the image processors of transformers.

Tolerances. Scaling and cropping end in whole levels of 0 to 255, and agree to the bit
with the processors that transformers takes, those of torchvision: 0. They scale by
PyTorch, which is here put into the classes that need no torchvision: those scale by
Pillow, whose weights are more exact: 2 levels, and one value of a hundred. Normalising
divides, subtracts and divides in float32 there; here it is one multiplication and one
addition of constants rounded in float32, of values up to 2.7 after the constants up to
1.9 are added: 1e-5.
"""

import dataclasses
import io
import itertools
from typing import Any

from flax import nnx
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import torch
from transformers import CLIPImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import (
    SiglipImageProcessorPil,
)
from transformers.utils.import_utils import is_torchvision_available

from deemo_jax.data import resize, video
from deemo_jax.models.clip import ClipVision
from deemo_jax.models.deemo_llama import DeemoLlama
from deemo_jax.models.towers import see
from tests.small import ODD, drawn

# Without it, Pillow scales, and is a level off here and there.
pytestmark = pytest.mark.skipif(
    resize.Resizer is None, reason="cykooz.resizer is not built for this processor"
)

# height, width: smaller and larger than the targets, odd, tall, wide, long sides that
# do not come out whole, and large enough for a JPEG to be decoded at a half or less.
SHAPES = [(50, 61), (97, 131), (131, 97), (64, 64), (30, 200), (256, 455), (721, 483)]
TARGETS = [15, 64, 224]
FORMATS = {"PNG": {}, "JPEG": {"quality": 92}}


def picture(height: int, width: int) -> np.ndarray:
    """Rings, stripes and squares, a colour each, and some noise."""
    row, column = np.mgrid[:height, :width] / min(height, width)
    rings = np.sin(40 * np.hypot(row - 0.5, column - 0.4)) * 100 + 128
    stripes = column * 37 % 1 * 255
    squares = (np.floor(row * 19) + np.floor(column * 23)) % 2 * 200 + 20
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    pixels = np.stack([rings, stripes, squares], axis=-1) + noise
    return np.clip(pixels, 0, 255).astype(np.uint8)


def file_of(pixels: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **FORMATS[kind])
    return file.getvalue()


def processed(processor, file: bytes) -> np.ndarray:
    """The one image in channels last."""
    image = Image.open(io.BytesIO(file))
    pixels = processor(images=image)["pixel_values"][0]
    return np.asarray(pixels).transpose(1, 2, 0)


class ByPyTorch:
    """Scales as torchvision does it; to what size, the class beside it says."""

    def resize(self, image, *args, **kwargs):
        shape = super().resize(image, *args, **kwargs).shape[-2:]  # pyright: ignore
        pixels = torch.from_numpy(np.array(image))[None]
        return torch.nn.functional.interpolate(
            pixels, size=tuple(shape), mode="bicubic", antialias=True
        )[0].numpy()


class ClipProcessor(ByPyTorch, CLIPImageProcessorPil): ...


class SiglipProcessor(ByPyTorch, SiglipImageProcessorPil): ...


def clip_processor(size: int, kind: Any = ClipProcessor, **changes) -> Any:
    square = {"height": size, "width": size}
    return kind(size={"shortest_edge": size}, crop_size=square, **changes)


def given_to_the_tower(frame: np.ndarray, mean, std, monkeypatch) -> np.ndarray:
    """What `DeemoLlama` makes of a frame of whole levels before the vision tower."""
    size = frame.shape[0]
    tower = dataclasses.replace(ODD.vision_tower, image_size=size, patch_size=size)
    config = dataclasses.replace(
        ODD, vision_tower=tower, image_mean=tuple(mean), image_std=tuple(std)
    )
    seen = []
    inner = ClipVision.patches

    def watched(self, pixels, layer=None, **rest):
        seen.append(np.asarray(pixels))
        return inner(self, pixels, layer, **rest)

    monkeypatch.setattr(ClipVision, "patches", watched)
    model = drawn(lambda: DeemoLlama(config, rngs=nnx.Rngs(0)))
    see(model.vision_tower, jnp.asarray(frame)[None, None], config)
    return seen[0][0]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", TARGETS)
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_frames_are_scaled_and_cropped_as_for_clip(height, width, size, kind):
    file = file_of(picture(height, width), kind)
    processor = clip_processor(size, do_rescale=False, do_normalize=False)
    np.testing.assert_array_equal(video.decode(file, size), processed(processor, file))
    if is_torchvision_available():
        processor = clip_processor(
            size, CLIPImageProcessor, do_rescale=False, do_normalize=False
        )
        expected = processed(processor, file)
        np.testing.assert_array_equal(video.decode(file, size), expected)


SIDE = st.integers(2, 600)


@settings(deadline=None, max_examples=100)
@example(height=356, width=425, size=1)  # weights so small that they have fewer bits
@example(height=440, width=300, size=2)
@example(height=440, width=600, size=3)
@given(height=SIDE, width=SIDE, size=st.sampled_from([1, 7, 16, 64, 224]))
def test_pictures_of_any_shape_are_scaled_to_the_same_bits(height, width, size):
    assume(max(height, width) < 8 * min(height, width))
    file = file_of(picture(height, width), "PNG")
    processor = clip_processor(size, do_rescale=False, do_normalize=False)
    np.testing.assert_array_equal(video.decode(file, size), processed(processor, file))


def test_pillows_filter_is_a_level_off_here_and_there():
    differences = []
    for (height, width), size in itertools.product(SHAPES, TARGETS):
        file = file_of(picture(height, width), "PNG")
        processor = clip_processor(
            size, CLIPImageProcessorPil, do_rescale=False, do_normalize=False
        )
        expected = processed(processor, file).astype(int)
        differences.append(np.abs(video.decode(file, size) - expected).ravel())
    found = np.concatenate(differences)
    assert found.max() == 2
    assert np.mean(found > 0) < 0.01


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_modes_become_rgb_as_for_clip(mode):
    file = io.BytesIO()
    image = Image.fromarray(picture(97, 131)).convert(mode)
    image.save(file, "TIFF")
    processor = clip_processor(64, do_rescale=False, do_normalize=False)
    np.testing.assert_array_equal(
        video.decode(file.getvalue(), 64), processed(processor, file.getvalue())
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_the_tower_gets_what_clips_processor_makes(kind, monkeypatch):
    size, file = 64, file_of(picture(97, 131), kind)
    processor = clip_processor(size)
    mean, std = processor.image_mean, processor.image_std
    found = given_to_the_tower(video.decode(file, size), mean, std, monkeypatch)
    np.testing.assert_allclose(found, processed(processor, file), rtol=0, atol=1e-5)


def test_the_tower_gets_what_siglips_processor_makes_of_a_square(monkeypatch):
    size, file = 64, file_of(picture(131, 131), "JPEG")
    processor = SiglipProcessor(size={"height": size, "width": size})
    mean, std = processor.image_mean, processor.image_std
    found = given_to_the_tower(video.decode(file, size), mean, std, monkeypatch)
    np.testing.assert_allclose(found, processed(processor, file), rtol=0, atol=1e-5)


def test_a_wide_frame_keeps_its_shape_where_siglips_processor_squeezes_it():
    size, wide = 64, picture(128, 384)
    file = file_of(wide, "PNG")
    squeeze = SiglipProcessor(
        size={"height": size, "width": size}, do_rescale=False, do_normalize=False
    )
    squeezed = processed(squeeze, file).astype(int)
    ours = video.decode(file, size).astype(int)
    middle = video.decode(file_of(wide[:, 128:256], "PNG"), size).astype(int)
    # The middle of the frame, but for what the filter sees beyond its edges.
    np.testing.assert_array_equal(ours[:, 2:-2], middle[:, 2:-2])
    assert np.abs(ours - squeezed).mean() > 20
