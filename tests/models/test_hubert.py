import dataclasses
import functools
import json

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deemo_jax.architecture import HubertConfig
from deemo_jax.config import MeshConfig
from deemo_jax.models.attention import dot_product_attention
from deemo_jax.models.hubert import (
    Hubert,
    config_from_dict,
    config_to_dict,
    preprocessor_to_dict,
)
from deemo_jax.pretrained import PretrainedError
from deemo_jax.sharding import make_mesh
from tests.small import HUBERT, drawn

BASE_SHAPED = dataclasses.replace(
    HUBERT,
    feat_extract_norm="group",
    conv_bias=False,
    do_stable_layer_norm=False,
    do_normalize=False,
)
SHAPES = pytest.mark.parametrize("config", [BASE_SHAPED, HUBERT])
# A frame hears 20 samples, every 10 of them.
LENGTHS, COUNTS = jnp.array([200, 111, 19, 0]), [19, 10, 0, 0]


def make(config: HubertConfig, **options) -> Hubert:
    return drawn(lambda: Hubert(config, rngs=nnx.Rngs(0), **options))


@nnx.jit
def call(tower: Hubert, waveform, mask=None):
    return tower(waveform, mask)


@nnx.jit
def hear(tower: Hubert, waveform, lengths):
    return tower.hear(waveform, lengths)


def noise(rows: int, samples: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (rows, samples))


def mask_of(lengths: jax.Array, samples: int) -> jax.Array:
    return jnp.arange(samples)[None] < lengths[:, None]


@SHAPES
def test_a_mask_of_all_samples_is_no_mask(config):
    tower, waveform = make(config), noise(2, 200)
    whole = call(tower, waveform, jnp.ones((2, 200), bool))
    assert whole.shape == (2, 19, 12)
    np.testing.assert_allclose(whole, call(tower, waveform), atol=1e-5)


def test_padding_leaves_no_trace():
    """Each clip of a padded batch as on its own: the norms are of single frames."""
    tower, waveform = make(HUBERT), noise(4, 200)
    mask = mask_of(LENGTHS, 200)
    together = call(tower, jnp.where(mask, waveform, 0.0), mask)
    assert np.isfinite(together).all()
    for row in (0, 1):
        alone = call(tower, waveform[row : row + 1, : int(LENGTHS[row])])
        np.testing.assert_allclose(together[row, : COUNTS[row]], alone[0], atol=1e-5)
    loud = call(tower, jnp.where(mask, waveform, 9.0), mask)
    np.testing.assert_allclose(loud[1, :10], together[1, :10], atol=1e-5)


def test_padding_would_be_heard_without_a_mask():
    tower, waveform = make(HUBERT), noise(1, 111)
    padded = jnp.pad(waveform, ((0, 0), (0, 89)))
    assert np.abs(call(tower, padded)[:, :10] - call(tower, waveform)).max() > 1e-2


@SHAPES
def test_hearing_says_what_it_heard(config):
    tower, waveform = make(config), noise(4, 200)
    features, heard = hear(tower, waveform, LENGTHS)
    assert features.shape == (4, 19, 12)
    assert np.isfinite(features).all()
    assert heard.sum(axis=1).tolist() == COUNTS
    assert heard[1].tolist() == [True] * 10 + [False] * 9
    beyond = jnp.where(mask_of(LENGTHS, 200), waveform, 7.0)
    np.testing.assert_array_equal(hear(tower, beyond, LENGTHS)[0], features)


@pytest.mark.parametrize("do_normalize", [True, False])
def test_loudness_is_taken_away_where_the_clips_are_normalised(do_normalize):
    tower = make(dataclasses.replace(HUBERT, do_normalize=do_normalize))
    waveform, lengths = noise(2, 200), jnp.array([200, 111])
    soft, loud = (hear(tower, x, lengths)[0] for x in (waveform, 2 * waveform + 1))
    assert np.allclose(soft, loud, atol=1e-4) == do_normalize


@functools.cache
def gradients(config, remat="none"):
    weights = jax.random.normal(jax.random.key(2), (4, 19, 12))

    def loss(tower):
        features, heard = tower.hear(noise(4, 200), LENGTHS)
        return (features * weights * heard[..., None]).sum()

    return nnx.jit(nnx.grad(loss))(make(config, remat=remat))


@SHAPES
def test_every_parameter_but_the_one_for_masked_frames_receives_a_gradient(config):
    for path, gradient in nnx.to_flat_state(gradients(config)):
        assert np.isfinite(gradient[...]).all(), path
        reached = bool(np.abs(gradient[...]).max() > 0)
        assert reached == (path != ("masked_spec_embed",)), path


def test_rematerialisation_changes_memory_not_values():
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        gradients(HUBERT, "full"),
        gradients(HUBERT),
    )


def test_half_precision_computes_in_it_and_stays_near():
    full = call(make(HUBERT), noise(2, 200))
    tower = make(HUBERT, dtype=jnp.bfloat16)
    half = call(tower, noise(2, 200))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), full, atol=0.1)
    assert {p.dtype for p in jax.tree.leaves(nnx.state(tower))} == {full.dtype}


def test_attention_can_be_swapped():
    calls = []

    def spy(q, k, v, *, mask):
        calls.append((q.shape, None if mask is None else mask.shape))
        return dot_product_attention(q, k, v, mask=mask)

    tower, lengths = make(HUBERT, attention=spy), jnp.array([200, 111])
    np.testing.assert_array_equal(
        hear(tower, noise(2, 200), lengths)[0],
        hear(make(HUBERT), noise(2, 200), lengths)[0],
    )
    call(tower, noise(2, 200))
    # Traced once for all layers.
    assert calls == [((2, 19, 3, 4), (2, 1, 19, 19)), ((2, 19, 3, 4), None)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv_stride": (5,)}, r"have \[2, 1, 2\] entries; each must have one"),
        ({"conv_dim": (), "conv_stride": (), "conv_kernel": ()}, r"\[0, 0, 0\]"),
        ({"feat_extract_norm": "batch"}, "'batch' is not supported; supported: group"),
        ({"num_conv_pos_embedding_groups": 5}, "12 does not divide into 5 groups"),
        ({"num_attention_heads": 5}, "12 does not divide into 5 attention heads"),
        ({"hidden_act": "tanh"}, "activation 'tanh' is not supported"),
        ({"feat_extract_activation": "tanh"}, "activation 'tanh' is not supported"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(dataclasses.replace(HUBERT, **changes))


@SHAPES
def test_the_configuration_survives_its_file(config):
    values = json.loads(json.dumps(config_to_dict(config)))
    assert config_from_dict(values) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "wav2vec2"}, "'wav2vec2' .*supported: hubert"),
        ({"conv_pos_batch_norm": True}, "conv_pos_batch_norm True in config.json"),
        ({"add_adapter": True}, "add_adapter True in config.json is not supported"),
        ({"adapter_attn_dim": 16}, "adapter_attn_dim 16 in config.json"),
        ({"conv_dim": [5, 7.5]}, r"'conv_dim' in config.json is .* tuple\[int"),
        ({"do_normalize": "yes"}, "'do_normalize' in config.json is 'yes'"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes, message):
    with pytest.raises(PretrainedError, match=message):
        config_from_dict(config_to_dict(HUBERT) | changes)


@pytest.mark.parametrize(
    ("config", "file", "expected"),
    [
        (HUBERT, {"do_normalize": False}, False),
        (BASE_SHAPED, {"do_normalize": True, "sampling_rate": 16_000}, True),
        (BASE_SHAPED, {"feature_size": 1}, True),  # the extractor's own default
        (BASE_SHAPED, None, False),
        (HUBERT, None, True),
    ],
)
def test_a_feature_extractor_beside_the_tower_has_the_say(
    config, file, expected, tmp_path
):
    make(config).save_pretrained(tmp_path)
    beside = tmp_path / "preprocessor_config.json"
    assert json.loads(beside.read_text()) == preprocessor_to_dict(config)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["do_normalize"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    beside.unlink()
    if file is not None:
        beside.write_text(json.dumps(file))
    assert Hubert.from_pretrained(tmp_path).config.do_normalize == expected


def test_another_sampling_rate_is_refused(tmp_path):
    make(BASE_SHAPED).save_pretrained(tmp_path)
    beside = tmp_path / "preprocessor_config.json"
    beside.write_text('{"sampling_rate": 8000}')
    with pytest.raises(PretrainedError, match="sampling_rate 8000 .* audio is 16000"):
        Hubert.from_pretrained(tmp_path)


@pytest.mark.parametrize("mask_time_prob", [0.0, 0.05])
def test_weights_survive_their_file(mask_time_prob, tmp_path):
    tower = make(dataclasses.replace(HUBERT, mask_time_prob=mask_time_prob))
    assert (tower.masked_spec_embed is None) == (mask_time_prob == 0)
    tower.save_pretrained(tmp_path)
    again = Hubert.from_pretrained(tmp_path)
    assert again.config == tower.config
    jax.tree.map(np.testing.assert_array_equal, nnx.state(again), nnx.state(tower))


def test_a_mesh_changes_nothing(tmp_path):
    make(HUBERT).save_pretrained(tmp_path)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    lengths = jnp.array([200, 111, 200, 30])
    alone, _ = hear(make(HUBERT), noise(4, 200), lengths)
    with jax.set_mesh(mesh):
        tower = Hubert.from_pretrained(tmp_path, mesh=mesh)
        spread, _ = hear(tower, noise(4, 200), lengths)
    kernel = tower.layers.fc1.kernel[...]
    assert kernel.addressable_shards[0].data.shape == (3, 6, 10)
    np.testing.assert_allclose(spread, alone, atol=1e-5)


LARGE = dataclasses.replace(
    HUBERT,
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    conv_dim=(512,) * 7,
    conv_stride=(5, 2, 2, 2, 2, 2, 2),
    conv_kernel=(10, 3, 3, 3, 3, 2, 2),
    num_conv_pos_embeddings=128,
    num_conv_pos_embedding_groups=16,
)


def test_large_has_the_right_shapes_without_memory():
    tower = nnx.eval_shape(lambda: Hubert(LARGE, rngs=nnx.Rngs(0)))
    count = sum(p.size for p in jax.tree.leaves(nnx.state(tower)))
    assert count == 315_438_720  # facebook/hubert-large-ll60k
    graphdef, params = nnx.split(tower)
    features = jax.eval_shape(
        lambda params, waveform: nnx.merge(graphdef, params)(waveform),
        params,
        jax.ShapeDtypeStruct((1, 80_000), jnp.float32),
    )
    assert features.shape == (1, 249, 1024)
