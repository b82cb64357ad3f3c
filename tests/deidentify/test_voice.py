"""Each utterance gets a voice of its own, by the method of the settings."""

import json

import numpy as np
import pytest

from deemo_jax.annotation import Annotation
from deemo_jax.deidentify.folder import deidentify_folder
from deemo_jax.deidentify.mcadams import mcadams
from deemo_jax.deidentify.settings import Audit, Settings, Voice
from deemo_jax.deidentify.voice import another_voice
from deemo_jax.media import write_audio


@pytest.mark.parametrize("method", ["drift", "mcadams"])
def test_each_utterance_draws_its_own_voice(method, speech):
    """From the operating system: seeding numpy changes nothing."""
    piece = speech[:8000]
    results = []
    for _ in range(3):
        np.random.seed(0)
        results.append(another_voice(Voice(method=method))(piece))
    assert not np.allclose(results[0], results[1])
    assert not np.allclose(results[1], results[2])
    for result in results:
        assert np.abs(result - piece).max() > 0.01


def test_coefficients_stay_within_their_range(speech):
    piece = speech[:8000]
    voice = Voice(method="mcadams", coefficients=(0.7, 0.7001))
    expected = mcadams(piece, 0.70005)
    np.testing.assert_allclose(another_voice(voice)(piece), expected, atol=1e-3)


def test_a_range_of_one_coefficient_is_that_coefficient(speech):
    fixed = Voice(method="mcadams", coefficients=(0.8, 0.8))
    np.testing.assert_array_equal(another_voice(fixed)(speech), mcadams(speech, 0.8))


def test_pieces_of_an_utterance_are_bent_alike(speech):
    bend = another_voice(Voice(method="mcadams"))
    np.testing.assert_array_equal(bend(speech), bend(speech))


@pytest.mark.parametrize("method", ["drift", "mcadams"])
def test_what_was_drawn_is_written_nowhere(method, speech, tmp_path, monkeypatch):
    """Two runs differ in samples, their digest and how like they are to the original.

    That is a rough figure, of two digits.
    """
    raw = tmp_path / "raw"
    raw.mkdir()
    write_audio(raw / "a.flac", speech[:16_000])
    about = Annotation(clip_id="a", media="a.flac", subject="s")
    (raw / "annotations.jsonl").write_text(json.dumps(about.to_json()) + "\n")
    settings = Settings(voice=Voice(method=method), audit=Audit(voice=1.0))
    written = []
    for output in (tmp_path / "one", tmp_path / "two"):
        deidentify_folder(raw, output, settings=settings)
        files = {
            path.relative_to(output): path.read_text()
            for path in output.rglob("*")
            if path.suffix in (".json", ".jsonl")
        }
        line = json.loads(files.pop(next(p for p in files if p.stem == "deidentified")))
        assert line["deidentification"].split("/")[0] == f"centerface+{method}"
        likeness = line["audit"].pop("voice", None)
        assert likeness is None or likeness == round(likeness, 2)
        written.append((line.pop("sha256"), line, files))
    assert written[0][0] != written[1][0]
    assert written[0][1:] == written[1][1:]
