"""Clips of a folder are answered, whole or in windows, or refused."""

import json
import shutil

from flax import nnx
import pytest

from deemo_jax import acts, sharding
from deemo_jax.ask import ask
from deemo_jax.config import ConfigError
from deemo_jax.data.windows import Windowing
from deemo_jax.train.prepare import open_split, prepare_data, prepare_tokenizer
from deemo_jax.train.step import make_model
from deemo_jax.workdir import Run
from tests.small import drawn, small_config

CONFIG = small_config(evaluate__batch_size=8, evaluate__max_new_tokens=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a run is read back as, but for its training."""
    workdir = tmp_path_factory.mktemp("run")
    packed = prepare_data(CONFIG, workdir)
    source = open_split(CONFIG, packed, "train")
    return Run(
        workdir=workdir,
        config=CONFIG,
        mesh=sharding.make_mesh(CONFIG.mesh),
        packed=packed,
        tokenizer=prepare_tokenizer(CONFIG, workdir, source),
        model=drawn(lambda: make_model(CONFIG, nnx.Rngs(0))),
        step=3,
    )


def test_every_clip_of_a_folder_is_answered(run):
    answers, rejected = ask(run, run.workdir / "corpus", "recognition")
    assert len(answers) == 14  # in batches of 8
    assert rejected == []
    written = (
        (run.workdir / "generate" / "3" / "answers.jsonl").read_text().splitlines()
    )
    assert {r["clip_id"]: r["answer"] for r in map(json.loads, written)} == answers


def test_who_withdrew_and_what_failed_its_audit_is_not_asked_about(run, tmp_path):
    folder = shutil.copytree(run.workdir / "corpus", tmp_path / "corpus")
    for name, change in (
        ("annotations", {"consent": "withdrawn"}),
        ("deidentified", {"verdict": "failed"}),
    ):
        path = folder / f"{name}.jsonl"
        first, *others = path.read_text().splitlines()
        line = others[-1] if name == "annotations" else first
        changed = json.dumps(json.loads(line) | change)
        path.write_text(path.read_text().replace(line, changed))
    answers, rejected = ask(run, folder, "recognition")
    assert len(answers) == 12
    assert sorted(each.reason for each in rejected) == [
        "consent is withdrawn", "its verdict is 'failed'"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("task", "label"), [("nfbl_when", "folding arms"), ("Are the arms folded?", "")]
)
def test_a_class_and_any_question_are_asked_for(run, monkeypatch, task, label):
    asked = []

    def see(_, rows, size):
        asked.extend(run.tokenizer.decode(row["tokens"]) for row in rows)
        return ["never"] * len(rows)

    monkeypatch.setattr("deemo_jax.ask._answers", see)
    answers, _ = ask(run, run.workdir / "corpus", task, label)
    question = f"In these 3.0 seconds, when is this shown: {label}?" if label else task
    assert len(asked) == len(answers) == 14
    assert all(question in words for words in asked)
    [first, *_] = (
        (run.workdir / "generate" / "3" / "answers.jsonl").read_text().split("\n")
    )
    assert json.loads(first) == {
        "clip_id": next(iter(answers)), "task": task, "answer": "never"
    } | ({"label": label} if label else {})  # fmt: skip


@pytest.mark.parametrize(
    ("task", "label"),
    [("nfbl_when", ""), ("nfbl_when", "nose"), ("recognition", "folding arms")],
)
def test_a_label_is_of_the_taxonomy_and_of_its_task(run, monkeypatch, task, label):
    monkeypatch.setattr("deemo_jax.workdir.open_run", lambda *_: run)
    with pytest.raises(ConfigError, match=f"--label is '{label}'; .*; folding arms;"):
        acts.generate(
            workdir=run.workdir, input=run.workdir / "corpus", task=task,
            label=label, question="", window=-1, hop=0, config=None,
        )  # fmt: skip


def test_a_clip_that_does_not_fit_is_refused_and_the_others_are_answered(run, tmp_path):
    folder = tmp_path / "corpus"
    shutil.copytree(run.workdir / "corpus", folder)
    lines = (folder / "deidentified.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    first["annotation"]["transcript"] = "well " * 500
    lines[0] = json.dumps(first)
    (folder / "deidentified.jsonl").write_text("\n".join(lines) + "\n")
    answers, [rejection] = ask(run, folder, "recognition")
    assert len(answers) == 13
    assert rejection.clip_id == first["annotation"]["clip_id"]
    assert "max_length" in rejection.reason
    [line] = (
        (run.workdir / "generate" / "3" / "rejected.jsonl").read_text().splitlines()
    )
    assert json.loads(line)["clip_id"] == rejection.clip_id


def test_long_clips_are_asked_about_in_windows(run, monkeypatch):
    """Of 3 s each; as the act does it where the data set's name stands for windows."""
    asked = []

    def see(_, rows, size):
        asked.extend(run.tokenizer.decode(row["tokens"]) for row in rows)
        return ["never"] * len(rows)

    monkeypatch.setattr("deemo_jax.ask._answers", see)
    folder = run.workdir / "corpus"
    whole, _ = ask(run, folder, "nfbl_when", "folding arms")
    asked.clear()
    cut = Windowing(seconds=1.6, hop=1.6)
    halves, rejected = ask(run, folder, "nfbl_when", "folding arms", cut)
    assert rejected == []
    assert [*halves] == [f"{i}@{at}" for i in whole for at in ("0.000", "1.500")]
    assert len(asked) == len(halves)
    assert all("In these 1.5 seconds" in words for words in asked)


@pytest.mark.parametrize(
    ("name", "window", "hop", "cut"),
    [
        ("tiny", -1, 0, None),
        ("tiny", 2, 0, Windowing(seconds=2.0, hop=2.0)),
        ("deemo_nfbl", -1, 8, Windowing(seconds=16.0, hop=8.0)),
        ("deemo_nfbl", 0, 0, None),
    ],
)
def test_clips_are_cut_as_those_that_it_was_trained_on(
    run, monkeypatch, name, window, hop, cut
):
    seen = []
    monkeypatch.setattr("deemo_jax.workdir.open_run", lambda *_: run)
    monkeypatch.setattr("deemo_jax.data.shards.read_splits", lambda _: (name, {}))
    monkeypatch.setattr(
        "deemo_jax.ask.ask", lambda *words: seen.append(words[-1]) or ({}, [])
    )
    acts.generate(
        workdir=run.workdir, input=run.workdir / "corpus", task="recognition", label="",
        question="", window=window, hop=hop, config=None,
    )  # fmt: skip
    assert seen == [cut]
