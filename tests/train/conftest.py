"""A packed corpus, and a model so small that it compiles in a moment."""

import pytest

from deemo_jax.train import step
from tests.small import Bigrams, make_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def bigrams(monkeypatch):
    monkeypatch.setattr(step, "DeemoLlama", Bigrams)
