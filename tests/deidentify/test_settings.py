"""Settings that cannot stand are refused: which, its value, what it may be."""

import pytest

from deemo_jax.config import ConfigError
from deemo_jax.deidentify.settings import Audit, Bridging, Mask, Settings, Voice


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Settings(threshold=0.0), r"config\.threshold is 0.0; .* below 1"),
        (lambda: Settings(threshold=1.0), r"config\.threshold is 1.0"),
        (lambda: Settings(longest_side=31), r"config\.longest_side is 31; .* 32"),
        (lambda: Bridging(before=-1), r"config\.bridging\.before is -1; .* 0 or more"),
        (lambda: Bridging(after=-1), r"config\.bridging\.after is -1; .*, or None"),
        (lambda: Mask(scale=0.0), r"config\.mask\.scale is 0.0; .* more than 0"),
        (lambda: Mask(scale=float("nan")), r"config\.mask\.scale is nan"),
        (lambda: Mask(method="pixels"), r"is 'pixels'; .* one of blur, mosaic, solid"),
        (
            lambda: Audit(faces_left=-1),
            r"audit\.faces_left is -1; .* 0 or more",
        ),
        (lambda: Audit(gap_frames=-1), r"config\.audit\.gap_frames is -1"),
        (lambda: Audit(alike=1.5), r"config\.audit\.alike is 1.5; .* from 0 to 1"),
        (lambda: Audit(seen=-0.1), r"config\.audit\.seen is -0.1"),
        (lambda: Audit(voice=1.1), r"config\.audit\.voice is 1.1; .* from 0 to 1"),
        (
            lambda: Settings(look_again=0),
            r"config\.look_again is 0; .* 1 frame or more",
        ),
        (lambda: Audit(every=0), r"config\.audit\.every is 0; .* from 1 to 30"),
        (lambda: Audit(every=31), r"config\.audit\.every is 31; .* from 1 to 30"),
        (lambda: Audit(longest_side=8), r"config\.audit\.longest_side is 8; .* 32"),
        (lambda: Voice(coefficients=(0.9, 0.5)), r"\(0.9, 0.5\); .* smaller one first"),
        (lambda: Voice(coefficients=(0.0, 0.5)), r"above 0"),
        (lambda: Voice(coefficients=(0.9, 1.0)), r"1 changes nothing"),
        (lambda: Voice(coefficients=(0.97, 0.98)), r"below 0.95 or above 1.05"),
        (lambda: Voice(method="robot"), r"is 'robot'; .* one of drift, mcadams"),
    ],
)
def test_what_cannot_stand_is_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_what_can_stand():
    assert Settings(
        bridging=Bridging(before=0, after=0),
        mask=Mask(scale=0.5, method="mosaic"),
        voice=Voice(method="mcadams", coefficients=(0.8, 0.8)),
    )
