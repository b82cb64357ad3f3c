"""The exported folder: what it holds, what it refuses, and that it stands alone."""

import dataclasses
import json
from pathlib import Path
import subprocess
import sys

from flax import nnx
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
import transformers

from deemo_jax.annotation import load_taxonomy
from deemo_jax.export.card import Card
from deemo_jax.export.folder import export
from deemo_jax.export.parity import ExportError, random_batch
from deemo_jax.models.deemo_llama import DeemoLlama
from tests.small import ODD, drawn

transformers.utils.logging.disable_progress_bar()

CONFIG = dataclasses.replace(
    ODD,
    language_model=dataclasses.replace(
        ODD.language_model, vocab_size=16, tie_word_embeddings=True
    ),
)
CARD = Card(name="tiny", data="noise", metrics={"recognition": {"accuracy": 0.5}})


@pytest.fixture(scope="module")
def tokenizer():
    words = "<pad> <s> </s> <video> <audio> how does she feel user: assistant: yes no"
    vocabulary = {word: token for token, word in enumerate(words.split())}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="no"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<video>", "<audio>"],
        chat_template=(
            "<s> {% for m in messages %}user: {{ m.content }} {% endfor %}assistant:"
        ),
    )


@pytest.fixture(scope="module")
def model():
    return drawn(lambda: DeemoLlama(CONFIG, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory):
    """A folder that was verified, written where nothing was."""
    output = tmp_path_factory.mktemp("export") / "deep" / "model-1.0"
    export(
        model,
        tokenizer,
        output,
        card=CARD,
        taxonomy=load_taxonomy(),
        batches=[random_batch(CONFIG, seed=0)],
        max_new_tokens=4,
    )
    return output


def test_everything_is_there(folder):
    assert {path.name for path in folder.iterdir()} >= {
        "README.md",
        "config.json",
        "configuration_deemo_llama.py",
        "generation_config.json",
        "model.safetensors",
        "modeling_deemo_llama.py",
        "parts_deemo_llama.py",
        "parity.json",
        "processing_deemo_llama.py",
        "processor_config.json",
        "taxonomy.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert not list(folder.rglob("*.pyc"))


def test_the_files_agree_with_each_other(folder):
    read = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    text = read["config"]["text_config"]
    assert text["rope_theta"] == text["rope_parameters"]["rope_theta"] == 500.0
    for place in (read["config"], text, read["generation_config"]):
        assert [place[f"{name}_token_id"] for name in ("pad", "bos", "eos")] == [
            0,
            1,
            2,
        ]
    assert read["taxonomy"]["emotions"] == ["positive", "negative"]
    card = (folder / "README.md").read_text()
    assert f"at most {read['parity']['max_abs_difference']:.2g}" in card
    assert "AutoProcessor.from_pretrained(folder" in card
    processor = read["processor_config"]
    assert processor["auto_map"] == {
        "AutoProcessor": read["config"]["auto_map"]["AutoProcessor"]
    }
    assert "| recognition.accuracy | 0.5 |" in card


def test_the_tokenizer_comes_back_padding_left(folder, tokenizer):
    again = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    assert again.padding_side == "left"
    assert tokenizer.padding_side == "right"
    padded = again(["<s> how", "<s> how does <video>"], padding=True)
    assert padded.input_ids == [[0, 0, 1, 5], [1, 5, 6, 3]]


READER = """
import sys, socket, logging, warnings
warnings.simplefilter("error")
sys.modules["deemo_jax"] = sys.modules["jax"] = None
def refuse(*args, **kwargs): raise AssertionError("the network was used")
socket.socket.connect = socket.getaddrinfo = refuse
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor
folder = sys.argv[1]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules"), type(model)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules"), type(processor)
prompts = [processor.prompt(" how", audio=False),
           processor.prompt(" how does she feel", video=False)]
frames = torch.zeros(3, 20, 40, 3, dtype=torch.uint8)
inputs = processor(
    text=prompts, videos=[list(frames), None], audio=[None, torch.zeros(4000)])
answer = model.generate(**inputs, max_new_tokens=3)
print(tuple(inputs.input_ids.shape), answer.shape[0], model.dtype)
"""


def test_it_stands_alone(folder, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", READER, str(folder)],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["(2,", "9)", "2", "torch.float32"]
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert [line for line in lines if "Loading weights" not in line] == []


def test_an_earlier_export_is_replaced_whole(model, tokenizer, tmp_path):
    output = tmp_path / "model"
    output.mkdir()
    for data in ("first", "second"):
        card = dataclasses.replace(CARD, data=data)
        measured = export(model, tokenizer, output, card=card, verify=False)
        assert measured is None
        assert f"`{data}`" in (output / "README.md").read_text()
        assert not (output / "stale").exists()
        (output / "stale").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (output / "parity.json").exists()
    assert "Not measured" in (output / "README.md").read_text()


def test_what_is_not_ours_is_left_alone(model, tokenizer, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("Dear")
    (tmp_path / "file").write_text("text")
    for name, words in (("letters", "no earlier export"), ("file", "is a file")):
        with pytest.raises(ExportError, match=words):
            export(model, tokenizer, tmp_path / name, card=CARD, verify=False)
    assert (tmp_path / "letters" / "dear.txt").read_text() == "Dear"
    assert (tmp_path / "file").read_text() == "text"


def test_a_failure_leaves_the_earlier_export(
    model, tokenizer, folder, tmp_path, monkeypatch
):
    output = tmp_path / "model"
    export(model, tokenizer, output, card=CARD, verify=False)
    before = {path.name: path.read_bytes() for path in output.iterdir()}

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("deemo_jax.export.parity.verify", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(model, tokenizer, output, card=CARD)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_tokenizer_that_does_not_fit_is_refused(model, tokenizer, tmp_path):
    larger = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({str(i): i for i in range(99)})),
    )
    with pytest.raises(ExportError, match="99 tokens .* vocab_size is 16"):
        export(model, larger, tmp_path / "a", card=CARD, verify=False)
    endless = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0})), pad_token="a"
    )
    with pytest.raises(ExportError, match="no eos_token_id"):
        export(model, endless, tmp_path / "b", card=CARD, verify=False)
    assert list(tmp_path.iterdir()) == []


def test_the_terms_of_what_training_began_with_go_along(model, tokenizer, tmp_path):
    llama, clip = tmp_path / "bases" / "llama", tmp_path / "bases" / "clip"
    for folder in (llama, clip, llama / "LICENSES"):
        folder.mkdir(parents=True)
    (llama / "LICENSE.txt").write_text("terms")
    (llama / "USE_POLICY.md").write_text("policy")
    (llama / "config.json").write_text("{}")
    card = dataclasses.replace(CARD, started_from=(str(llama), str(clip), "a/hubert"))
    export(model, tokenizer, tmp_path / "first", card=card, verify=False)
    licences = tmp_path / "first" / "licences"
    files = {str(path.relative_to(licences)) for path in licences.rglob("*.*")}
    assert files == {"llama/LICENSE.txt", "llama/USE_POLICY.md"}
    assert (licences / "llama" / "LICENSE.txt").read_text() == "terms"
    text = (tmp_path / "first" / "README.md").read_text()
    assert "That of `llama` is in `licences/`" in text
    assert "No licence file was found with `clip`, `a/hubert`" in text
    assert str(tmp_path) not in text
    # What begins with that export hands them on.
    card = dataclasses.replace(CARD, started_from=(str(tmp_path / "first"),))
    export(model, tokenizer, tmp_path / "second", card=card, verify=False)
    inherited = tmp_path / "second" / "licences" / "first" / "licences" / "llama"
    assert (inherited / "LICENSE.txt").read_text() == "terms"
    assert not (tmp_path / "second" / "licences" / "LICENSE.txt").exists()


def test_the_code_depends_on_nothing_of_ours():
    for path in Path(export.__code__.co_filename).parent.glob("*_deemo_llama.py"):
        assert "deemo_jax" not in path.read_text()
