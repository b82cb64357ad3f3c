"""What a decoder promises: it looks back only, rows and segments stay to themselves."""

import dataclasses
import functools
import json

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import AxisType
import numpy as np
import pytest

from deemo_jax.architecture import LlamaConfig, RopeScaling
from deemo_jax.models.attention import dot_product_attention
from deemo_jax.models.layers import REMAT_POLICIES
from deemo_jax.models.llama import Llama, config_from_dict, config_to_dict
from deemo_jax.pretrained import PretrainedError
from deemo_jax.sharding import parameter_shardings, row_sharding

LLAMA3 = RopeScaling(
    rope_type="llama3",
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
LINEAR = RopeScaling(
    rope_type="linear",
    factor=4.0,
    low_freq_factor=None,
    high_freq_factor=None,
    original_max_position_embeddings=None,
)
CONFIG = LlamaConfig(
    vocab_size=29,
    hidden_size=12,
    intermediate_size=17,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    hidden_act="silu",
    max_position_embeddings=32,
    rms_norm_eps=1e-5,
    rope_theta=100.0,
    rope_scaling=LLAMA3,
    attention_bias=True,
    mlp_bias=False,
    tie_word_embeddings=False,
)
ROWS, PLACES = 2, 7


def make(config=CONFIG, **options):
    """A decoder whose weights are large enough for every connection to show."""
    graphdef, abstract = nnx.split(
        nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0), **options))
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(scale=0.4, size=x.shape), x.dtype), abstract
    )
    return nnx.merge(graphdef, params)


@functools.partial(jax.jit, static_argnums=0)
def _run(graphdef, params, arguments):
    return nnx.merge(graphdef, params)(**arguments)


def run(model, tokens=None, **arguments):
    """The model's logits, compiled: faster here than operation by operation."""
    if tokens is not None:
        arguments["tokens"] = tokens
    return _run(*nnx.split(model), arguments)


@functools.partial(jax.jit, static_argnums=0)
def _extend(graphdef, params, cache, tokens, segment_ids):
    model = nnx.merge(graphdef, params)
    hidden, cache = model.extend(cache, model.embed(tokens), segment_ids=segment_ids)
    return model.logits(hidden), cache


def extend(model, cache, tokens, segment_ids):
    return _extend(*nnx.split(model), cache, tokens, segment_ids)


@pytest.fixture(scope="module")
def model():
    return make()


def draw(places=PLACES, seed=0):
    tokens = np.random.default_rng(seed).integers(0, 29, (ROWS, places))
    return jnp.asarray(tokens)


def test_a_place_depends_on_all_earlier_places_and_no_later_one(model):
    embeddings = model.embed(draw())

    def influence(embeddings):
        """How strongly each place's logits depend on each place's embedding."""
        jacobian = jax.jacrev(lambda x: model(embeddings=x)[0].sum(-1))(embeddings)
        return jnp.abs(jacobian[:, 0]).sum(-1)

    depends = np.asarray(jax.jit(influence)(embeddings)) > 1e-6
    np.testing.assert_array_equal(depends, np.tril(np.ones((PLACES, PLACES), bool)))


def test_rows_do_not_see_each_other(model):
    tokens = draw()
    changed = tokens.at[1].set(tokens[0])
    np.testing.assert_allclose(run(model, changed)[0], run(model, tokens)[0], atol=1e-5)


@pytest.mark.parametrize("steps", [(7,), (1,) * 7, (3, 1, 2, 1)], ids=str)
def test_cached_equals_uncached(model, steps):
    tokens = draw()
    cache, found, done = model.cache(ROWS, PLACES + 2), [], 0
    for step in steps:
        here = tokens[:, done : done + step]
        logits, cache = extend(model, cache, here, jnp.ones_like(here))
        found.append(logits)
        done += step
    np.testing.assert_allclose(np.concatenate(found, 1), run(model, tokens), atol=1e-5)
    assert cache.length == PLACES


@pytest.mark.parametrize("scaling", [None, LINEAR], ids=["default", "linear"])
def test_rope_of_every_type_is_cached_padded_and_packed_alike(scaling):
    """What the tests around this one show of `llama3`, shown in one row."""
    model = make(dataclasses.replace(CONFIG, rope_scaling=scaling))
    tokens, other = draw(), draw(4, seed=1)
    row = jnp.concatenate([tokens[:, :2], tokens, other], 1)
    segments = jnp.asarray([[0] * 2 + [1] * PLACES + [2] * 4] * ROWS)
    whole = run(model, row, segment_ids=segments)
    np.testing.assert_allclose(whole[:, 2:9], run(model, tokens), atol=1e-5)
    np.testing.assert_allclose(whole[:, 9:], run(model, other), atol=1e-5)
    cache, found = model.cache(ROWS, PLACES), []
    for place in range(PLACES):
        here = tokens[:, place : place + 1]
        logits, cache = extend(model, cache, here, jnp.ones_like(here))
        found.append(logits)
    np.testing.assert_allclose(np.concatenate(found, 1), whole[:, 2:9], atol=1e-5)
    moved = run(make(), tokens)
    assert np.abs(moved - run(model, tokens)).max() > 1e-3  # the type is no decoration


def test_cached_equals_uncached_behind_padding(model):
    tokens = draw()
    segments = jnp.asarray([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    cache, found = model.cache(ROWS, PLACES), []
    for place in range(PLACES):
        here = slice(place, place + 1)
        logits, cache = extend(model, cache, tokens[:, here], segments[:, here])
        found.append(logits)
    whole = run(model, tokens, segment_ids=segments)
    difference = np.abs(np.concatenate(found, 1) - whole)
    assert np.where(segments[..., None] > 0, difference, 0).max() < 1e-5


@pytest.mark.parametrize("left", [0, 1, 3])
def test_padding_on_either_side_changes_nothing(model, left):
    tokens, alone = draw(), run(model, draw())
    right = 3 - left
    pads = ((0, 0), (left, right))
    padded = jnp.asarray(np.pad(tokens, pads, constant_values=5))
    segments = jnp.asarray(np.pad(np.ones_like(tokens), pads))
    logits = run(model, padded, segment_ids=segments)
    assert np.isfinite(logits).all()
    logits = np.asarray(logits)
    np.testing.assert_allclose(logits[:, left : left + PLACES], alone, atol=1e-5)
    positions = np.tile(np.arange(PLACES), (ROWS, 1))
    given = run(
        model,
        padded,
        segment_ids=segments,
        positions=jnp.asarray(np.pad(positions, pads)),
    )
    given = np.asarray(given)
    np.testing.assert_allclose(given[:, left : left + PLACES], alone, atol=1e-5)


def test_packed_equals_separate(model):
    first, second = draw(4), draw(3, seed=1)
    packed = run(
        model,
        jnp.concatenate([first, second], 1),
        segment_ids=jnp.asarray([[1, 1, 1, 1, 2, 2, 2]] * ROWS),
    )
    np.testing.assert_allclose(packed[:, :4], run(model, first), atol=1e-5)
    np.testing.assert_allclose(packed[:, 4:], run(model, second), atol=1e-5)


def test_positions_matter(model):
    positions = jnp.asarray(np.tile(2 * np.arange(PLACES), (ROWS, 1)))
    moved = run(model, draw(), positions=positions)
    assert np.abs(moved - run(model, draw())).max() > 1e-2


def test_a_row_of_padding_is_finite_and_so_is_its_gradient(model):
    segments = jnp.asarray([[0] * PLACES, [1] * PLACES])

    def total(embeddings):
        return jnp.square(model(embeddings=embeddings, segment_ids=segments)).sum()

    gradient = jax.jit(jax.grad(total))(model.embed(draw()))
    assert np.isfinite(gradient).all()


def test_remat_changes_no_gradient():
    tokens = draw()

    def gradients(remat):
        graphdef, params = nnx.split(make(remat=remat))

        def loss(params):
            return jnp.square(nnx.merge(graphdef, params)(tokens)).mean()

        found = jax.tree.leaves(jax.jit(jax.grad(loss))(params))
        return [np.asarray(leaf) for leaf in found]

    kept = gradients("none")
    for remat in REMAT_POLICIES:
        for ours, theirs in zip(gradients(remat), kept, strict=True):
            scale = np.abs(theirs).max()
            np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-5)


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters(model):
    rounded = make(dtype=jnp.bfloat16)
    params = jax.tree.leaves(nnx.state(rounded))
    assert {leaf.dtype for leaf in params} == {jnp.dtype(jnp.float32)}
    assert rounded.cache(1, 2).keys.dtype == jnp.bfloat16
    hidden, _ = jax.eval_shape(
        lambda: rounded.extend(
            rounded.cache(ROWS, PLACES),
            rounded.embed(draw()),
            segment_ids=jnp.ones((ROWS, PLACES), jnp.int32),
        )
    )
    assert hidden.dtype == jnp.bfloat16
    logits, exact = run(rounded, draw()), run(model, draw())
    assert logits.dtype == jnp.float32
    assert 1e-4 < np.abs(logits - exact).max() < 0.1 * np.abs(exact).max()


def test_attention_can_be_swapped():
    calls = []

    def spy(q, k, v, *, mask):
        calls.append((q.shape, k.shape, mask.shape))
        return dot_product_attention(q, k, v, mask=mask)

    np.testing.assert_array_equal(run(make(attention=spy), draw()), run(make(), draw()))
    # Traced once for all layers.
    assert calls == [((2, 7, 4, 6), (2, 7, 2, 6), (2, 1, 7, 7))]


def test_tied_head_is_the_embedding():
    tied = make(dataclasses.replace(CONFIG, tie_word_embeddings=True))
    assert tied.lm_head is None
    hidden = jax.random.normal(jax.random.key(0), (1, 3, 12))
    expected = hidden @ tied.embed_tokens.embedding[...].T
    np.testing.assert_allclose(tied.logits(hidden), expected, atol=1e-5)


def test_new_weights_keep_the_size_of_a_signal():
    config = dataclasses.replace(CONFIG, hidden_size=48, vocab_size=100)
    state = jax.jit(lambda: nnx.state(Llama(config, rngs=nnx.Rngs(0))))()
    for path, variable in nnx.to_flat_state(state):
        value = np.asarray(variable)
        if path[-1] == "kernel":
            expected = value.shape[-2] ** -0.5  # one over the root of the inputs
            assert np.std(value) == pytest.approx(expected, rel=0.05), path
        elif path[-1] == "embedding":
            assert np.std(value) == pytest.approx(0.02, rel=0.05), path
        else:
            assert (value == (1.0 if path[-1] == "scale" else 0.0)).all(), path


def test_parameters_have_the_names_and_shapes_agreed_on():
    state = nnx.state(nnx.eval_shape(lambda: Llama(CONFIG, rngs=nnx.Rngs(0))))
    found = {"/".join(map(str, p)): v.shape for p, v in nnx.to_flat_state(state)}
    assert found == {
        "embed_tokens/embedding":                 (29, 12),
        "layers/input_layernorm/scale":           (2, 12),
        "layers/self_attn/q_proj/kernel":         (2, 12, 24),
        "layers/self_attn/q_proj/bias":           (2, 24),
        "layers/self_attn/k_proj/kernel":         (2, 12, 12),
        "layers/self_attn/k_proj/bias":           (2, 12),
        "layers/self_attn/v_proj/kernel":         (2, 12, 12),
        "layers/self_attn/v_proj/bias":           (2, 12),
        "layers/self_attn/o_proj/kernel":         (2, 24, 12),
        "layers/self_attn/o_proj/bias":           (2, 12),
        "layers/post_attention_layernorm/scale":  (2, 12),
        "layers/mlp/gate_proj/kernel":            (2, 12, 17),
        "layers/mlp/up_proj/kernel":              (2, 12, 17),
        "layers/mlp/down_proj/kernel":            (2, 17, 12),
        "norm/scale":                             (12,),
        "lm_head/kernel":                         (12, 29),
    }  # fmt: skip


def test_a_real_size_builds_without_memory():
    config = dataclasses.replace(
        CONFIG,
        vocab_size=32_000,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        head_dim=128,
        attention_bias=False,
    )
    model = nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
    sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(model))]
    assert sum(sizes) == 6_738_415_616  # Llama 2 7B


def test_saved_and_read_again_is_the_same(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = Llama.from_pretrained(tmp_path)
    assert again.config == CONFIG
    np.testing.assert_array_equal(run(again, draw()), run(model, draw()))


def test_tokens_or_embeddings_not_both(model):
    for arguments in ({}, {"tokens": draw(), "embeddings": model.embed(draw())}):
        with pytest.raises(ValueError, match="either tokens or embeddings"):
            model(**arguments)


@pytest.mark.parametrize("scaling", [None, LINEAR, LLAMA3])
def test_config_there_and_back(scaling):
    config = dataclasses.replace(CONFIG, rope_scaling=scaling)
    assert config_from_dict(config_to_dict(config)) == config
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mistral"}, "model_type 'mistral' .* supported: llama"),
        ({"model_type": None}, "model_type None"),
        ({"rms_norm_eps": None}, "config.json has no 'rms_norm_eps'"),
        ({"hidden_size": "12"}, "'hidden_size' in config.json is '12'; .* type int"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope type 'yarn' .* supported"),
        (
            {"num_key_value_heads": 3},
            "num_attention_heads is 4 and num_key_value_heads",
        ),
        ({"head_dim": 7}, "config.json: head_dim is 7; .* make it even"),
    ],
)
def test_unsupported_configs_are_refused_by_name(change, message):
    with pytest.raises(PretrainedError, match=message):
        config_from_dict(config_to_dict(CONFIG) | change)


def test_unsupported_activation_is_refused_by_name(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["hidden_act"] = "relu6"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="activation 'relu6' is not supported"):
        Llama.from_pretrained(tmp_path)


def test_read_onto_a_mesh_it_lies_as_the_table_says_and_computes_the_same(
    model, tmp_path
):
    model.save_pretrained(tmp_path)
    axes = ("data", "fsdp", "tensor")
    mesh = jax.make_mesh((2, 2, 2), axes, axis_types=(AxisType.Auto,) * 3)
    placed = Llama.from_pretrained(tmp_path, mesh=mesh)
    expected = jax.tree.leaves(parameter_shardings(nnx.state(model), mesh))
    found = jax.tree.leaves(nnx.state(placed))
    assert [leaf.sharding for leaf in found] == expected
    split = [leaf for leaf in found if not leaf.sharding.is_fully_replicated]
    assert len(split) > 6
    np.testing.assert_allclose(run(placed, draw()), run(model, draw()), atol=1e-5)


@pytest.mark.parametrize("scaling", [LINEAR, LLAMA3], ids=["linear", "llama3"])
def test_sharded_computes_what_one_device_does(scaling):
    """On 2 x 2 x 2 devices, rows over two axes and heads over the third."""
    config = dataclasses.replace(
        CONFIG, rope_scaling=scaling, vocab_size=32, intermediate_size=16
    )
    model = make(config)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 32, (4, PLACES)))
    segments = jnp.asarray(
        [[1] * PLACES, [0] * 2 + [1] * 5, [1] * 4 + [2] * 3, [0] * 7]
    )
    mesh = jax.make_mesh(
        (2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3
    )
    graphdef, params = nnx.split(model)
    placed = jax.device_put(params, parameter_shardings(params, mesh))
    here = row_sharding(mesh)
    with jax.set_mesh(mesh):
        found = _run(
            graphdef,
            placed,
            {
                "tokens": jax.device_put(tokens, here),
                "segment_ids": jax.device_put(segments, here),
            },
        )
    assert len(found.sharding.device_set) == 8
    expected = run(model, tokens, segment_ids=segments)
    difference = np.abs(np.asarray(found) - np.asarray(expected))
    assert np.where(segments[..., None] > 0, difference, 0).max() < 1e-5
