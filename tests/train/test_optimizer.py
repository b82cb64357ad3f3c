"""The freeze table, the schedule, and AdamW against its formula."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deemo_jax.config import ConfigError, OptimizerConfig
from deemo_jax.models.hubert import Hubert
from deemo_jax.models.siglip import SiglipVision
from deemo_jax.train.optimizer import (
    FREEZE,
    is_decayed,
    is_trained,
    learning_rate,
    make_optimizer,
    split_params,
)
from deemo_jax.train.step import split_model
from tests.small import HUBERT, SIGLIP, small_config

SETTINGS = OptimizerConfig(
    learning_rate=0.5,
    warmup_steps=4,
    end_fraction=0.1,
    b1=0.9,
    b2=0.98,
    eps=1e-8,
    weight_decay=0.05,
    clip_norm=1.0,
)


@pytest.fixture(scope="module")
def params():
    return split_model(small_config())[1]


def paths(state):
    return {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(state)}


@pytest.mark.parametrize("stage", FREEZE)
def test_each_stage_sorts_every_parameter(params, stage):
    trained, frozen = split_params(stage, params)
    assert paths(trained) | paths(frozen) == paths(params)
    assert not paths(trained) & paths(frozen)


def test_what_the_stages_train(params):
    constant = {
        "audio_tower/embed_positions/embedding",
        "vision_tower/post_layernorm/bias",
        "vision_tower/post_layernorm/scale",
    }
    _, frozen = split_params("full", params)
    assert paths(frozen) == constant
    trained, _ = split_params("align", params)
    assert paths(trained) == {
        path for path in paths(params) if path.split("/")[0].endswith("_connector")
    }


def test_what_the_stages_train_of_hubert():
    tower = nnx.state(nnx.eval_shape(lambda: Hubert(HUBERT, rngs=nnx.Rngs(0))))
    found = paths(nnx.State({"audio_tower": tower}))
    trained = {path for path in found if is_trained("full", path)}
    assert found - trained == {"audio_tower/masked_spec_embed"}
    assert not any(is_trained("align", path) for path in found)


def test_what_the_stages_train_of_siglip():
    """What no feature passes through stays: the pooling head and the norm before it."""
    tower = nnx.state(nnx.eval_shape(lambda: SiglipVision(SIGLIP, rngs=nnx.Rngs(0))))
    found = paths(nnx.State({"vision_tower": tower}))
    trained = {path for path in found if is_trained("full", path)}
    assert {path.split("/")[1] for path in trained} == {"embeddings", "layers"}
    kept = {path.split("/")[1] for path in found - trained}
    assert kept == {"post_layernorm", "head"}
    assert not any(is_trained("align", path) for path in found)


def test_tune_trains_the_connectors_and_lora():
    tuned = small_config(train__stage="tune", lora__rank=2)
    found, _ = split_params("tune", split_model(tuned)[1])
    aligned, _ = split_params("align", split_model(small_config())[1])
    layers = "language_model/layers/self_attn"
    assert paths(found) == paths(aligned) | {
        f"{layers}/{name}_proj/lora_{letter}" for name in "qv" for letter in "ab"
    }


@pytest.mark.parametrize("stage", FREEZE)
def test_a_parameter_without_a_row_is_refused_by_name(stage):
    with pytest.raises(ValueError, match=rf"third_tower/norm/scale .* '{stage}'"):
        is_trained(stage, "third_tower/norm/scale")


def test_an_unknown_stage_is_refused(params):
    with pytest.raises(
        ConfigError, match=r"'alien'; it must be one of: align, tune, full"
    ):
        split_params("alien", params)


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.1),  # already the first step moves
        (1, 0.2),
        (3, 0.4),
        (4, 0.5),  # the peak
        (9, 0.275),  # half way down
        (14, 0.05),  # the end
        (99, 0.05),
    ],
)
def test_the_rate_rises_and_falls(step, rate):
    found = learning_rate(SETTINGS, 14)(jnp.int32(step))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, rate, rtol=1e-6)


def test_a_run_shorter_than_its_warm_up_ends_within_it():
    rates = [float(learning_rate(SETTINGS, 3)(step)) for step in range(3)]
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3], rtol=1e-6)


@pytest.mark.parametrize(
    ("path", "shape", "decayed"),
    [
        ("language_model/norm/scale", (4,), False),
        ("language_model/embed_tokens/embedding", (4, 4), True),
        ("language_model/layers/input_layernorm/scale", (2, 4), False),
        ("vision_tower/layers/mlp/fc1/bias", (2, 4), False),
        ("vision_tower/layers/mlp/fc1/kernel", (2, 4, 4), True),
        ("audio_tower/conv1/kernel", (3, 4, 4), True),
        ("audio_tower/feature_extractor/conv_layers/0/conv/kernel", (9, 1, 4), True),
        ("audio_tower/pos_conv_embed/kernel", (6, 2, 4), True),
        ("audio_tower/pos_conv_embed/gain", (6, 1, 1), False),
        ("video_connector/query_tokens", (4, 4), True),
        ("vision_tower/embeddings/class_embedding", (4,), False),
    ],
)
def test_matrices_decay_and_vectors_do_not(path, shape, decayed):
    tree = value = {}
    *groups, name = path.split("/")
    for group in groups:
        value[group] = value = {}
    value[name] = jnp.zeros(shape)
    assert jax.tree.leaves(is_decayed(tree)) == [decayed]


def test_steps_follow_the_formula():
    """AdamW, decoupled decay, clipping by the norm over all; in numpy."""
    rng = np.random.default_rng(0)
    values = {
        "fc1": {
            "kernel": rng.normal(size=(3, 2)).astype(np.float32),
            "bias": rng.normal(size=(2,)).astype(np.float32),
        }
    }
    optimizer = make_optimizer(SETTINGS, 14)
    found = jax.tree.map(jnp.asarray, values)
    state = optimizer.init(found)
    mean = jax.tree.map(np.zeros_like, values)
    square = jax.tree.map(np.zeros_like, values)
    for step in range(3):
        grads = jax.tree.map(lambda x: rng.normal(size=x.shape), values)
        updates, state = optimizer.update(
            jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), grads), state, found
        )
        found = jax.tree.map(jnp.add, found, updates)

        norm = np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(grads)))
        grads = jax.tree.map(lambda g, n=norm: g / max(1.0, n), grads)
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, grads)
        square = jax.tree.map(lambda v, g: 0.98 * v + 0.02 * g**2, square, grads)
        rate = float(learning_rate(SETTINGS, 14)(step))

        def move(x, m, v, r=rate, t=step + 1):
            m, v = m / (1 - 0.9**t), v / (1 - 0.98**t)
            decay = 0.05 * x if x.ndim > 1 else 0.0
            return x - r * (m / (np.sqrt(v) + 1e-8) + decay)

        values = jax.tree.map(move, values, mean, square)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), found, values
    )


def test_the_optimizer_knows_only_of_what_is_trained(params):
    trained, _ = split_params("align", params)
    state = jax.eval_shape(make_optimizer(SETTINGS, 14).init, trained)
    moments = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.shape]
    once = [leaf.shape for leaf in jax.tree.leaves(trained)]
    assert sorted(moments) == sorted(once * 2)
