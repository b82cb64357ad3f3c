"""A model of random weights and odd sizes, exported, is the same model in PyTorch."""

import dataclasses
import fnmatch
import functools
import json
from pathlib import Path
import shutil

from flax import nnx
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import torch
import transformers

from deemo_jax import pretrained
from deemo_jax.architecture import MlpConfig
from deemo_jax.export import parity
from deemo_jax.export.card import Card
from deemo_jax.export.folder import AUTO_MAP, CODE, export
from deemo_jax.export.parity import ExportError
from deemo_jax.loss import cross_entropy_sums
from deemo_jax.models.deemo_llama import DeemoLlama, table
from deemo_jax.pretrained import write
from tests.small import HUBERT, ODD, SIGLIP, drawn

transformers.utils.logging.disable_progress_bar()

OTHER = dataclasses.replace(
    ODD,
    vision_tower=dataclasses.replace(
        ODD.vision_tower, num_hidden_layers=1, hidden_act="gelu", patch_size=3
    ),
    audio_tower=dataclasses.replace(
        ODD.audio_tower, num_mel_bins=80, max_source_positions=40
    ),
    audio_connector=dataclasses.replace(
        ODD.audio_connector, num_hidden_layers=1, max_positions=3
    ),
    language_model=dataclasses.replace(
        ODD.language_model,
        num_key_value_heads=4,
        head_dim=6,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        rope_theta=10_000.0,
    ),
    vision_feature_layer=-1,
    audio_frames_per_position=14,
)
POOLED = dataclasses.replace(
    ODD,
    video_connector=MlpConfig(
        hidden_size=13,
        encoder_hidden_size=14,
        max_positions=6,
        num_query_tokens=3,
        hidden_act="gelu",
    ),
    audio_connector=MlpConfig(
        hidden_size=10,
        encoder_hidden_size=18,
        max_positions=8,
        num_query_tokens=2,
        hidden_act="gelu_pytorch_tanh",
    ),
)


# Compiled in half the time; what is compiled computes the same.
QUICK = {"xla_backend_optimization_level": 0}


class Words:
    """As much of a tokenizer as a folder needs."""

    pad_token_id, bos_token_id, eos_token_id, padding_side = 0, 1, 2, "right"

    def __len__(self):
        return 41

    def convert_ids_to_tokens(self, token_id):
        return f"<{token_id}>"

    def save_pretrained(self, folder):
        (folder / "tokenizer_config.json").write_text("{}")


def make(config, seed=0):
    """Every weight and bias far enough from zero to be heard; nothing is compiled."""
    model = drawn(lambda: DeemoLlama(config, rngs=nnx.Rngs(0)), seed)

    def around_one(path, variable):
        value = variable.get_value()
        return variable.replace(1 + value if path[-1] == "scale" else value)

    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    nnx.update(model, nnx.from_flat_state([(p, around_one(p, v)) for p, v in flat]))
    return model


OTHER_TOWERS = dataclasses.replace(
    ODD,
    vision_tower=SIGLIP,
    audio_tower=dataclasses.replace(
        HUBERT, conv_dim=(5, 7, 6), conv_kernel=(10, 8, 9), conv_stride=(5, 8, 8)
    ),
    audio_connector=dataclasses.replace(ODD.audio_connector, encoder_hidden_size=12),
)
SLOW = ("other", "pooled")
MODELS = {
    "odd": ODD,
    "other": OTHER,
    "pooled": POOLED,
    "siglip and hubert": OTHER_TOWERS,
}


@pytest.fixture(
    scope="module",
    params=[
        # What these two have that the others have not, the parts' own tests hold.
        pytest.param(model, id=name, marks=[pytest.mark.slow] * (name in SLOW))
        for name, model in MODELS.items()
    ],
)
def exported(request, tmp_path_factory):
    """A model, its folder, and what was measured."""
    model = make(request.param)
    folder = tmp_path_factory.mktemp("export") / "model"
    batches = [parity.random_batch(request.param, seed=seed) for seed in (1, 2)]
    measured = export(
        model,
        Words(),
        folder,
        card=Card(name="tiny", data="noise"),
        batches=batches,
        max_new_tokens=12,
    )
    return model, folder, measured


def test_logits_and_greedy_text_are_the_same(exported):
    _, folder, measured = exported
    assert measured["passed"]
    assert measured["max_abs_difference"] < 1e-4
    assert measured["greedy_text_equal"]
    assert measured["top1_agreement"] == 1.0
    assert measured["kl"] < 1e-9
    assert measured["rows"] == 8
    assert measured["greedy_tokens"] > 40
    assert json.loads((folder / "parity.json").read_text()) == measured


def test_gradients_of_every_parameter_are_the_same(exported, tmp_path):
    model, folder, _ = exported
    batch = parity.random_batch(model.config, seed=4)
    batch = jax.tree.map(jax.numpy.asarray, batch)
    write(tmp_path, table(model.config), our_gradients(model, batch), {})
    found = load_file(tmp_path / "model.safetensors")
    gradients = their_gradients(parity.load_twin(folder), batch)
    assert found.keys() == gradients.keys()
    moved = set()
    for name, gradient in gradients.items():
        if gradient is None:
            # Whisper's positions, which PyTorch holds fast; layers beyond the one read.
            assert name.endswith("embed_positions.weight") or not found[name].any()
            continue
        assert np.abs(found[name] - gradient).max() < 1e-4, name
        if np.abs(gradient).max() > 1e-3:
            moved.add(name.split(".")[0])
    assert moved == {name.split(".")[0] for name in gradients}  # every part is heard


def our_gradients(model, batch):
    graphdef, params = nnx.split(model)

    @functools.partial(jax.jit, compiler_options=QUICK)
    @jax.grad
    def slope(params):
        logits = nnx.merge(graphdef, params)(batch)
        sums = cross_entropy_sums(logits, batch.tokens, batch.loss_mask)
        return sums["loss"] / sums["tokens"]

    with jax.default_matmul_precision("highest"):
        return slope(params)


def their_gradients(twin, batch):
    labels = np.where(batch.loss_mask, batch.tokens, -100).astype(np.int64)
    twin(**parity._inputs(batch), labels=torch.from_numpy(labels)).loss.backward()
    return {
        name: None if value.grad is None else value.grad.numpy()
        for name, value in twin.named_parameters()
    }


def test_the_folder_comes_back_into_jax(exported):
    model, folder, _ = exported
    again = DeemoLlama.from_pretrained(folder)
    batch = parity.random_batch(model.config, seed=3)
    np.testing.assert_array_equal(
        np.asarray(parity._logits(model, batch)),
        np.asarray(parity._logits(again, batch)),
    )


def test_parity_is_measured_in_float32_only(exported):
    _, folder, _ = exported
    half = drawn(lambda: DeemoLlama(ODD, rngs=nnx.Rngs(0), dtype=jax.numpy.bfloat16))
    with pytest.raises(ValueError, match="bfloat16"):
        check(folder, half)


def check(folder, model, batch=None):
    return parity.verify(
        folder,
        model,
        [batch or parity.random_batch(model.config, seed=1)],
        eos_token_id=2,
        pad_token_id=0,
        max_new_tokens=2,
    )


def set_config(*keys, value):
    def plant(folder: Path):
        path = folder / "config.json"
        fields = json.loads(path.read_text())
        inner = fields
        for key in keys[:-1]:
            inner = inner[key]
        assert inner[keys[-1]] != value
        inner[keys[-1]] = value
        path.write_text(json.dumps(fields))

    return plant


def edit(change):
    def plant(folder: Path):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return plant


def swap(tensors, left, right):
    tensors[left], tensors[right] = tensors[right], tensors[left]


def nudge(tensors, name):
    tensors[name] = tensors[name] + np.float32(0.05)


def grow(tensors, pattern):
    """As queries are when attention is scaled by another head_dim."""
    for name in fnmatch.filter(tensors, pattern):
        tensors[name] = tensors[name] * np.float32(1.1)


def transpose(tensors, name):
    tensors[name] = np.ascontiguousarray(tensors[name].T)


def recode(old, new):
    """Changes the model's code; a new configuration's class makes it be looked at."""

    def plant(folder: Path):
        [path] = [folder / name for name in CODE if old in (folder / name).read_text()]
        path.write_text(path.read_text().replace(old, new))
        with (folder / CODE[0]).open("a") as file:
            file.write(f"# {new}\n")

    return plant


SQUARE = "video_connector.qformer.encoder.layer.1.attention.attention.value.weight"
POSITIONS = "audio_connector.position_embedding.weight"
FAULTS = {
    "rope theta": set_config(
        "text_config",
        "rope_parameters",
        value={"rope_type": "default", "rope_theta": 10_000.0},
    ),
    "gelu for quick_gelu": set_config("vision_config", "hidden_act", value="gelu"),
    "decoder's eps": set_config("text_config", "rms_norm_eps", value=1e-6),
    "tower's eps": set_config("vision_config", "layer_norm_eps", value=1e-5),
    "hidden layer off by one": set_config("vision_feature_layer", value=-1),
    "channels' mean": set_config("image_mean", value=[0.5, 0.5, 0.5]),
    "queries for keys": edit(
        lambda t: swap(
            t,
            "audio_tower.layers.0.self_attn.q_proj.weight",
            "audio_tower.layers.0.self_attn.k_proj.weight",
        )
    ),
    "transposed kernel": edit(lambda t: transpose(t, SQUARE)),
    "scale of attention": edit(lambda t: grow(t, "language_model.*.q_proj.weight")),
    "untied head": edit(lambda t: nudge(t, "language_model.lm_head.weight")),
    "unmasked padding": recode("attention_mask=attention_mask", "attention_mask=None"),
    "one bias": edit(lambda t: nudge(t, "audio_connector.projection.bias")),
    "one norm": edit(lambda t: nudge(t, "video_connector.encoder_layernorm.weight")),
    "one position": edit(lambda t: nudge(t, POSITIONS)),
    "order of media": recode("order < count", "order < count - 1"),
    "unmasked frames": recode("frame_mask.bool()", "torch.ones_like(frame_mask)"),
    "unmasked audio": recode("begin[None] <", "0 * begin[None] <"),
    "mel floor": recode("loudest - 8.0", "loudest - 4.0"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The odd model and a sound folder of it, for errors to be planted in copies."""
    model = make(ODD)
    folder = tmp_path_factory.mktemp("sound") / "model"
    export(model, Words(), folder, card=Card(name="t", data="n"), verify=False)
    return model, folder


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_planted_error_is_caught(sound, tmp_path, fault):
    model, folder = sound
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    fault(copy)
    measured = check(copy, model)
    assert not measured["passed"]
    far = measured["max_abs_difference"] > parity.TOLERANCE
    assert far or not measured["greedy_text_equal"]


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (edit(lambda t: t.pop("audio_tower.conv1.bias")), "missing keys"),
        (edit(lambda t: t.update(extra=np.zeros(3, np.float32))), "unexpected keys"),
    ],
    ids=["missing", "left over"],
)
@pytest.mark.filterwarnings("ignore")
def test_a_tensor_missing_or_left_over_is_named(sound, tmp_path, plant, words):
    model, folder = sound
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    plant(copy)
    with pytest.raises(ExportError, match=words):
        check(copy, model)


def test_an_export_that_differs_is_not_left_behind(sound, tmp_path, monkeypatch):
    model, _ = sound
    output = tmp_path / "model"
    verify = parity.verify

    def another(folder, model, *args, **kwargs):
        return verify(folder, make(ODD, seed=1), *args, **kwargs)

    monkeypatch.setattr("deemo_jax.export.parity.verify", another)
    with pytest.raises(ExportError, match="logits differ by up to"):
        export(model, Words(), output, card=Card(name="t", data="n"), max_new_tokens=2)
    assert list(tmp_path.iterdir()) == []


def test_large_weights_lie_in_several_files(sound, tmp_path, monkeypatch):
    model, whole = sound
    cut = functools.partial(pretrained.write, shard_bytes=20_000)
    monkeypatch.setattr("deemo_jax.pretrained.write", cut)
    output = tmp_path / "model"
    export(model, Words(), output, card=Card(name="t", data="n"), verify=False)
    files = sorted(output.glob("*.safetensors"))
    assert len(files) > 3
    assert all(path.stat().st_size < 30_000 for path in files)
    index = json.loads((output / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in files}
    expected = parity.load_twin(whole).state_dict()
    found = parity.load_twin(output).state_dict()
    assert found.keys() == expected.keys()
    assert all((found[name] == value).all() for name, value in expected.items())


def test_the_map_names_classes_of_the_code():
    for name in AUTO_MAP.values():
        module, cls = name.split(".")
        assert f"{module}.py" in CODE
        text = (Path(parity.__file__).parent / f"{module}.py").read_text()
        assert f"class {cls}(" in text
