"""The model card says what is known, and claims nothing else."""

import dataclasses
import re

from deemo_jax.export.card import Card, base_names, write_card
from tests.small import ODD

CONFIG = dataclasses.replace(
    ODD,
    audio_tower=dataclasses.replace(ODD.audio_tower, max_source_positions=150),
    audio_frames_per_position=22,
)
PARITY = {
    "dtype": "float32",
    "tokens": 93,
    "rows": 4,
    "max_abs_difference": 3.1e-6,
    "top1_agreement": 1.0,
    "greedy_tokens": 40,
}


DATA = {"path": "/home/me/x", "num_frames": 7, "audio_seconds": 2.5}


def text(card, parity=None):
    return write_card(
        card,
        CONFIG,
        parameters=12_345,
        parity=parity,
    )


def test_what_is_known_is_said():
    card = Card(
        name="deemo-tiny",
        data="deemo_synthetic",
        about_data="It was generated; no person is in it.",
        deidentification=("centerface+mcadams/1", "generated/1"),
        steps=1_500,
        started_from=("some/llama", "/home/me/clip"),
        config={"seed": 7, "train": {"batch_size": 32}, "data": DATA},
        metrics={"recognition": {"accuracy": 0.91, "confusion": [[1, 2], [3, 4]]}},
        instructions={
            "nfbl_when": "When is {label} shown?",
            "recognition": "Which emotion is it?",
        },
    )
    found = text(card, PARITY)
    for words in (
        "# deemo-tiny",
        "12,345 parameters",
        "Trained on `deemo_synthetic`. It was generated; no person is in it.",
        "`centerface+mcadams/1`, `generated/1`",
        "1,500 steps",
        "Training started from `some/llama`, `clip`, whose licence applies.",
        "No licence file was found with `some/llama`, `clip`",
        "seed = 7",
        "train.batch_size = 32",
        "| recognition.accuracy | 0.91 |",
        "- recognition: Which emotion is it?",
        "- nfbl_when: When is {label} shown?",
        "`prompt` is told what stands for {label}",
        "logits differ by at most 3.1e-06",
        'processor.prompt("recognition", transcript=transcript)',
        "At most 5 frames and 3 s fit",
        "middles of\n7 equal parts",
        "the middle\n2.5 s",
    ):
        assert words in found, words
    assert "/home/me" not in found
    assert "confusion" not in found


def test_bases_of_one_name_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama").mkdir()
    sources = ("some/llama", "llama", "/x/llama", "/y/llama", "..")
    found = base_names(sources)
    assert found == ["some/llama", "llama", "llama-2", "llama-3", tmp_path.parent.name]


def test_what_is_not_known_is_not_claimed():
    found = text(Card(name="deemo", data="mine"))
    for words in (
        "No metrics were given at export",
        "De-identification of its records: not recorded",
        "Not measured at this export",
        "The configuration was not given",
        "Training started from random values",
    ):
        assert words in found, words
    assert not re.search(r"accura|F1|%|steps\.", found.lower())


def test_the_front_matter_is_yaml_that_ends():
    lines = text(Card(name="deemo", data="mine")).splitlines()
    assert lines[0] == "---"
    assert "---" in lines[1:6]


def test_an_adapter_that_lies_apart_is_named():
    assert "PeftModel" not in text(Card(name="t", data="n"))
    found = text(Card(name="t", data="n", adapter="adapter"))
    assert 'PeftModel.from_pretrained(model, f"{folder}/adapter")' in found
