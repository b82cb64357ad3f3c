"""Figures in `configs/deidentify.md` that are quick to measure are what it says."""

import json
from pathlib import Path
import re

import numpy as np
from PIL import Image, ImageDraw
import pytest

from deemo_jax.deidentify.faces import FaceDetector
from deemo_jax.deidentify.masks import paint
from deemo_jax.deidentify.settings import Mask
from deemo_jax.media import iter_frames

FIGURES = Path(__file__).parents[2] / "configs" / "deidentify.md"
REGIONS = Path(__file__).with_name("wolfgang_regions.json")  # marked by hand
SCALES = (1.0, 1.2, 1.4, 1.6)


def inside(polygon: list[list[int]], size: tuple[int, int]) -> np.ndarray:
    image = Image.new("1", size)
    ImageDraw.Draw(image).polygon([(x, y) for x, y in polygon], fill=1)
    return np.asarray(image)


@pytest.fixture(scope="module")
def shares(wolfgang) -> dict[float, list[float]]:
    """Percent of hand, head and background that each mask covers, of ten frames."""
    detector = FaceDetector()
    rows = {row["frame"]: row for row in json.loads(REGIONS.read_text())}
    covered = {scale: np.zeros((3, 2)) for scale in SCALES}
    for index, (_, rgb) in enumerate(iter_frames(wolfgang, 0.0, 8.5)):
        row = rows.pop(index, None)
        if row is None:
            continue
        hand, head = (inside(row[part], rgb.shape[1::-1]) for part in ("hand", "head"))
        boxes = detector(rgb)[:, :4]
        for scale, sums in covered.items():
            solid = Mask(scale=scale, method="solid")
            mask = paint(np.zeros_like(rgb), boxes, solid)[..., 0] > 0
            for k, region in enumerate((hand, head & ~hand, ~(head | hand))):
                sums[k] += mask[region].sum(), region.sum()
    assert not rows
    return {scale: list(100 * s[:, 0] / s[:, 1]) for scale, s in covered.items()}


def test_what_a_mask_hides_of_hand_head_and_background(shares):
    told = {
        float(scale): [float(n) for n in re.findall(r"[\d.]+", row)]
        for scale, row in re.findall(
            r"^\| (\d\.\d)(?: \(default\))? \| ([\d. |%]+) \|$",
            FIGURES.read_text(), re.MULTILINE,
        )
    }  # fmt: skip
    assert told.keys() == shares.keys()
    for scale, found in shares.items():
        assert told[scale] == pytest.approx(found, abs=1.0), shares
