"""What a run writes about itself, and what it keeps of a run that was killed."""

import dataclasses
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from deemo_jax.chips import CHIPS
from deemo_jax.config import ConfigError, MeshConfig, from_dict
from deemo_jax.train.log import (
    Dispatched,
    Metrics,
    adopt_config,
    numbers,
    read_rows,
    say_in,
    training_bar,
    write_config,
    write_environment,
)
from deemo_jax.train.preemption import Asked
from tests.small import small_config


def step(number, loss=6.0, grad_norm=1.5, skipped=0):
    sums = {
        "loss": jnp.float32(loss),
        "tokens": jnp.int32(3),
        "correct": jnp.int32(2),
        "row_tokens": jnp.int32(40),
        "grad_norm": jnp.float32(grad_norm),
        "learning_rate": jnp.float32(0.1),
        "skipped": jnp.int32(skipped),
    }
    index = np.array([4, 7])
    wishes = Asked(save=False, stop=False).told(busy_seconds=0.5)[None]
    return Dispatched(
        step=number, sums=sums, index=index, data_seconds=0.25, wishes=wishes
    )


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def write_steps(workdir, start, stop, log_every=1):
    with Metrics(workdir, start=start, log_every=log_every) as metrics:
        for number in range(start + 1, stop + 1):
            metrics.finish(step(number, loss=number / 7))


def test_a_row_holds_means_in_full_precision(tmp_path):
    with Metrics(tmp_path, start=0, log_every=1) as metrics:
        shown = metrics.finish(step(1, loss=1 / 7))
    [row] = rows(tmp_path)
    assert row == shown
    assert row["loss"] == float(np.float32(1 / 7)) / 3
    assert row["accuracy"] == 2 / 3
    assert row["learning_rate"] == float(np.float32(0.1))
    assert (row["step"], row["tokens"], row["answer_tokens"]) == (1, 40, 3)
    assert row["data_seconds"] == 0.25
    assert row["step_seconds"] > 0
    assert row["tokens_per_second"] > 0
    assert list((tmp_path / "tensorboard").iterdir())


def test_some_steps_are_logged_and_their_tokens_add_up(tmp_path):
    with Metrics(tmp_path, start=0, log_every=3) as metrics:
        found = [metrics.finish(step(number)) for number in range(1, 8)]
    assert [row["step"] for row in rows(tmp_path)] == [3, 6]
    speeds = [row["tokens_per_second"] * row["step_seconds"] for row in found]
    assert speeds[0] == pytest.approx(40)
    # Three steps' tokens over three steps' time.
    seconds = sum(row["step_seconds"] for row in found[3:6])
    assert found[5]["tokens_per_second"] * seconds == pytest.approx(120)


@pytest.mark.parametrize(
    "torn", ["", '{"step": 9, "lo', '{"step": 3, "loss": 1}', "\0"]
)
def test_what_was_logged_after_the_restored_step_is_cut(tmp_path, torn):
    write_steps(tmp_path, 0, 8)
    before = (tmp_path / "metrics.jsonl").read_text().splitlines()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(torn)
    write_steps(tmp_path, 5, 7)
    after = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert after[:5] == before[:5]
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 8))


def test_a_skipped_step_is_logged_in_any_case_and_as_json(tmp_path):
    with Metrics(tmp_path, start=0, log_every=10) as metrics:
        row = metrics.finish(step(3, loss=math.nan, grad_norm=math.inf, skipped=1))
    assert math.isnan(row["loss"])
    [found] = rows(tmp_path)
    assert (found["loss"], found["grad_norm"], found["skipped"]) == (None, None, 1)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def keep_a_checkpoint(workdir):
    (workdir / "checkpoints" / "10").mkdir(parents=True)
    (workdir / "checkpoints" / "10" / "manifest.json").write_text("{}")


def test_a_run_goes_on_with_its_own_config_only(tmp_path):
    config = small_config()
    adopt_config(config, tmp_path)
    keep_a_checkpoint(tmp_path)
    assert from_dict(json.loads((tmp_path / "config.json").read_text())) == config
    train = dataclasses.replace(config.train, steps=99, log_every=7)
    mesh = MeshConfig(data=1, fsdp=4, tensor=2)
    longer = dataclasses.replace(config, train=train, mesh=mesh)
    adopt_config(longer, tmp_path)
    # What refuses the run after this leaves the old one.
    assert from_dict(json.loads((tmp_path / "config.json").read_text())) == config
    write_config(longer, tmp_path)
    assert from_dict(json.loads((tmp_path / "config.json").read_text())) == longer
    other = dataclasses.replace(longer, seed=5)
    with pytest.raises(ConfigError, match=r"config.seed was 0 and is 5\).*--workdir"):
        adopt_config(other, tmp_path)
    assert from_dict(json.loads((tmp_path / "config.json").read_text())) == longer


@pytest.mark.parametrize(
    ("key", "value", "free"),
    [
        ("optimizer__b2", 0.5, True),
        ("data__max_length", 64, True),
        ("train__batch_size", 64, True),
        ("train__stage", "align", True),
        ("seed", 1, False),
        ("data__name", "other", False),
        ("model__language_model__vocab_size", 300, False),
    ],
)
def test_what_changes_the_result_may_change_only_before_a_step_is_kept(
    tmp_path, key, value, free
):
    adopt_config(small_config(), tmp_path)
    if free:
        adopt_config(small_config(**{key: value}), tmp_path)
        adopt_config(small_config(), tmp_path)
    keep_a_checkpoint(tmp_path)
    with pytest.raises(ConfigError, match=key.replace("__", ".")):
        adopt_config(small_config(**{key: value}), tmp_path)


def test_the_corpus_of_a_workdir_keeps_to_its_settings_from_the_start(tmp_path):
    adopt_config(small_config(), tmp_path)
    with pytest.raises(ConfigError, match=r"config.seed was 0 and is 1"):
        adopt_config(small_config(seed=1), tmp_path)
    synthetic = {"data__synthetic__train_clips": 13}
    with pytest.raises(ConfigError, match=r"train_clips was 12 and is 13"):
        adopt_config(small_config(**synthetic), tmp_path)


def test_a_damaged_config_is_named(tmp_path):
    adopt_config(small_config(), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["seed"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"config.json .*config.seed is missing"):
        adopt_config(small_config(), tmp_path)


def test_the_environment_is_written_down(tmp_path):
    write_environment(tmp_path)
    found = json.loads((tmp_path / "environment.json").read_text())
    assert found["versions"].keys() >= {"jax", "flax", "optax", "orbax-checkpoint"}
    assert found["devices"] == {
        "platform": "cpu", "kind": "cpu", "count": 8, "processes": 1,
    }  # fmt: skip
    assert "commit" in found


def test_what_is_said_is_printed_and_kept(tmp_path, capsys):
    say = say_in(tmp_path)
    say("resumed at step 7")
    say("done")
    assert capsys.readouterr().out == "resumed at step 7\ndone\n"
    first, second = (tmp_path / "train.log").read_text().splitlines()
    assert first.endswith(" resumed at step 7")
    assert second.endswith(" done")


def test_the_bar_shows_loss_speed_and_time_left(capsys):
    with training_bar(2, 4) as show:
        show({"step": 4, "loss": 1.25, "tokens_per_second": 5678.0})
    shown = capsys.readouterr().out
    for part in ("4/4", "loss 1.2500", "5,678 tokens/s", "left"):
        assert part in shown


def test_the_share_of_the_peak_stands_in_a_row_where_the_peak_is_known(
    tmp_path, monkeypatch
):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with Metrics(tmp_path / "a", start=0, log_every=1, flops=1e12) as metrics:
        assert "mfu" not in metrics.finish(step(1))
    monkeypatch.setattr("deemo_jax.train.log.chip_of", lambda kind: CHIPS["v5e"])
    with Metrics(tmp_path / "b", start=0, log_every=1, flops=1e12) as metrics:
        row = metrics.finish(step(1))
    assert row["mfu"] == pytest.approx(1e12 / row["step_seconds"] / (8 * 197e12))


def test_numbers_of_nested_groups():
    found = numbers({"a": {"b": 1, "c": {"d": 0.5}, "e": "word"}, "f": 2, "g": None})
    assert found == {"a.b": 1, "a.c.d": 0.5, "f": 2}


def test_rows_are_read_but_for_a_torn_one(tmp_path):
    write_steps(tmp_path, 0, 3)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    assert [row["step"] for row in read_rows(tmp_path)] == [1, 2, 3]
    assert read_rows(tmp_path / "none") == []
