"""A run read back: evaluated, asked and exported as it was trained."""

import dataclasses
import json

import numpy as np
import pytest

from deemo_jax.config import ConfigError
from deemo_jax.train.loop import train
from deemo_jax.workdir import ask, evaluate_run, evaluator, open_run, untrained
from tests.small import small_config

CONFIG = small_config(
    train__steps=2, evaluate__batch_size=8, evaluate__max_new_tokens=3
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(CONFIG, folder)
    return folder


def test_the_newest_checkpoint_is_read_back(workdir):
    run = open_run(workdir)
    assert run.step == 2
    assert run.config == CONFIG
    first = untrained(run)
    assert first.step == 0
    moved = np.abs(
        np.asarray(run.model.video_connector.query_tokens[...])
        - np.asarray(first.model.video_connector.query_tokens[...])
    )
    assert moved.max() > 0


def test_another_model_is_refused(workdir):
    model = dataclasses.replace(CONFIG.model, vision_feature_layer=-2)
    with pytest.raises(ConfigError, match="another model than the one trained"):
        open_run(workdir, dataclasses.replace(CONFIG, model=model))


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run .* `deemo train`"):
        open_run(tmp_path)


def test_evaluation_states_what_the_rule_allows(workdir):
    results = evaluate_run(open_run(workdir))
    assert results.bounds["video+audio+text"] == 1.0
    assert results.bounds["video"] == results.bounds["audio"] < 0.8
    metrics = json.loads((workdir / "eval" / "2" / "metrics.json").read_text())
    assert metrics["recognition"]["likelihood"]["clips"] == 2


def test_the_loop_may_evaluate_on_its_way(tmp_path):
    config = small_config(
        train__steps=2,
        evaluate__every=1,
        evaluate__batch_size=8,
        evaluate__max_new_tokens=2,
    )
    train(config, tmp_path, evaluate=evaluator(config, tmp_path))
    assert (tmp_path / "eval" / "1" / "report.html").exists()


def test_every_clip_of_a_folder_is_answered(workdir):
    answers, rejected = ask(open_run(workdir), workdir / "corpus", "recognition")
    assert len(answers) == 14
    assert rejected == []
