"""A voice taken apart and put together says the same as loudly, whatever it is."""

import numpy as np
import pytest

from deemo_jax.deidentify import vocoder
from deemo_jax.deidentify.vocoder import (
    band_of,
    hertz_of,
    put_together,
    read,
    take_apart,
)


def test_parts_survive(speech):
    parts = take_apart(speech)
    again = take_apart(put_together(parts, speech))
    voiced = (parts.pitch > 0) & (again.pitch > 0)
    assert voiced.sum() > 0.8 * (parts.pitch > 0).sum()
    change = np.abs(np.log(again.pitch[voiced] / parts.pitch[voiced]))
    assert np.median(change) < 0.02
    assert np.median(np.abs(again.bands[voiced] - parts.bands[voiced])) < 1.0
    assert np.corrcoef(parts.power[voiced], again.power[voiced])[0, 1] > 0.95


@pytest.mark.parametrize("length", [1, 79, 80, 81, 1601])
def test_length_kind_and_level_stay(length, speech):
    piece = speech[5000 : 5000 + length]
    voice = put_together(take_apart(piece), piece)
    assert (len(voice), voice.dtype) == (length, np.float32)
    assert np.isfinite(voice).all()
    levels = [np.sqrt(np.mean(wave**2)) for wave in (voice, piece)]
    assert length < 200 or levels[0] == pytest.approx(levels[1], rel=0.01)


def test_long_voices_are_made_as_short_ones(speech, monkeypatch):
    """But for the seams, where pulses of two chunks fade into each other."""
    parts = take_apart(speech)
    whole = put_together(parts, speech)
    monkeypatch.setattr(vocoder, "CHUNK", 150)
    # WORLD adds a little noise, by which no band may be without power.
    np.testing.assert_allclose(take_apart(speech).bands, parts.bands, atol=1e-3)
    pieces = put_together(parts, speech)
    power = [
        np.log(np.square(w[:63_200]).reshape(-1, 400).mean(1)) for w in (whole, pieces)
    ]
    loud = power[0] > power[0].max() - 6
    assert np.median(np.abs(power[0] - power[1])[loud]) < 0.3
    assert np.abs(power[0] - power[1])[loud].max() < 2.5


def test_bands_are_a_scale():
    bands = np.arange(64.0)
    np.testing.assert_allclose(band_of(hertz_of(bands)), bands, atol=1e-9)
    ends = hertz_of(np.array([-0.5, 63.5]))
    np.testing.assert_allclose(ends, [0.0, 8000.0], atol=1e-9)


def test_rows_are_read_between_their_values():
    rows = np.array([[0.0, 1.0, 4.0], [1.0, 1.0, 3.0]])
    at = np.array([[0.5, 1.5], [-2.0, 7.0]])
    np.testing.assert_allclose(read(rows, at), [[0.5, 2.5], [1.0, 3.0]])
