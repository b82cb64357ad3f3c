"""New tokens are nothing in particular, and the old ones stay what they were."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, models
import transformers

from deemo_jax.models.llama import Llama
from deemo_jax.models.vocabulary import extend_vocabulary
from tests.models.test_llama import CONFIG, draw, make, run

MEDIA = ("<video>", "<audio>")


def make_tokenizer(size):
    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(size)}, "w0"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="w2")


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def model(request):
    return make(dataclasses.replace(CONFIG, tie_word_embeddings=request.param))


def tables(model):
    """Embedding, and head as PyTorch has it."""
    embedding = np.asarray(model.embed_tokens.embedding[...])
    head = embedding if model.lm_head is None else model.lm_head.kernel[...].T
    return embedding, np.asarray(head)


@pytest.mark.parametrize(("asked", "rows"), [(None, 31), (64, 64)])
def test_media_tokens_get_the_mean_and_the_old_ones_stay(model, asked, rows):
    before, tokens = tables(model), draw()
    logits = run(model, tokens)
    tokenizer = make_tokenizer(29)
    assert extend_vocabulary(model, tokenizer, MEDIA, vocab_size=asked) == (29, 30)
    assert tokenizer("w3 <video> <audio>").input_ids[1:] != [0, 0]
    assert tokenizer.convert_tokens_to_ids(["<video>", "<audio>"]) == [29, 30]
    assert model.config.vocab_size == rows
    for old, new in zip(before, tables(model), strict=True):
        assert new.shape == (rows, 12)
        np.testing.assert_array_equal(new[:29], old)
        expected = np.broadcast_to(old.mean(0, keepdims=True), (rows - 29, 12))
        np.testing.assert_allclose(new[29:], expected, atol=1e-6)
    extended = run(model, tokens)
    assert extended.shape == (*tokens.shape, rows)
    np.testing.assert_allclose(extended[..., :29], logits, atol=1e-5)
    # A mean of rows has the mean of their logits: never the likeliest.
    assert (extended.argmax(-1) < 29).all()
    assert np.isfinite(run(model, jnp.asarray([[29, 30]]))).all()


def test_saved_it_reads_again_and_pytorch_agrees_on_its_size(model, tmp_path):
    extend_vocabulary(model, make_tokenizer(29), MEDIA, vocab_size=64)
    model.save_pretrained(tmp_path)
    again = Llama.from_pretrained(tmp_path)
    assert again.config == model.config
    np.testing.assert_array_equal(run(again, draw()), run(model, draw()))
    twin = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    assert twin.get_input_embeddings().weight.shape == (64, 12)


def test_rows_that_the_checkpoint_has_to_spare_are_used_first(model):
    before = tables(model)[0]
    assert extend_vocabulary(model, make_tokenizer(24), MEDIA) == (24, 25)
    assert model.config.vocab_size == 29
    after = tables(model)[0]
    np.testing.assert_allclose(after[24], before[:24].mean(0), atol=1e-6)
    np.testing.assert_array_equal(after[24], after[25])
    kept = [*range(24), 26, 27, 28]
    np.testing.assert_array_equal(after[kept], before[kept])


def test_a_token_that_is_there_keeps_its_row(model):
    before = tables(model)[0]
    assert extend_vocabulary(model, make_tokenizer(29), ["w5", "<video>"]) == (5, 29)
    np.testing.assert_array_equal(tables(model)[0][:29], before)
    assert model.config.vocab_size == 30


def test_a_tokenizer_larger_than_the_embedding_is_refused(model):
    with pytest.raises(ValueError, match="has 30 tokens and the embedding 29 rows; ta"):
        extend_vocabulary(model, make_tokenizer(30), MEDIA)
    assert model.config.vocab_size == 29


def test_fewer_rows_than_there_are_tokens_are_refused(model):
    with pytest.raises(ValueError, match="vocab_size is 30, .* take 31 rows; raise"):
        extend_vocabulary(model, make_tokenizer(29), MEDIA, vocab_size=30)
