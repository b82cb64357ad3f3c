"""The loop: workdir, resumption, damage, other beginnings, what stops it."""

import itertools
import json
import shutil
import signal
import time
import types

from flax import nnx
import jax
import numpy as np
import pytest

from deemo_jax.checkpoint import find_fault
from deemo_jax.config import ConfigError
from deemo_jax.data.loader import Batches
from deemo_jax.train import loop
from deemo_jax.train.health import UnsoundError
from deemo_jax.train.ledger import handed_on, read_ledger
from deemo_jax.train.loop import train
from deemo_jax.train.preemption import Preempted
from tests.small import small_config

pytestmark = pytest.mark.usefixtures("bigrams")


@pytest.fixture
def configure(corpus):
    """A short run on the corpus; `train__steps=3` and so on change it."""
    fixed = {"data__path": str(corpus), "train__save_every": 4, "train__steps": 10}
    return lambda **changes: small_config(**fixed | changes)


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(workdir):
    return [row["loss"] for row in rows(workdir)]


def head_of(state):
    flat = dict(nnx.to_flat_state(state.params))
    return flat["language_model", "lm_head", "kernel"].get_value()


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    jax.tree.map(np.testing.assert_array_equal, one.opt_state, other.opt_state)
    assert one.step == other.step


@pytest.fixture
def straight(configure, tmp_path):
    return train(configure(), tmp_path / "straight"), tmp_path / "straight"


def stop_after(monkeypatch, steps):
    """Lets the next run fail when it asks for a batch more than `steps`."""
    iterate = Batches.iterate

    def short(self, start_step=0):
        for done, batch in enumerate(iterate(self, start_step), start_step):
            if done == steps:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(Batches, "iterate", short)
    return lambda: monkeypatch.setattr(Batches, "iterate", iterate)


def test_a_workdir_has_what_it_should(straight, capsys):
    state, workdir = straight
    assert state.step == 10
    assert [row["step"] for row in rows(workdir)] == list(range(1, 11))
    assert losses(workdir)[-1] < losses(workdir)[0]
    assert {path.name for path in workdir.iterdir()} == {
        "config.json", "environment.json", "train.log", "ledger.jsonl",
        "metrics.jsonl", "goodput.json", "tensorboard", "checkpoints", "tokenizer",
        "heartbeats", ".lock", "run_id",
    }  # fmt: skip
    found = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert found == {"4", "8", "10"}


def test_stopped_and_gone_on_with_equals_straight_through(
    straight, configure, tmp_path, monkeypatch, capsys
):
    restore = stop_after(monkeypatch, 6)
    with pytest.raises(KeyboardInterrupt):
        train(configure(), tmp_path / "stopped")
    assert rows(tmp_path / "stopped")[-1]["step"] >= 5
    restore()
    state = train(configure(), tmp_path / "stopped")
    assert "resumed at step 4\n" in capsys.readouterr().out
    assert losses(tmp_path / "stopped") == losses(straight[1])
    assert_same(state, straight[0])
    said = (tmp_path / "stopped" / "train.log").read_text()
    assert "resumed at step 4" in said


def test_packed_rows_are_gone_on_with_as_well(configure, tmp_path, monkeypatch, capsys):
    settings = {"data__clips_per_row": 3, "data__max_length": 264}
    straight = train(configure(**settings), tmp_path / "straight")
    assert "12 clips in 4 rows of up to 3: up to 8" in capsys.readouterr().out
    restore = stop_after(monkeypatch, 6)
    with pytest.raises(KeyboardInterrupt):
        train(configure(**settings), tmp_path / "stopped")
    restore()
    state = train(configure(**settings), tmp_path / "stopped")
    assert "resumed at step 4\n" in capsys.readouterr().out
    assert losses(tmp_path / "stopped") == losses(tmp_path / "straight")
    assert_same(state, straight)
    tokens = [row["tokens"] for row in rows(tmp_path / "straight")]
    assert min(tokens) > 8 * 2 * 60  # of a batch of eight rows


def test_a_damaged_checkpoint_is_passed_over_by_name(straight, configure, capsys):
    state, workdir = straight
    before = losses(workdir)
    files = [p for p in (workdir / "checkpoints" / "10").rglob("*") if p.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 3] ^= 4
    largest.write_bytes(data)
    again = train(configure(), workdir)
    said = capsys.readouterr().out
    assert f"checkpoints/10 is passed over: its file {largest.parent.name}" in said or (
        "checkpoints/10 is passed over" in said and largest.name in said
    )
    assert "resumed at step 8\n" in said
    assert losses(workdir) == before
    assert_same(state, again)


def test_a_run_without_a_whole_checkpoint_does_not_begin_anew(
    straight, configure, tmp_path
):
    shutil.copytree(straight[1], tmp_path / "run")
    for step in ("4", "8", "10"):
        files = list((tmp_path / "run" / "checkpoints" / step).rglob("d/*"))
        files[0].write_bytes(files[0].read_bytes()[:-1])
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=r"no checkpoint in .* is whole any more"):
        train(configure(), tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_asked_to_stop_it_does_not_evaluate_first(configure, tmp_path, monkeypatch):
    evaluated = []

    def evaluate(model, step, got_on):
        evaluated.append(step)
        if step == 4:
            signal.raise_signal(signal.SIGTERM)
        return {}

    settings = configure(evaluate__every=1)
    with pytest.raises(Preempted):
        train(settings, tmp_path, evaluate=evaluate)
    stopped = rows(tmp_path)[-1]["step"]
    assert stopped > 4
    assert stopped not in evaluated
    train(settings, tmp_path, evaluate=evaluate)
    assert set(evaluated) == set(range(1, 11))


def test_asked_to_stop_while_it_is_restored_it_makes_no_step(
    straight, configure, monkeypatch
):
    first_state = loop.first_state

    def asked(*given, **named):
        signal.raise_signal(signal.SIGTERM)
        return first_state(*given, **named)

    monkeypatch.setattr(loop, "first_state", asked)
    with pytest.raises(Preempted):
        train(configure(train__steps=20), straight[1])
    assert len(rows(straight[1])) == 10
    assert "saved at step 10 of 20" in (straight[1] / "train.log").read_text()


def test_a_finished_run_is_left_alone_and_may_be_made_longer(
    straight, configure, capsys
):
    state, workdir = straight
    before = (workdir / "metrics.jsonl").read_bytes()
    assert_same(train(configure(), workdir), state)
    assert "nothing left to do: 10 of 10" in capsys.readouterr().out
    assert (workdir / "metrics.jsonl").read_bytes() == before
    assert train(configure(train__steps=12), workdir).step == 12
    assert len(rows(workdir)) == 12


def test_gone_on_with_on_another_mesh(straight, configure, tmp_path, monkeypatch):
    restore = stop_after(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        train(configure(), tmp_path / "stopped")
    restore()
    sizes = {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2}
    state = train(configure(**sizes), tmp_path / "stopped")
    found, expected = losses(tmp_path / "stopped"), losses(straight[1])
    assert found[:4] == expected[:4]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    kernel = head_of(state)
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size


def test_a_run_may_begin_with_another_ones_parameters(straight, configure, tmp_path):
    state, workdir = straight
    config = configure(init_from=str(workdir), train__steps=1)
    train(config, tmp_path / "second")
    assert losses(tmp_path / "second")[0] != losses(workdir)[0]
    [theirs, own] = read_ledger(tmp_path / "second")
    assert [theirs] == handed_on(workdir)
    assert theirs.subjects == own.subjects
    config = configure(
        init_from=str(workdir), train__steps=1, optimizer__learning_rate=0.0
    )
    after = train(config, tmp_path / "third")
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def test_a_run_that_begins_with_its_judges_is_refused_before_it_starts(
    straight, configure, tmp_path
):
    folds = {"data__folds": -1, "init_from": str(straight[1])}
    with pytest.raises(ConfigError, match="are people that .* was trained on"):
        train(configure(**folds), tmp_path / "second")
    assert not (tmp_path / "second" / "checkpoints").exists()


TUNE = {
    "train__stage": "tune",
    "lora__rank": 2,
    "lora__dropout": 0.5,
    "lora__targets": ("language_model/lm_head", "video_connector/projection"),
}


def test_tuning_stopped_and_gone_on_with_equals_straight_through(
    configure, tmp_path, monkeypatch
):
    config = configure(**TUNE)
    state = train(config, tmp_path / "straight")
    restore = stop_after(monkeypatch, 6)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "stopped")
    restore()
    again = train(config, tmp_path / "stopped")
    assert losses(tmp_path / "stopped") == losses(tmp_path / "straight")
    assert_same(state, again)


@pytest.mark.parametrize("what", ["nothing", "no checkpoint"])
def test_a_beginning_that_is_none_is_refused(configure, tmp_path, what):
    (tmp_path / "first").mkdir()
    if what == "no checkpoint":
        (tmp_path / "first" / "checkpoints" / "5").mkdir(parents=True)
    config = configure(init_from=str(tmp_path / "first"))
    with pytest.raises(ConfigError, match=r"config.init_from is .*first.*give|choose"):
        train(config, tmp_path / "second")


def test_steps_without_finite_gradient_are_skipped_and_then_stop_the_run(
    configure, tmp_path, capsys
):
    # The first update is so large that what follows has no finite loss.
    config = configure(
        optimizer__learning_rate=1e38, optimizer__weight_decay=0.0,
        optimizer__warmup_steps=1, train__max_skipped_steps=2,
    )  # fmt: skip
    with pytest.raises(UnsoundError, match=r"number 3 in a row.*learning_rate"):
        train(config, tmp_path)
    found = [(row["skipped"], row["loss"] is None) for row in rows(tmp_path)]
    first = found.index((1, True))
    assert found == [(0, False)] * first + [(1, True)] * 3
    assert capsys.readouterr().out.count(" is skipped: loss nan, grad_norm nan; ") == 2
    [evidence] = (tmp_path / "evidence").iterdir()
    assert find_fault(evidence) is None


def test_saved_when_time_has_passed_and_every_mth_step_is_kept(
    configure, tmp_path, monkeypatch
):
    saved, save, ticks = [], loop.Checkpoints.save, itertools.count()

    def note(self, step, items):
        saved.append(step)
        save(self, step, items)

    clock = types.SimpleNamespace(
        monotonic=lambda: next(ticks), perf_counter=time.perf_counter
    )
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(loop.Checkpoints, "save", note)
    settings = {"train__save_every": 1000, "train__steps": 30, "train__keep": 1}
    train(configure(**settings, train__save_seconds=8), tmp_path)
    assert len(saved) > 2
    assert saved[-1] == 30
    assert min(np.diff(saved[:-1])) > 3  # each time once
    # Saving may be set otherwise when the run goes on.
    settings |= {"train__steps": 36, "train__save_every": 2, "train__keep_every": 4}
    train(configure(**settings, train__stall_seconds=60), tmp_path)
    found = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert found == {"32", "36"}


def test_evaluation_is_called_between_the_steps(configure, tmp_path):
    seen = []

    def evaluate(model, step, got_on):
        got_on()
        kernel = model.language_model["lm_head"].kernel.get_value()
        seen.append((step, float(abs(kernel).sum())))
        return {"accuracy": 0.5, "note": "not a number"}

    state = train(configure(evaluate__every=5), tmp_path, evaluate=evaluate)
    kernel = head_of(state)
    assert [step for step, _ in seen] == [5, 10]
    assert seen[-1][1] == pytest.approx(float(abs(kernel).sum()))
    assert seen[0][1] != seen[1][1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh__data": 3}, "does not divide the 8 devices"),
        ({"train__batch_size": 6}, "a multiple of 8"),
        ({"train__stage": "tuna"}, "config.train.stage is 'tuna'"),
    ],
)
def test_what_cannot_run_is_refused(configure, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(configure(**changes), tmp_path)


def test_the_best_checkpoint_is_kept_whatever_its_age(configure, tmp_path):
    scores = {2: 0.5, 4: 0.9, 6: 0.7, 8: 0.8, 10: 0.6}
    settings = {
        "evaluate__every": 2, "evaluate__best": "recognition.parsing.accuracy",
        "train__save_every": 3, "train__keep": 1,
    }  # fmt: skip

    def evaluate(model, step, got_on):
        return {"recognition": {"parsing": {"accuracy": scores[step]}}}

    train(configure(**settings), tmp_path, evaluate=evaluate)
    folder = tmp_path / "checkpoints"
    found = {path.name for path in folder.iterdir() if path.is_dir()}
    assert found == {"4", "10"}  # 4 is no multiple of 3: it was kept as the best
    assert json.loads((folder / "best.json").read_text()) == {
        "step": 4, "metric": "recognition.parsing.accuracy", "value": 0.9,
    }  # fmt: skip
    # Gone on with, what was best still is.
    scores |= {12: 0.85}
    train(configure(**settings, train__steps=12), tmp_path, evaluate=evaluate)
    found = {path.name for path in folder.iterdir() if path.is_dir()}
    assert found == {"4", "12"}


def test_a_best_by_a_figure_that_there_is_not_is_refused(configure, tmp_path):
    settings = dict(evaluate__every=2, evaluate__best="accuracy")
    with pytest.raises(ConfigError, match=r"'accuracy', which .* gives recognition.x"):
        train(
            configure(**settings),
            tmp_path,
            evaluate=lambda model, step, got_on: {"recognition": {"x": 0.5}},
        )


def test_what_an_evaluation_would_find_wrong_is_refused_before_a_step(
    configure, tmp_path
):
    asked = []

    def refuse(source):
        asked.append((source.split, len(source)))
        raise ConfigError("no such figure")

    refused = {"check_evaluation": refuse, "evaluate": pytest.fail}
    with pytest.raises(ConfigError, match="no such figure"):
        train(configure(evaluate__every=2), tmp_path, **refused)
    assert asked == [("test", 2)]
    assert not (tmp_path / "metrics.jsonl").exists()
    train(configure(train__steps=1), tmp_path, **refused)  # it never evaluates


def test_a_start_that_ends_while_it_restores_counts_in_the_goodput(
    configure, tmp_path, monkeypatch
):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "first_state", killed)
        with pytest.raises(KeyboardInterrupt):
            train(configure(), tmp_path)
    train(configure(train__steps=1), tmp_path)
    found = json.loads((tmp_path / "goodput.json").read_text())
    assert found["starts"] == 2
    assert found["seconds"]["lost"] > 0
    assert found["seconds"]["restore"] > 0


def test_a_save_that_fails_stops_the_run_at_the_next_step(
    configure, tmp_path, monkeypatch
):
    def fail(path, step):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deemo_jax.checkpoint.write_manifest", fail)
    with pytest.raises(OSError, match="No space left"):
        train(configure(train__steps=200, train__save_every=40), tmp_path)
    assert len(rows(tmp_path)) < 80


def test_some_steps_are_traced(configure, tmp_path):
    train(configure(), tmp_path, profile_steps=(3, 5))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert "trace of steps 3 to 5" in (tmp_path / "train.log").read_text()
    for first, last in ((9, 12), (40, 41)):  # done already in part, never to be done
        train(configure(train__steps=14), tmp_path, profile_steps=(first, last))
        assert f"no trace from step {first} on" in (tmp_path / "train.log").read_text()
