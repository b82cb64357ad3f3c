import numpy as np
import pytest

from deemo_jax.deidentify.detail import detail_left

BOX = np.array([8.0, 8.0, 56.0, 56.0], np.float32)


def test_detail_that_is_left_is_its_share():
    rng = np.random.default_rng(0)
    clear = rng.integers(0, 256, (64, 64, 3), np.uint8)
    half = clear.copy()
    half[:, :32] = 127
    grey = np.full_like(clear, 127)
    other = rng.integers(0, 256, (64, 64, 3), np.uint8)
    assert detail_left(clear, clear, BOX) == pytest.approx(1.0)
    assert detail_left(clear, half, BOX) == pytest.approx(0.5, abs=0.1)
    assert detail_left(clear, grey, BOX) == pytest.approx(0.0, abs=0.01)
    assert detail_left(clear, other, BOX) == pytest.approx(0.0, abs=0.1)
    for outside in (BOX - 100, BOX + 100, BOX * 9):
        assert np.isfinite(detail_left(clear, clear, outside))
