"""What `deemo convert` writes is whole and reads as its source did, or nothing is."""

import importlib.util
import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import torch
import transformers

from deemo_jax import cli
from deemo_jax.export import convert as module
from deemo_jax.export.convert import convert
from deemo_jax.export.parity import ExportError
from deemo_jax.models.llama import Llama
from deemo_jax.pretrained import PretrainedError
from tests.export.test_folder import tokenizer  # noqa: F401

transformers.utils.logging.disable_progress_bar()

FIELDS = {
    "vocab_size": 37,
    "hidden_size": 12,
    "intermediate_size": 17,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": [2, 7],
    "rope_parameters": {"rope_type": "linear", "rope_theta": 777.0, "factor": 2.0},
}


@pytest.fixture
def hub(tmp_path, tokenizer):  # noqa: F811
    """A folder as the hub has it, in several files, with all that lies about there."""
    torch.manual_seed(0)
    folder = tmp_path / "hub"
    twin = transformers.LlamaForCausalLM(transformers.LlamaConfig(**FIELDS))
    twin.save_pretrained(folder, max_shard_size="4KB")
    tokenizer.save_pretrained(folder)
    (folder / "LICENSE").write_text("ours")
    (folder / "notes.txt").write_text("not carried")
    return folder


def tensors(folder):
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def logits(model):
    return np.asarray(model(jnp.asarray([[1, 5, 9, 36]])))


def test_a_hub_folder_becomes_one_that_we_and_pytorch_read(hub, tmp_path):
    done = convert(hub, tmp_path / "deep" / "ours")
    ours = tmp_path / "deep" / "ours"
    expected = tensors(hub)
    assert tensors(ours).keys() == expected.keys()
    for name, value in tensors(ours).items():
        np.testing.assert_array_equal(value, expected[name])
    assert done.tensors == len(expected)
    assert done.parameters == sum(value.size for value in expected.values())
    assert (done.dtype, done.nbytes) == ("float32", 4 * done.parameters)
    again = transformers.AutoModelForCausalLM.from_pretrained(ours)
    assert again.config.eos_token_id == [2, 7]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(hub)
    assert again.config.rope_parameters["factor"] == 2.0
    for name, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    np.testing.assert_array_equal(
        logits(Llama.from_pretrained(ours)), logits(Llama.from_pretrained(hub))
    )
    assert [path.name for path in ours.parent.iterdir()] == ["ours"]


def test_what_belongs_to_a_checkpoint_is_carried_along(hub, tmp_path):
    convert(hub, tmp_path / "ours")
    names = {path.name for path in (tmp_path / "ours").iterdir()}
    assert names == {
        "LICENSE",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for name in ("LICENSE", "tokenizer.json", "generation_config.json"):
        assert (tmp_path / "ours" / name).read_bytes() == (hub / name).read_bytes()


def test_our_folder_goes_round(hub, tmp_path):
    Llama.from_pretrained(hub).save_pretrained(tmp_path / "saved")
    convert(tmp_path / "saved", tmp_path / "once")
    convert(tmp_path / "once", tmp_path / "twice")
    for name in ("config.json", "model.safetensors"):
        once = (tmp_path / "once" / name).read_bytes()
        assert (tmp_path / "twice" / name).read_bytes() == once
        if name == "config.json":
            assert json.loads(once) == json.loads(
                (tmp_path / "saved" / name).read_text()
            )
    assert tensors(tmp_path / "saved").keys() == tensors(tmp_path / "once").keys()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_weights_are_cast_and_the_config_says_so(dtype, hub, tmp_path):
    assert convert(hub, tmp_path / "ours", dtype=dtype).dtype == dtype
    for name, value in tensors(tmp_path / "ours").items():
        assert value.dtype.name == dtype
        np.testing.assert_array_equal(value, tensors(hub)[name].astype(value.dtype))
    twin = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", dtype="auto"
    )
    assert twin.dtype == getattr(torch, dtype)
    kept = convert(tmp_path / "ours", tmp_path / "kept")
    assert kept.dtype == dtype
    assert json.loads((tmp_path / "kept/config.json").read_text())["dtype"] == dtype


def test_what_is_repeated_or_follows_is_left_out(hub, tmp_path):
    whole = tensors(hub)
    for file in hub.glob("model*"):
        file.unlink()
    extra = {
        "lm_head.weight": whole["model.embed_tokens.weight"],
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(3, np.float32),
    }
    save_file(whole | extra, hub / "model.safetensors")
    convert(hub, tmp_path / "ours")
    assert tensors(tmp_path / "ours").keys() == whole.keys()


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def break_(hub, what):
    if what == "pickle":
        for file in hub.glob("model*"):
            file.unlink()
        (hub / "pytorch_model.bin").touch()
    elif what == "shard":
        next(hub.glob("model-00002*")).unlink()
    elif what == "truncated":
        file = next(hub.glob("model-00002*"))
        file.write_bytes(file.read_bytes()[:-1])
    elif what == "NaN":
        file = next(hub.glob("model-00002*"))
        values = load_file(file)
        next(iter(values.values())).flat[0] = np.nan
        save_file(values, file)
    else:
        change_config(hub, **what)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("pickle", r"only pickled weights \(pytorch_model.bin\)"),
        ("shard", r"shard 'model-00002-of-.*' of .* is missing"),
        ("truncated", r"model-00002-of-.* bytes\) is not a whole safetensors file"),
        ("NaN", r"weight in .* holds NaN or infinity"),
        ({"model_type": "mistral"}, "model_type 'mistral' .* supported: llama"),
        ({"hidden_act": "relu6"}, "activation 'relu6' is not supported"),
        ({"intermediate_size": 18}, r"has shape \[12, 17\], .* makes it \[12, 18\]"),
        ({"num_hidden_layers": 3}, "9 tensors .* missing"),
        ({"num_hidden_layers": 1}, "9 tensors .* left over"),
        ({"num_key_value_heads": 3}, "num_attention_heads is 4 and num_key_value_h"),
        ({"head_dim": 5}, "head_dim is 5; .* make it even"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2}}, "'dynamic'"),
        ({"vocab_size": 9}, r"token '.*' with id 12, but vocab_size .* is 9; take"),
    ],
    ids=str,
)
def test_a_broken_source_is_refused_by_name_and_leaves_nothing(
    what, message, hub, tmp_path
):
    break_(hub, what)
    with pytest.raises((PretrainedError, ExportError, ValueError), match=message):
        convert(hub, tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_what_stands_at_the_output_stays(hub, tmp_path):
    for taken in (hub, hub / "LICENSE"):
        with pytest.raises(ExportError, match="is not an empty folder; choose one"):
            convert(hub, taken)
    (tmp_path / "empty").mkdir()
    convert(hub, tmp_path / "empty")
    with pytest.raises(ExportError, match="nowhere does not exist; give"):
        convert(tmp_path / "nowhere", tmp_path / "ours")


def test_the_verb_says_what_it_wrote_and_refuses_other_dtypes(hub, tmp_path, capsys):
    words = ["convert", f"--input={hub}", f"--output={tmp_path / 'ours'}"]
    assert cli.main([*words, "--dtype=int4"]) == 2
    assert "--dtype is 'int4'; it must be one of keep" in capsys.readouterr().err
    assert cli.main([*words, "--dtype=bfloat16"]) == 0
    assert "3,456 parameters in 20 tensors, bfloat16" in capsys.readouterr().out
    assert cli.main(words) == 1
    assert "is not an empty folder" in capsys.readouterr().err


def test_a_gguf_without_its_reader_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ExportError, match=r"gguf is not installed; pip install"):
        convert(tmp_path / "a.gguf", tmp_path / "ours")


@pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None, reason="gguf is not installed"
)
def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF" * 9)
    with pytest.raises(ExportError, match=r"a.gguf \(36 bytes\) is no whole GGUF file"):
        convert(tmp_path / "a.gguf", tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_shapes_are_checked_before_anything_is_written(hub, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("written")

    monkeypatch.setattr(module, "write_weights", refuse)
    change_config(hub, hidden_size=13)
    with pytest.raises(PretrainedError, match="has shape"):
        convert(hub, tmp_path / "ours")
