"""A run read back: evaluated and exported as it was trained."""

import dataclasses
import json
import shutil

from flax import nnx
import numpy as np
import pytest
from safetensors.numpy import load_file

from deemo_jax.annotation import load_taxonomy
from deemo_jax.ask import ask
from deemo_jax.config import ConfigError
from deemo_jax.data import tasks
from deemo_jax.data.pack import pack_folder
from deemo_jax.export.adapter import WEIGHTS
from deemo_jax.export.parity import ExportError
from deemo_jax.train.ledger import read_ledger
from deemo_jax.train.loop import train
from deemo_jax.train.seen import who_saw
from deemo_jax.train.step import make_model
from deemo_jax.workdir import (
    evaluate_run,
    evaluator,
    export_run,
    open_run,
    untrained,
)
from tests.small import drawn, small_config

CONFIG = small_config(
    train__steps=3, evaluate__batch_size=8, evaluate__max_new_tokens=4
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(CONFIG, folder)
    return folder


def test_the_newest_checkpoint_is_read_back(workdir):
    run = open_run(workdir)
    assert run.step == 3
    assert run.config == CONFIG
    first = untrained(run)
    assert first.step == 0
    moved = np.abs(
        np.asarray(run.model.video_connector.query_tokens[...])
        - np.asarray(first.model.video_connector.query_tokens[...])
    )
    assert moved.max() > 0


def test_a_run_of_more_devices_is_opened_on_those_that_are_here(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    stored = json.loads((workdir / "config.json").read_text())
    stored["mesh"] |= {"data": 3, "fsdp": 16}
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    run = open_run(tmp_path / "run")
    assert run.mesh.shape["fsdp"] == 8
    with pytest.raises(ConfigError, match="48 does not divide the 8 devices"):
        open_run(tmp_path / "run", run.config)  # asked for


def test_people_that_it_was_trained_on_do_not_judge_it(workdir):
    """Of the other folder, whoever it calls a test: the same clips, divided anew."""
    run = open_run(workdir)
    data = dataclasses.replace(CONFIG.data, path=str(run.packed), folds=4, fold=0)
    again = dataclasses.replace(run, config=dataclasses.replace(CONFIG, data=data))
    with pytest.raises(ConfigError, match="are people that .* was trained on"):
        evaluate_run(again)


def test_another_model_is_refused(workdir):
    model = dataclasses.replace(CONFIG.model, vision_feature_layer=-2)
    with pytest.raises(ConfigError, match=r"another run .*vision_feature_layer was -1"):
        open_run(workdir, dataclasses.replace(CONFIG, model=model))


def test_how_it_is_evaluated_may_change_and_what_it_was_trained_on_stays(workdir):
    asked = dataclasses.replace(
        CONFIG,
        evaluate=dataclasses.replace(CONFIG.evaluate, batch_size=2, split="train"),
        data=dataclasses.replace(CONFIG.data, path=str(workdir / "data")),
        train=dataclasses.replace(CONFIG.train, steps=99),
    )
    run = open_run(workdir, asked)
    assert run.config.evaluate == asked.evaluate
    assert run.config.data == asked.data
    assert run.config.train == CONFIG.train
    other = dataclasses.replace(asked, seed=1)
    with pytest.raises(ConfigError, match="config.seed was 0 and is 1"):
        open_run(workdir, other)


def test_given_no_data_it_is_the_data_of_the_training(workdir, tmp_path):
    stored = json.loads((workdir / "config.json").read_text())
    stored["data"]["path"] = str(workdir / "data")
    for name in ("checkpoints", "tokenizer"):
        (tmp_path / name).symlink_to(workdir / name)
    (tmp_path / "config.json").write_text(json.dumps(stored))
    run = open_run(tmp_path, CONFIG)  # its data.path is empty
    assert run.packed == workdir / "data"
    assert not run.generated
    assert not (tmp_path / "corpus").exists()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run .* `deemo train`"):
        open_run(tmp_path)


def test_evaluation_states_what_the_rule_allows(workdir):
    results = evaluate_run(open_run(workdir))
    assert results.bounds["video+audio+text"] == 1.0
    assert results.bounds["video"] == results.bounds["audio"] < 0.8
    metrics = json.loads((workdir / "eval" / "3" / "metrics.json").read_text())
    assert metrics["recognition"]["likelihood"]["clips"] == 2


@pytest.mark.slow  # it compiles the whole model
def test_the_loop_may_evaluate_on_its_way(tmp_path):
    config = small_config(
        train__steps=2,
        evaluate__every=1,
        evaluate__batch_size=8,
        evaluate__max_new_tokens=2,
    )
    train(config, tmp_path, evaluate=evaluator(config, tmp_path))
    report = tmp_path / "eval" / "1" / "report.html"
    written = report.stat().st_mtime_ns
    (tmp_path / "eval" / "2" / "report.html").unlink()  # killed while it evaluated
    train(config, tmp_path, evaluate=evaluator(config, tmp_path))
    assert (tmp_path / "eval" / "2" / "report.html").exists()
    assert report.stat().st_mtime_ns == written


def test_lora_is_exported_merged_or_apart(workdir, tmp_path):
    config = small_config(
        train__stage="tune",
        lora__rank=2,
        data__tasks=("recognition",),
        evaluate__max_new_tokens=2,
    )
    model = drawn(lambda: make_model(config, nnx.Rngs(0)))
    run = dataclasses.replace(open_run(workdir), config=config, model=model)
    assert (export_run(run, tmp_path / "merged") or {})["passed"]
    assert (export_run(run, tmp_path / "apart", adapter=True) or {})["passed"]
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    base = load_file(tmp_path / "apart" / "model.safetensors")
    adapter = load_file(tmp_path / "apart" / "adapter" / WEIGHTS)
    assert merged.keys() == base.keys()
    assert len(adapter) == 8  # two matrices of two projections of two layers
    assert not (tmp_path / "merged" / "adapter").exists()
    (trained,) = read_ledger(workdir)
    assert read_ledger(tmp_path / "merged") == [
        dataclasses.replace(trained, run=workdir.name)
    ]
    for name in ("merged", "apart"):
        card = (tmp_path / name / "README.md").read_text()
        assert f"lists the {len(trained.subjects)} people" in card
        [seen] = who_saw(trained.subjects[0], tmp_path / name)
        assert seen.describe().endswith(f"whose parameters go back to {workdir.name}")
    for name, tensor in base.items():
        stem = "base_model.model." + name.removesuffix(".weight")
        if f"{stem}.lora_A.weight" in adapter:
            a, b = (adapter[f"{stem}.lora_{letter}.weight"] for letter in "AB")
            tensor = tensor + 16 / 2 * (b @ a)
        np.testing.assert_allclose(merged[name], tensor, rtol=1e-6, atol=1e-6)


def test_no_lora_cannot_lie_apart(workdir, tmp_path):
    with pytest.raises(ExportError, match="no LoRA"):
        export_run(open_run(workdir), tmp_path / "apart", adapter=True)
    assert list(tmp_path.iterdir()) == []


def test_other_lora_is_refused(workdir):
    config = small_config(train__stage="tune", lora__rank=2)
    with pytest.raises(ConfigError, match=r"another run .*lora.rank was 0 and is 2"):
        open_run(workdir, config)


@pytest.mark.slow  # it compiles the whole model
def test_a_run_on_train_alone_and_on_emotions_alone_is_exported(workdir, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(workdir / "corpus", corpus)
    lines = []
    for line in (corpus / "deidentified.jsonl").read_text().splitlines():
        fields = json.loads(line)
        fields["annotation"] |= {"split": "train", "reasoning": None}
        fields["verdict"] = "unaudited"
        lines.append(json.dumps(fields))
    (corpus / "deidentified.jsonl").write_text("\n".join(lines) + "\n")
    pack_folder(corpus, tmp_path / "packed", name="mine", allow_unaudited=True)
    config = dataclasses.replace(
        CONFIG, data=dataclasses.replace(CONFIG.data, path=str(tmp_path / "packed"))
    )
    train(config, tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert len(ask(run, corpus, "recognition")[0]) == 14
    exported = tmp_path / "exported"
    assert export_run(run, exported, verify=False, dtype="bfloat16") is None
    assert json.loads((exported / "config.json").read_text())["dtype"] == "bfloat16"
    assert "Not measured" in (exported / "README.md").read_text()
    assert (export_run(run, exported) or {})["passed"]
    settings = json.loads((exported / "processor_config.json").read_text())
    emotions = load_taxonomy(exported / "taxonomy.json").emotions
    assert emotions == run.taxonomy.emotions
    question = tasks.instruction("recognition", emotions)
    assert settings["instructions"] == {"recognition": question}
    assert (settings["num_frames"], settings["num_samples"]) == (2, 16_000)
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "are generated" not in card
    assert "- reasoning:" not in card
    with pytest.raises(ValueError, match=r"no split 'test', it has train: .*split"):
        evaluate_run(run)
