"""A packed corpus, and a model so small that it compiles in a moment."""

from flax import nnx
import jax.numpy as jnp
import pytest

from deemo_jax.models.deemo_llama import DeemoLlama
from deemo_jax.train import step
from tests.small import make_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


class Bigrams(DeemoLlama):
    """Each token foretells the next; a connector adds what the frames' mean says."""

    def __init__(self, config, *, rngs, dtype, remat):
        del remat
        size, width = config.language_model.vocab_size, 8
        embed = nnx.Embed(size, width, rngs=rngs, dtype=dtype)
        head = nnx.Linear(width, size, use_bias=False, rngs=rngs, dtype=dtype)
        projection = nnx.Linear(1, width, rngs=rngs, dtype=dtype)
        self.config = config
        self.language_model = nnx.Dict(embed_tokens=embed, lm_head=head)
        self.video_connector = nnx.Dict(projection=projection)

    def __call__(self, batch):
        mean = jnp.asarray(batch.frames).mean((1, 2, 3, 4))[:, None] / 255
        seen = self.video_connector["projection"](mean)
        x = self.language_model["embed_tokens"](jnp.asarray(batch.tokens))
        return self.language_model["lm_head"](x + seen[:, None])


@pytest.fixture
def bigrams(monkeypatch):
    monkeypatch.setattr(step, "DeemoLlama", Bigrams)
