import io

import numpy as np
from PIL import Image
import pytest

from deemo_jax.data import video


@pytest.mark.parametrize(
    ("available", "wanted", "expected"),
    [
        (12, 4, [1, 4, 7, 10]),
        (16, 8, [1, 3, 5, 7, 9, 11, 13, 15]),
        (8, 8, list(range(8))),
        (5, 3, [0, 2, 4]),
        (3, 8, [0, 1, 2]),
        (9, 1, [4]),
        (0, 8, []),
    ],
)
def test_frames_are_the_middles_of_equal_parts(available, wanted, expected):
    assert video.choose(available, wanted) == expected


def encoded(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=100, subsampling=0)
    return file.getvalue()


@pytest.mark.parametrize(
    ("height", "width"), [(16, 16), (16, 40), (50, 16), (9, 30), (333, 1000)]
)
def test_the_centre_is_kept_in_its_shape(height, width):
    """A disc in the middle, as wide as half the shortest side, stays one."""
    size, short = 16, min(height, width)
    row = np.arange(height)[:, None] - (height - 1) / 2
    column = np.arange(width)[None] - (width - 1) / 2
    disc = (np.hypot(row, column) < short / 4).astype(np.uint8) * 255
    found = video.decode(encoded(np.repeat(disc[..., None], 3, 2)), size)
    assert found.shape == (16, 16, 3)
    assert found.dtype == np.uint8
    middle = np.arange(size) - (size - 1) / 2
    distance = np.hypot(middle[:, None], middle[None])
    assert found[distance < 2.5].mean() > 215
    assert found[distance > 5.5].mean() < 40


def test_a_frame_of_the_right_size_is_not_touched(jpeg):
    pixels = np.asarray(Image.open(io.BytesIO(jpeg(np.random.default_rng(0), 16, 16))))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    np.testing.assert_array_equal(video.decode(file.getvalue(), 16), pixels)


def test_missing_frames_are_masked(jpeg):
    rng = np.random.default_rng(0)
    frames, mask = video.fit([jpeg(rng) for _ in range(3)], 8, 16)
    assert mask.tolist() == [True] * 3 + [False] * 5
    assert frames[:3].any(axis=(1, 2, 3)).all()
    assert not frames[3:].any()
    frames, mask = video.fit([], 2, 16)
    assert not mask.any()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_are_decoded_to_the_bit_as_pillow_does_it(mode, progressive, monkeypatch):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 13, 3), np.uint8))
    file = io.BytesIO()
    image = coarse.resize((131, 97), Image.Resampling.BICUBIC).convert(mode)
    image.save(file, "JPEG", quality=85, progressive=progressive)
    found = video.decode(file.getvalue(), 97)
    monkeypatch.setattr(video, "simplejpeg", None)
    np.testing.assert_array_equal(video.decode(file.getvalue(), 97), found)
    pixels = np.asarray(Image.open(file).convert("RGB"))
    np.testing.assert_array_equal(found, pixels[:, 17:114])


def test_an_image_of_too_many_pixels_is_refused(jpeg, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="a frame is no image .*320 pixels"):
        video.decode(jpeg(np.random.default_rng(0), 16, 20), 16)


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match="a frame is no image"):
        video.decode(b"text", 16)


def test_augmentation_moves_all_frames_alike():
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (32, 32, 3), np.uint8)
    frames = np.stack([frame, frame + 1, frame + 2])
    seen = set()
    for seed in range(60):
        varied = video.augment(frames, np.random.default_rng(seed))
        assert varied.shape == frames.shape
        np.testing.assert_array_equal(varied[0] + 1, varied[1])
        centre = varied[0][8:24, 8:24]
        places = [
            (down, right, flipped)
            for down in range(-2, 3)
            for right in range(-2, 3)
            for flipped in (False, True)
            if (
                frame[8 + down : 24 + down, 8 + right : 24 + right][
                    :, :: -1 if flipped else 1
                ]
                == centre
            ).all()
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert {flipped for *_, flipped in seen} == {False, True}
    for axis in (0, 1):
        assert {place[axis] for place in seen} == set(range(-2, 3))
    np.testing.assert_array_equal(
        video.augment(frames, np.random.default_rng(5)),
        video.augment(frames, np.random.default_rng(5)),
    )
