"""Agreement with transformers' HuBERT: what it hears, and its folders both ways."""

import dataclasses
import json
from typing import Any

from flax import nnx
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import torch
from transformers import (
    HubertConfig,
    HubertForCTC,
    HubertForSequenceClassification,
    HubertModel,
    Wav2Vec2FeatureExtractor,
)

from deemo_jax.models.hubert import Hubert, config_from_dict, table
from deemo_jax.models.hubert_features import normalise
from deemo_jax.pretrained import PretrainedError
from tests.small import marked

# Sizes that no other equals.
SIZES: dict[str, Any] = {
    "hidden_size": 18,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 26,
    "layer_norm_eps": 1e-3,
    "conv_dim": [7, 11, 13],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 6,
}
LARGE = {
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "base":                         {},
    "base, unnormed projection":    {"feat_proj_layer_norm": False},
    "base, odd taps, one group":    {"num_conv_pos_embeddings": 5,
                                     "num_conv_pos_embedding_groups": 1},
    "base, biases, no mask vector": {"conv_bias": True, "mask_time_prob": 0.0},
    "large":                        LARGE,
    "large, unnormed projection":   LARGE | {"feat_proj_layer_norm": False},
    "large, other activations":     LARGE | {"hidden_act": "silu",
                                     "feat_extract_activation": "gelu_pytorch_tanh"},
    "large, two convolutions":      LARGE | {"conv_dim": [7, 11],
                                     "conv_kernel": [6, 4], "conv_stride": [3, 4]},
}  # fmt: skip
LENGTHS = (500, 331, 97)
SOUND = [
    (0.1 * np.random.default_rng(length).standard_normal(length) + 0.02).astype("f4")
    for length in LENGTHS
]
PADDED = np.stack([np.pad(row, (0, 500 - len(row))) for row in SOUND])
MASK = np.arange(500)[None] < np.array(LENGTHS)[:, None]


def build(cls: Any = HubertModel, **changes: Any) -> Any:
    """A model with every parameter drawn anew, the norms' and the gains' too."""
    model = cls(HubertConfig(**SIZES | changes))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + 0.2 * torch.randn_like(parameter))
    return model.eval()


def last_hidden_state(model: Any, mask: np.ndarray | None) -> np.ndarray:
    attention_mask = None if mask is None else torch.from_numpy(mask).long()
    with torch.no_grad():
        output = model(torch.from_numpy(PADDED), attention_mask=attention_mask)
    return output.last_hidden_state.numpy()


@pytest.mark.parametrize(
    "changes",
    marked(
        VARIANTS,
        "base",
        "base, odd taps, one group",
        "large",
        "large, two convolutions",
    ),
)
def test_every_variant_agrees_both_ways(changes, tmp_path):
    theirs = build(**changes)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = Hubert.from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    reader: Any = HubertModel
    again, loading = reader.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(loading.values()), loading
    call = nnx.jit(lambda tower, *inputs: tower(*inputs))
    for mask in (None, MASK):
        expected = last_hidden_state(theirs, mask)
        inputs = [jnp.asarray(x) for x in (PADDED, mask) if x is not None]
        np.testing.assert_allclose(call(ours, *inputs), expected, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(last_hidden_state(again.eval(), mask), expected)


@pytest.mark.parametrize("do_normalize", [True, False])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_hearing_is_the_feature_extractor_and_the_tower(norm, do_normalize, tmp_path):
    theirs = build(**LARGE if norm == "layer" else {})
    theirs.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(do_normalize=do_normalize).save_pretrained(tmp_path)
    ours = Hubert.from_pretrained(tmp_path)
    assert ours.config.do_normalize == do_normalize
    ours.save_pretrained(tmp_path)
    extractor: Any = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    assert extractor.do_normalize == do_normalize
    inputs = extractor(
        SOUND,
        sampling_rate=16_000,
        padding=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        expected = theirs(**inputs).last_hidden_state
        frame_mask = theirs._get_feature_vector_attention_mask(
            expected.shape[1], inputs["attention_mask"]
        )
    # What stands in the padding must not matter, as it does not where there is none.
    waveform = np.where(MASK, PADDED, 9.0).astype(np.float32)
    features, heard = ours.hear(jnp.asarray(waveform), jnp.asarray(LENGTHS))
    np.testing.assert_array_equal(heard, frame_mask.numpy())
    np.testing.assert_allclose(features, expected.numpy(), rtol=0, atol=1e-4)


def test_normalised_sound_is_the_feature_extractors():
    """Thirty seconds, half of them padding; far from 0 and from variance 1."""
    generator = np.random.default_rng(0)
    rows = [
        (0.05 * generator.standard_normal(length) - 0.3).astype(np.float32)
        for length in (480_000, 240_001)
    ]
    expected = Wav2Vec2FeatureExtractor(return_attention_mask=True)(
        rows, sampling_rate=16_000, padding=True, return_tensors="np"
    )["input_values"]
    padded = np.stack([np.pad(row, (0, 480_000 - len(row))) for row in rows])
    mask = np.arange(480_000)[None] < np.array([480_000, 240_001])[:, None]
    found = normalise(jnp.asarray(padded), jnp.asarray(mask))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_older_names_of_weight_norm_are_read(tmp_path):
    theirs = build()
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    older = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in tensors.items()
    }
    assert len(older.keys() - tensors.keys()) == 2
    save_file(older, file, metadata={"format": "pt"})
    ours = Hubert.from_pretrained(tmp_path)
    expected = last_hidden_state(theirs, None)
    np.testing.assert_allclose(ours(jnp.asarray(PADDED)), expected, rtol=0, atol=1e-4)
    ours.save_pretrained(tmp_path)
    assert load_file(file).keys() == tensors.keys()


@pytest.mark.parametrize(
    ("cls", "changes"),
    [
        (HubertForCTC, {"vocab_size": 9}),
        (HubertForSequenceClassification, {"use_weighted_layer_sum": True}),
    ],
)
def test_a_tower_under_a_head_is_found(cls, changes, tmp_path):
    whole = build(cls, **LARGE, **changes)
    whole.save_pretrained(tmp_path)
    ours = Hubert.from_pretrained(tmp_path)(jnp.asarray(PADDED), jnp.asarray(MASK))
    expected = last_hidden_state(whole.hubert, MASK)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


PUBLISHED: dict[str, dict[str, Any]] = {
    "base": {},
    "large": LARGE
    | {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    "xlarge": LARGE
    | {
        "hidden_size": 1280,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "intermediate_size": 5120,
    },
}


@pytest.mark.parametrize("changes", PUBLISHED.values(), ids=PUBLISHED)
def test_published_sizes_have_the_names_and_shapes_of_transformers(changes):
    with torch.device("meta"):
        theirs = HubertModel(HubertConfig(**changes))
    expected = {name: tuple(x.shape) for name, x in theirs.state_dict().items()}
    config = config_from_dict({"model_type": "hubert", **changes})
    state = nnx.state(nnx.eval_shape(lambda: Hubert(config, rngs=nnx.Rngs(0))))
    rows = {row.path: row for row in table(config)}
    found = {}
    for path, variable in nnx.to_flat_state(state):
        row = rows["/".join(map(str, path))]
        for name in row.names(variable.shape):
            found[name] = row.tensor_shape(variable.shape)
    assert found == expected


def test_what_a_file_leaves_out_is_as_in_transformers():
    values = HubertConfig().to_dict()
    config = config_from_dict({"model_type": "hubert"})
    for field in dataclasses.fields(config):
        if field.name != "do_normalize":  # the feature extractor's
            value = getattr(config, field.name)
            assert value == type(value)(values[field.name]), field.name


def test_a_file_that_contradicts_its_config_is_refused(tmp_path):
    build().save_pretrained(tmp_path)
    for changes, message in (
        (
            {"conv_bias": True},
            r"feature_extractor\.conv_layers\.0\.conv\.bias.*missing",
        ),
        ({"feat_proj_layer_norm": False}, r"feature_projection\.layer_norm.*left over"),
        ({"num_conv_pos_embeddings": 9}, r"original0 .* makes it \[1, 1, 9\]"),
        ({"mask_time_prob": 0.0}, r"masked_spec_embed\) left over"),
        ({"num_hidden_layers": 2}, r"encoder\.layers\.2\..* left over"),
        ({"conv_pos_batch_norm": True}, "conv_pos_batch_norm True .* not supported"),
    ):
        config = tmp_path / "config.json"
        before = config.read_text()
        config.write_text(json.dumps(json.loads(before) | changes))
        with pytest.raises(PretrainedError, match=message):
            Hubert.from_pretrained(tmp_path)
        config.write_text(before)
