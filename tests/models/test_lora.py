"""LoRA: nothing at first, then what its matrices say, dropped by key, and merged."""

import dataclasses
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deemo_jax.config import ConfigError, LoraConfig, MeshConfig
from deemo_jax.models.clip import ClipVision
from deemo_jax.models.hubert import Hubert
from deemo_jax.models.layers import scan, stack
from deemo_jax.models.llama import Llama
from deemo_jax.models.lora import (
    PARAMETERS as NAMES,
)
from deemo_jax.models.lora import (
    LoraLinear,
    add_lora,
    is_lora,
    merge_lora,
    with_dropout,
)
from deemo_jax.models.qformer import QFormer
from deemo_jax.models.siglip import SiglipVision
from deemo_jax.models.whisper import WhisperEncoder
from deemo_jax.pretrained import read_config
from deemo_jax.sharding import make_mesh, parameter_shardings
from tests.small import HUBERT, ODD, SIGLIP, drawn, marked, small_config

EVERYWHERE = LoraConfig(rank=3, alpha=7.0, dropout=0.25, targets=(".*",))
ALONE = dataclasses.replace(EVERYWHERE, targets=("",))  # of a model that is one map
TOKENS = jnp.arange(14).reshape(2, 7)
DRAW = np.random.default_rng(0)
FEATURES = jnp.asarray(DRAW.normal(size=(2, 6, 14)), jnp.float32)
PIXELS = jnp.asarray(DRAW.normal(size=(2, 15, 15, 3)), jnp.float32)
SOUND = jnp.asarray(DRAW.normal(size=(2, 400)), jnp.float32)
MEL = jnp.asarray(DRAW.normal(size=(2, 9, 11)), jnp.float32)

# A tower, what it is called with, and how many of its paths are linear maps.
VISION_TOWER: Any = ODD.vision_tower
AUDIO_TOWER: Any = ODD.audio_tower
VIDEO_CONNECTOR: Any = ODD.video_connector
TOWERS = {
    "decoder": (
        lambda: Llama(ODD.language_model, rngs=nnx.Rngs(0)),
        lambda model: model(TOKENS),
        8,
    ),
    "vision": (
        lambda: ClipVision(VISION_TOWER, rngs=nnx.Rngs(0)),
        lambda model: model(PIXELS, -2),
        6,
    ),
    "audio": (
        lambda: WhisperEncoder(AUDIO_TOWER, rngs=nnx.Rngs(0)),
        lambda model: model(MEL),
        6,
    ),
    "vision of SigLIP": (
        lambda: SiglipVision(SIGLIP, rngs=nnx.Rngs(0)),
        lambda model: model(PIXELS, -2),
        10,
    ),
    "audio of HuBERT": (
        lambda: Hubert(HUBERT, rngs=nnx.Rngs(0)),
        lambda model: model(SOUND),
        7,
    ),
    "connector": (
        lambda: QFormer(VIDEO_CONNECTOR, 24, rngs=nnx.Rngs(0)),
        lambda model: model(FEATURES, jnp.zeros((2, 6), int), jnp.ones((2, 6), bool)),
        11,
    ),
}


def adapted(make, config=EVERYWHERE):
    return add_lora(make(), config, nnx.Rngs(1))


def learned(model):
    """The same, with a B that is not zero."""
    draw = np.random.default_rng(2)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, LoraLinear):
            shape = module.lora_b.shape
            module.lora_b[...] = jax.device_put(draw.normal(0, 0.2, shape).astype("f4"))
    return model


def compiled(make):
    """What `make` makes, compiled as one."""
    graphdef = nnx.graphdef(nnx.eval_shape(make))
    return nnx.merge(graphdef, jax.jit(lambda: nnx.state(make()))())


def flat(state):
    return {
        "/".join(map(str, path)): leaf.get_value()
        for path, leaf in nnx.to_flat_state(state)
    }


def caller(call):
    """`call` of a model, with dropout where a key is given; compiled."""

    @functools.partial(jax.jit, static_argnums=0)
    def run(graphdef, params, key):
        model = nnx.merge(graphdef, params)
        return call(model if key is None else with_dropout(model, key))

    return lambda model, key=None: np.asarray(run(*nnx.split(model), key))


@pytest.fixture(
    params=marked(TOWERS, "decoder", "vision", "audio", "connector"), scope="module"
)
def tower(request):
    """A tower, the same with LoRA, how they are called, how many maps they have."""
    make, call, maps = request.param
    return compiled(make), compiled(lambda: adapted(make)), caller(call), maps


def test_it_stands_on_every_linear_map_and_changes_nothing_at_first(tower):
    plain, model, call, maps = tower
    lora, base = nnx.split_state(nnx.state(model), is_lora, ...)
    assert len(flat(lora)) == 2 * maps
    assert flat(base).keys() == flat(nnx.state(plain)).keys()
    # Zero is added exactly; what the compiler makes of the rest may be rounded apart.
    np.testing.assert_allclose(call(model), call(plain), rtol=0, atol=2e-6)


def test_what_is_learned_is_heard_and_merged_computes_the_same(tower):
    plain, model, call, _ = tower
    model = learned(nnx.clone(model))
    expected = call(model)
    assert np.abs(expected - call(plain)).max() > 0.01
    merged = merge_lora(model)
    assert flat(merged).keys() == flat(nnx.state(plain)).keys()
    found = call(nnx.merge(nnx.graphdef(plain), merged))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_tower_is_saved_merged_in_the_dtype_asked_for(tower, tmp_path):
    _, model, _, _ = tower
    if isinstance(model, QFormer):
        pytest.skip("a connector has no folder of its own")
    model = learned(nnx.clone(model))
    expected = flat(merge_lora(model))
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "half", dtype=jnp.bfloat16)
    for name, dtype in (("whole", "float32"), ("half", "bfloat16")):
        assert read_config(tmp_path / name)["dtype"] == dtype
        found = flat(nnx.state(type(model).from_pretrained(tmp_path / name)))
        assert found.keys() == expected.keys()
        for path, value in expected.items():
            rounded = np.asarray(value).astype(jnp.dtype(dtype)).astype(np.float32)
            np.testing.assert_array_equal(found[path], rounded, err_msg=path)


def test_dropout_is_that_of_its_key_and_in_no_two_maps_the_same(tower):
    plain, model, call, _ = tower
    model = learned(nnx.clone(model))
    quiet = call(model)
    one, same, other = (call(model, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3
    assert np.abs(one - quiet).max() > 1e-3
    dropping = with_dropout(model, jax.random.key(1))
    np.testing.assert_array_equal(call(model), quiet)  # the model itself drops nothing
    keys = [
        np.asarray(jax.random.key_data(module.dropout_key[...])).reshape(-1, 2)
        for _, module in nnx.iter_modules(dropping)
        if isinstance(module, LoraLinear) and module.dropout_key is not None
    ]
    every = np.concatenate(keys)
    assert len(np.unique(every, axis=0)) == len(every)
    # Keys are no parameters, and a model without LoRA has none.
    assert flat(nnx.state(dropping, nnx.Param)).keys() == flat(nnx.state(model)).keys()
    plain_keys = flat(nnx.state(with_dropout(plain, jax.random.key(1)))).keys()
    assert plain_keys == flat(nnx.state(plain)).keys()


def test_it_follows_the_formula():
    """`x W + b + alpha / r * dropout(x) A B`, in numpy."""
    config = LoraConfig(rank=2, alpha=5.0, dropout=0.4, targets=("",))
    linear = nnx.Linear(4, 3, bias_init=nnx.initializers.ones, rngs=nnx.Rngs(0))
    model: Any = add_lora(linear, config, nnx.Rngs(1))
    x = jnp.arange(20.0).reshape(5, 4)
    np.testing.assert_array_equal(model(x), linear(x))  # nothing at first

    model = learned(model)
    parts = (linear.kernel, model.lora_a, model.lora_b)
    weight, a, b = (np.asarray(part[...], np.float64) for part in parts)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    close(model(x), x @ weight + 1 + 2.5 * (x @ a @ b))
    merged = nnx.merge(nnx.graphdef(linear), merge_lora(model))
    close(merged(x), model(x), rtol=1e-6)
    close(merged.kernel[...], weight + 2.5 * a @ b)

    dropping = with_dropout(model, jax.random.key(3))
    kept = jax.random.bernoulli(dropping.dropout_key[...], 0.6, x.shape)
    assert 0 < np.sum(kept) < kept.size
    low = np.where(kept, x / 0.6, 0) @ a @ b
    close(dropping(x), x @ weight + 1 + 2.5 * low)


def test_new_matrices_are_drawn_apart_for_each_layer():
    layers = stack(lambda rngs: nnx.Linear(400, 9, rngs=rngs), 2, nnx.Rngs(0))
    a, b = (flat(nnx.state(add_lora(layers, ALONE, nnx.Rngs(1))))[n] for n in NAMES)
    assert (a.shape, b.shape) == ((2, 400, 3), (2, 3, 9))
    assert not np.allclose(a[0], a[1])
    assert np.std(a) == pytest.approx(1 / 20, rel=0.1)
    assert not np.any(b)


def test_dropout_neither_adds_nor_takes_in_the_mean():
    model = learned(add_lora(nnx.Linear(6, 2, rngs=nnx.Rngs(0)), ALONE, nnx.Rngs(1)))
    x = jnp.ones((20_000, 6))
    found = np.asarray(with_dropout(model, jax.random.key(0))(x)).mean(0)
    np.testing.assert_allclose(found, np.asarray(model(x[:1]))[0], atol=0.02)


def test_targets_choose_by_whole_paths():
    config = dataclasses.replace(EVERYWHERE, targets=("layers/self_attn/[qv]_proj",))
    model = nnx.eval_shape(lambda: adapted(TOWERS["decoder"][0], config))
    assert {path for path in flat(nnx.state(model)) if "lora" in path} == {
        f"layers/self_attn/{name}_proj/lora_{letter}"
        for name in "qv"
        for letter in "ab"
    }


def test_a_target_that_matches_nothing_is_refused_by_name():
    targets = (".*/q_proj", "self_attn/k_proj")
    config = dataclasses.replace(EVERYWHERE, targets=targets)
    with pytest.raises(
        ConfigError, match=r"'self_attn/k_proj', .* layers/self_attn/k_proj"
    ):
        nnx.eval_shape(lambda: adapted(TOWERS["decoder"][0], config))


def test_rank_0_is_no_lora():
    linear = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    none = dataclasses.replace(EVERYWHERE, rank=0, targets=("nothing",))
    assert add_lora(linear, none, nnx.Rngs(1)) is linear


def test_half_precision_stays_half_precision():
    linear = nnx.Linear(4, 4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = jnp.ones((2, 4), jnp.bfloat16)
    assert add_lora(linear, ALONE, nnx.Rngs(1))(x).dtype == jnp.bfloat16


def test_logits_stay_single_precision():
    def logits():
        decoder = Llama(ODD.language_model, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
        return add_lora(decoder, EVERYWHERE, nnx.Rngs(1))(TOKENS)

    assert jax.eval_shape(logits).dtype == jnp.float32


def test_gradients_are_the_same_recomputed_with_dropout():
    layers = stack(lambda rngs: nnx.Linear(5, 5, rngs=rngs), 3, nnx.Rngs(0))
    model = learned(add_lora(layers, ALONE, nnx.Rngs(1)))
    graphdef, params = nnx.split(model)

    def loss(params, remat):
        layers = with_dropout(nnx.merge(graphdef, params), jax.random.key(5))
        body = lambda layer, x, _: (jnp.tanh(layer(x)), None)  # noqa: E731
        return jnp.square(scan(layers, body, jnp.ones((2, 5)), remat=remat)[0]).sum()

    slope = jax.jit(jax.grad(loss), static_argnums=1)
    kept, again = (flat(slope(params, remat)) for remat in ("none", "full"))
    for path, value in kept.items():
        np.testing.assert_allclose(again[path], value, rtol=1e-5, atol=1e-6)
        assert np.any(value), path


def test_sharded_it_computes_the_same():
    config = small_config().model.language_model
    model = drawn(lambda: adapted(lambda: Llama(config, rngs=nnx.Rngs(0))))
    model = nnx.merge(
        nnx.graphdef(model), jax.tree.map(lambda x: x / 3, nnx.state(model))
    )
    call = caller(lambda model: model(TOKENS))
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    shardings = parameter_shardings(nnx.state(model), mesh)
    placed = nnx.merge(nnx.graphdef(model), jax.device_put(nnx.state(model), shardings))
    maps = [m for _, m in nnx.iter_modules(placed) if isinstance(m, LoraLinear)]
    for module in maps:
        pieces = [
            matrix.size // matrix.addressable_shards[0].data.size
            for matrix in (module.lora_a[...], module.lora_b[...])
        ]
        assert sorted(pieces) == [2, 4]  # over fsdp; over tensor and fsdp
    key = jax.random.key(4)
    for dropped in (None, key):
        expected = call(model, dropped)
        with jax.set_mesh(mesh):
            found = call(placed, dropped)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
