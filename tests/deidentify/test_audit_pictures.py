"""What the report shows of a frame."""

import io

import numpy as np
from PIL import Image

from deemo_jax.deidentify.audit_pictures import HEIGHT, picture_of
from deemo_jax.deidentify.tracks import Moment

BLUE, RED = (59, 130, 196), (180, 69, 44)


def test_faces_that_were_and_that_are_left_are_framed():
    rgb = np.full((480, 640, 3), 200, np.uint8)
    found = np.array([[100, 100, 300, 300, 0.9]], np.float32)
    left = np.array([[400, 200, 600, 400]], np.float32)
    moment = Moment(time=1.5, rgb=rgb, found=found, masked=[])
    picture = picture_of("a face is left", moment, rgb // 2, left)
    assert (picture.time, picture.about) == (1.5, "a face is left")
    for data, ground in ((picture.masked, 100), (picture.original, 200)):
        image = np.asarray(Image.open(io.BytesIO(data)), int)
        assert image.shape == (HEIGHT, 320, 3)
        assert abs(image[20, 20] - ground).max() < 5
        for (x, y), colour in (((50, 100), BLUE), ((200, 150), RED)):
            assert abs(image[y, x : x + 2].mean(axis=0) - colour).max() < 60
