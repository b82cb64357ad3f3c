"""One step: what moves, what does not, what it counts, how its state lies."""

import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from deemo_jax.batch import Batch
from deemo_jax.config import MeshConfig
from deemo_jax.loss import cross_entropy_sums
from deemo_jax.models.lora import is_lora
from deemo_jax.sharding import make_mesh, parameter_shardings, place
from deemo_jax.train.optimizer import make_optimizer, split_params
from deemo_jax.train.step import (
    Learning,
    TrainState,
    abstract_state,
    draw_params,
    init_state,
    make_model,
    make_train_step,
    split_model,
    train_step,
)
from tests.small import drawn, small_config

ROWS, LENGTH = 8, 24


def make_batch(config, seed=0, **changes):
    rng = np.random.default_rng(seed)
    shape = (ROWS, LENGTH)
    segments = np.ones(shape, np.int32)
    segments[:, -3:] = 0
    loss_mask = np.zeros(shape, bool)
    loss_mask[:, -9:-3] = True
    tokens = rng.integers(7, 40, shape).astype(np.int32)
    video = config.model.video_connector.num_query_tokens
    audio = config.model.audio_connector.num_query_tokens
    tokens[:, 1 : 1 + video] = config.model.video_token_id
    tokens[:, 1 + video : 1 + video + audio] = config.model.audio_token_id
    samples = round(config.data.audio_seconds * 16_000)
    size, times = config.data.image_size, config.data.num_frames
    places = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), shape)
    fields = {
        "tokens": tokens,
        "positions": np.array(places),
        "segment_ids": segments,
        "loss_mask": loss_mask,
        "frames": rng.integers(0, 255, (ROWS, times, size, size, 3), np.uint8),
        "frame_mask": np.ones((ROWS, times), bool),
        "audio": rng.normal(0, 0.1, (ROWS, samples)).astype(np.float32),
        "audio_length": np.full(ROWS, samples, np.int32),
        "index": np.arange(ROWS, dtype=np.int32),
    }
    return Batch(**fields | changes)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=1, fsdp=1, tensor=1))


@pytest.fixture(
    scope="module",
    params=[
        {"train__stage": "align"},
        {"train__stage": "tune", "lora__rank": 2, "lora__dropout": 0.5},
    ],
    ids=["align", "tune"],
)
def aligned(request, mesh):
    """Two steps of a stage that trains the connectors, alone or with LoRA."""
    config = small_config(**request.param)
    with jax.set_mesh(mesh):
        state = init_state(config, mesh)
        before = jax.tree.map(np.array, state)
        step = make_train_step(config, mesh)
        losses = []
        given = state
        for _ in range(2):
            state, sums = step(state, place(make_batch(config), mesh))
            losses.append(jax.device_get(sums))
    return config, before, given, state, losses


def test_what_is_frozen_keeps_every_bit_and_the_rest_moves(aligned):
    config, before, _, after, _ = aligned
    pairs = [split_params(config.train.stage, s.params) for s in (before, after)]
    (trained, frozen), (trained_after, frozen_after) = pairs
    jax.tree.map(np.testing.assert_array_equal, frozen, frozen_after)
    moved = jax.tree.map(
        lambda a, b: bool((np.asarray(a) != b).any()), trained, trained_after
    )
    still = [path for path, leaf in nnx.to_flat_state(moved) if not leaf.get_value()]
    assert still == []


def test_steps_are_counted(aligned):
    _, before, _, after, losses = aligned
    assert before.step == 0
    assert after.step == 2
    assert losses[0]["learning_rate"] < losses[1]["learning_rate"]


def test_the_loss_falls_on_the_same_batch(aligned):
    losses = aligned[-1]
    assert losses[1]["loss"] < losses[0]["loss"]


def test_sums_are_those_of_the_given_state(bigrams, mesh):
    config = small_config()
    graphdef, _ = split_model(config)
    state, batch = init_state(config, mesh), make_batch(config)
    logits = nnx.merge(graphdef, state.params)(batch)
    expected = cross_entropy_sums(
        logits, jnp.asarray(batch.tokens), jnp.asarray(batch.loss_mask)
    )
    _, sums = make_train_step(config, mesh)(state, place(batch, mesh))
    np.testing.assert_allclose(sums["loss"], expected["loss"], rtol=1e-5)
    assert sums["tokens"] == expected["tokens"] == ROWS * 6
    assert sums["correct"] == expected["correct"]
    assert sums["row_tokens"] == ROWS * (LENGTH - 3)


def test_a_step_without_finite_gradient_changes_nothing_but_the_count(bigrams, mesh):
    config = small_config()
    step = make_train_step(config, mesh)
    batch = place(make_batch(config), mesh)
    state, sums = step(init_state(config, mesh), batch)
    assert sums["skipped"] == 0
    params: Any = state.params
    head = params["language_model"]["lm_head"]["kernel"]
    head[...] = head[...].at[0, 0].set(jnp.inf)
    before = jax.tree.map(np.asarray, state)
    after, sums = step(state, batch)
    assert sums["skipped"] == 1
    assert after.step == before.step + 1
    for one, other in (
        (before.params, after.params),
        (before.opt_state, after.opt_state),
    ):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    _, again = step(after, batch)
    assert again["learning_rate"] == sums["learning_rate"] > 0


def test_dropout_follows_seed_and_step(bigrams):
    def losses(step, **changes):
        """Of two training steps from one state, and of the model itself."""
        config = small_config(**tuned | changes)
        graphdef, _ = split_model(config)
        optimizer = make_optimizer(config.optimizer, config.train.steps)
        state = TrainState(
            params=louder, opt_state=optimizer.init(trained), step=jnp.int32(step)
        )
        found = [
            train_step(state, batch, learning=Learning.of(config))[1]["loss"]
            for _ in range(2)
        ]
        logits = nnx.merge(graphdef, louder)(batch)
        sums = cross_entropy_sums(logits, batch.tokens, batch.loss_mask)
        return [*map(float, found), float(sums["loss"])]

    tuned = {
        "train__stage": "tune",
        "lora__rank": 2,
        "lora__dropout": 0.5,
        "lora__targets": ("language_model/lm_head",),
    }
    config = small_config(**tuned)
    batch = jax.tree.map(jnp.asarray, make_batch(config))
    louder = nnx.state(drawn(lambda: make_model(config, nnx.Rngs(0))))
    trained, _ = split_params("tune", louder)

    one, again, quiet = losses(3)
    assert one == again != quiet
    assert losses(4)[0] != one
    assert losses(3, seed=1)[0] != one
    assert losses(3, seed=1)[2] == quiet  # what is evaluated drops nothing
    none = losses(3, lora__dropout=0.0)
    assert none == pytest.approx([quiet] * 3, rel=1e-6)


def test_the_state_given_is_consumed(aligned):
    given = aligned[2]
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given.opt_state))


def test_a_batch_without_answers_gives_no_number_that_is_not_one(bigrams, mesh):
    config = small_config()
    state = init_state(config, mesh)
    batch = make_batch(config, loss_mask=np.zeros((ROWS, LENGTH), bool))
    after, sums = jax.jit(lambda s, b: train_step(s, b, learning=Learning.of(config)))(
        state, batch
    )
    assert sums["loss"] == sums["grad_norm"] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))


def test_runs_that_agree_share_a_step_and_no_others_do(bigrams, mesh):
    first = {
        "train__stage": "tune",
        "lora__rank": 2,
        "lora__targets": ("language_model/lm_head",),
    }
    alike = {"train__save_every": 7, "data__num_frames": 3, "evaluate__every": 2}
    given = make_train_step(small_config(**first, **alike), mesh)
    for changes in (
        {"seed": 5},
        {"train__steps": 21},
        {"train__dtype": "bfloat16"},
        {"train__remat": "full"},
        {"train__stage": "align", "lora__rank": 0},
        {"lora__dropout": 0.5},
        {"optimizer__learning_rate": 0.5},
        {"layout__connectors": "replicated"},
        {"model__language_model__rope_theta": 5.0},
    ):
        assert make_train_step(small_config(**first), mesh) is given
        assert make_train_step(small_config(**first | changes), mesh) is not given
    other = make_mesh(MeshConfig(data=2, fsdp=1, tensor=1))
    assert make_train_step(small_config(**first), mesh) is given
    assert make_train_step(small_config(**first), other) is not given


def test_moments_lie_as_their_parameters():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    config = small_config(train__stage="align")
    state = abstract_state(config, mesh)
    trained, _ = split_params("align", state.params)
    expected = [leaf.sharding for leaf in jax.tree.leaves(trained)]
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape]
    assert [leaf.sharding for leaf in moments] == expected * 2
    assert state.step.sharding.spec == PartitionSpec()
    assert any(any(sharding.spec) for sharding in expected)


def test_what_is_made_lies_as_announced(bigrams):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    config = small_config()
    with jax.set_mesh(mesh):
        announced = abstract_state(config, mesh)
        state = init_state(config, mesh)
        lies = jax.tree.map(lambda x: x.sharding, state)
        batch = place(make_batch(config), mesh)
        after, _ = make_train_step(config, mesh)(state, batch)
    wanted = jax.tree.map(lambda x: x.sharding, announced)
    for found in (lies, jax.tree.map(lambda x: x.sharding, after)):
        for ours, theirs, leaf in zip(
            jax.tree.leaves(found),
            jax.tree.leaves(wanted),
            jax.tree.leaves(announced),
            strict=True,
        ):
            assert ours.is_equivalent_to(theirs, len(leaf.shape))


def test_given_parameters_are_taken(bigrams, mesh):
    config = small_config()
    _, params = split_model(config)
    shardings = parameter_shardings(params, mesh)
    ones = jax.tree.map(
        lambda p, s: jax.device_put(jnp.ones(p.shape), s), params, shardings
    )
    state = init_state(config, mesh, ones)
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(state.params))


def test_the_seed_decides_what_is_drawn(bigrams, mesh):
    config = small_config()
    other = dataclasses.replace(config, seed=1)
    drawn = [init_state(c, mesh).params for c in (config, config, other)]
    first, same, different = map(jax.tree.leaves, drawn)
    assert all((a == b).all() for a, b in zip(first, same, strict=True))
    assert any((a != b).any() for a, b in zip(first, different, strict=True))


def test_what_is_drawn_alone_is_what_is_drawn_with_the_rest(bigrams, mesh):
    tuned = small_config(
        train__stage="tune", lora__rank=2, lora__targets=("language_model/lm_head",)
    )
    every = dict(nnx.to_flat_state(init_state(tuned, mesh).params))
    lora = dict(nnx.to_flat_state(draw_params(tuned, mesh, is_lora)))
    assert {path[-1] for path in lora} == {"lora_a", "lora_b"}
    plain = dict(nnx.to_flat_state(init_state(small_config(), mesh).params))
    assert every.keys() == lora.keys() | plain.keys()
    for path, leaf in (lora | plain).items():
        np.testing.assert_array_equal(leaf.get_value(), every[path].get_value())


def test_what_is_drawn_is_the_same_on_any_mesh(bigrams, mesh):
    config = small_config()
    alone = jax.tree.leaves(init_state(config, mesh).params)
    for sizes in ((1, 4, 1), (2, 2, 2)):
        data, fsdp, tensor = sizes
        split = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
        for ours, theirs in zip(
            jax.tree.leaves(init_state(config, split).params), alone, strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
