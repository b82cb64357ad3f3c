"""Greedy decoding with a cache is greedy decoding, however a prompt is padded."""

import dataclasses
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from deemo_jax.batch import Batch
from deemo_jax.config import from_config_dict
from deemo_jax.generate import generate
from deemo_jax.models.deemo_llama import DeemoLlama

VOCABULARY, PAD, NEW = 23, 0, 6
PROMPTS = [[1, 3, 3, 4, 9, 7], [1, 4, 11], [1, 3, 3, 4, 9, 7, 12, 13, 5], [8], []]
NO_END = VOCABULARY + 1  # never generated


@pytest.fixture(scope="module")
def model():
    config = from_config_dict(tiny.get_config()).model
    replace = dataclasses.replace
    connector = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = replace(
        config,
        vision_tower=replace(config.vision_tower, num_hidden_layers=1, image_size=16),
        audio_tower=replace(config.audio_tower, encoder_layers=1),
        video_connector=replace(
            config.video_connector, num_query_tokens=2, **connector
        ),
        audio_connector=replace(
            config.audio_connector, num_query_tokens=1, **connector
        ),
        language_model=replace(
            config.language_model, vocab_size=VOCABULARY, num_hidden_layers=2
        ),
    )
    # Weights larger than new ones are, so that no two prompts get the same answer; and
    # drawn by NumPy, which needs no compilation.
    graphdef, abstract = nnx.split(
        nnx.eval_shape(lambda: DeemoLlama(config, rngs=nnx.Rngs(0)))
    )
    rng = np.random.default_rng(6)
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(scale=0.3, size=x.shape), x.dtype), abstract
    )
    return nnx.merge(graphdef, params)


def make_batch(prompts, side, places=11):
    rows = len(prompts)
    tokens = np.full((rows, places), PAD)
    segments, positions = np.zeros_like(tokens), np.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        first = places - len(prompt) if side == "left" else 0
        here = slice(first, first + len(prompt))
        tokens[row, here], segments[row, here] = prompt, 1
        positions[row, here] = np.arange(len(prompt))
    rng = np.random.default_rng(0)
    return Batch(
        tokens=tokens,
        positions=positions,
        segment_ids=segments,
        loss_mask=np.zeros_like(tokens, bool),
        frames=rng.integers(0, 255, (rows, 2, 16, 16, 3), np.uint8),
        frame_mask=np.ones((rows, 2), bool),
        audio=rng.normal(size=(rows, 3200)).astype(np.float32),
        audio_length=np.full(rows, 3200),
        index=np.arange(rows),
    )


def row_of(batch, row):
    return jax.tree.map(lambda x: x[row : row + 1], batch)


def without_cache(call, batch, prompt):
    """The definition: the whole row again for every token."""
    answer = []
    for _ in range(NEW):
        whole = make_batch([prompt + answer], "right", 11 + NEW)
        media = {"frames": batch.frames, "audio": batch.audio}
        logits = call(dataclasses.replace(whole, **media))
        answer.append(int(logits[0, len(prompt) + len(answer) - 1].argmax()))
    return answer


def run(model, batch, eos: int | tuple[int, ...] = NO_END, new=NEW):
    return np.asarray(
        generate(model, batch, max_new_tokens=new, eos_token_id=eos, pad_token_id=PAD)
    )


@pytest.fixture(scope="module")
def answers(model):
    return run(model, make_batch(PROMPTS, "left"))


def test_equals_decoding_without_a_cache(model, answers):
    batch = make_batch(PROMPTS, "left")
    graphdef, params = nnx.split(model)
    call = jax.jit(lambda params, batch: nnx.merge(graphdef, params)(batch))
    for row, prompt in enumerate(PROMPTS[:-1]):
        expected = without_cache(
            functools.partial(call, params), row_of(batch, row), prompt
        )
        assert answers[row].tolist() == expected
    assert len({tuple(answer) for answer in answers}) == len(PROMPTS)


def test_right_padding_gives_the_same(model, answers):
    np.testing.assert_array_equal(run(model, make_batch(PROMPTS, "right")), answers)


def test_answers_depend_on_media_where_the_prompt_has_places_for_them(model, answers):
    batch = make_batch(PROMPTS, "left")
    mute = {"frames": 255 - batch.frames, "audio": np.zeros_like(batch.audio)}
    changed = (run(model, dataclasses.replace(batch, **mute)) != answers).any(axis=1)
    assert changed[:3].any()
    assert not changed[3:].any()


def test_a_row_ends_with_its_end_and_is_filled(model, answers):
    eos = int(answers[2, 2])
    ended = run(model, make_batch(PROMPTS, "left"), eos=eos)
    for row, answer in zip(ended, answers, strict=True):
        stop = next((i + 1 for i, token in enumerate(answer) if token == eos), NEW)
        assert row.tolist() == answer[:stop].tolist() + [PAD] * (NEW - stop)
    assert (ended == eos).any()


def test_the_first_of_several_ends_ends_a_row(model, answers):
    ends = (int(answers[0, 2]), NO_END, int(answers[1, 1]))
    ended = run(model, make_batch(PROMPTS, "left"), eos=ends)
    for row, answer in zip(ended, answers, strict=True):
        stop = next((i + 1 for i, token in enumerate(answer) if token in ends), NEW)
        assert row.tolist() == answer[:stop].tolist() + [PAD] * (NEW - stop)
    # Each of the two ends a row that the other leaves.
    assert ends[0] not in answers[1]
    assert ends[2] not in answers[0]


def test_a_row_without_prompt_is_all_padding(answers):
    assert (answers[-1] == PAD).all()


def test_a_longer_answer_begins_with_the_shorter(model, answers):
    shorter = run(model, make_batch(PROMPTS, "left"), new=1)
    np.testing.assert_array_equal(shorter, answers[:, :1])


def test_no_tokens_is_refused(model):
    with pytest.raises(ValueError, match="max_new_tokens is 0; it must be 1 or more"):
        run(model, make_batch(PROMPTS, "left"), new=0)
