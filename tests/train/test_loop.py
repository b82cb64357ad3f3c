"""The loop: workdir, resumption, damage, other beginnings, what stops it."""

import json
from typing import Any

from flax import nnx
import jax
import numpy as np
import pytest

from deemo_jax.checkpoint import Checkpoints
from deemo_jax.config import ConfigError
from deemo_jax.sharding import make_mesh, parameter_shardings
from deemo_jax.train import loop
from deemo_jax.train.log import adopt_config
from deemo_jax.train.loop import train
from deemo_jax.train.step import abstract_state, make_model
from tests.small import drawn, small_config

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
    iterate = loop.Batches.iterate

    def short(self, start_step=0):
        for done, batch in enumerate(iterate(self, start_step), start_step):
            if done == steps:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(loop.Batches, "iterate", short)
    return lambda: monkeypatch.setattr(loop.Batches, "iterate", iterate)


def test_a_workdir_has_what_it_should(straight, capsys):
    state, workdir = straight
    assert state.step == 10
    assert [row["step"] for row in rows(workdir)] == list(range(1, 11))
    assert losses(workdir)[-1] < losses(workdir)[0]
    assert {path.name for path in workdir.iterdir()} == {
        "config.json", "environment.json", "train.log", "ledger.jsonl",
        "metrics.jsonl", "tensorboard", "checkpoints", "tokenizer",
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
    config = configure(
        init_from=str(workdir), train__steps=1, optimizer__learning_rate=0.0
    )
    after = train(config, tmp_path / "third")
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


TUNE = {
    "train__stage": "tune",
    "lora__rank": 2,
    "lora__dropout": 0.5,
    "lora__targets": ("language_model/lm_head", "video_connector/projection"),
}
LORA = {
    f"{target}/lora_{letter}" for target in TUNE["lora__targets"] for letter in "ab"
}


def flat(params):
    return {
        "/".join(map(str, path)): np.asarray(leaf.get_value())
        for path, leaf in nnx.to_flat_state(params)
    }


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, rtol=1e-6, atol=1e-6)


def merged(params, config):
    """In numpy."""
    params = dict(params)
    for path in LORA & params.keys():
        if path.endswith("a"):
            a, b = params.pop(path), params.pop(path.removesuffix("a") + "b")
            added = config.lora.alpha / config.lora.rank * (a @ b)
            kernel = path.replace("lora_a", "kernel")
            params[kernel] = params[kernel] + added
    return params


def kept_run(config, workdir):
    """A workdir with a checkpoint of drawn parameters, and these."""
    params = nnx.state(drawn(lambda: make_model(config, nnx.Rngs(0))))
    adopt_config(config, workdir)
    with Checkpoints(workdir / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(7, {"params": params})
    return flat(params)


def begun(config):
    """The parameters that a run begins with, and that they lie as they have to."""
    mesh = make_mesh(config.mesh)
    params = loop.read_params(config, mesh)
    wanted = abstract_state(config, mesh).params
    assert jax.tree.structure(params) == jax.tree.structure(wanted)
    for ours, theirs in zip(
        jax.tree.leaves(params), jax.tree.leaves(wanted), strict=True
    ):
        assert ours.sharding.is_equivalent_to(theirs.sharding, ours.ndim)
    return flat(params)


@pytest.mark.parametrize("stage", ["align", "full"])
def test_tuning_begins_with_another_ones_parameters_and_new_lora(
    configure, tmp_path, stage
):
    theirs = kept_run(configure(train__stage=stage), tmp_path)
    found = begun(configure(init_from=str(tmp_path), **TUNE))
    assert found.keys() == theirs.keys() | LORA
    for path, value in theirs.items():
        np.testing.assert_array_equal(found[path], value)
    for path in LORA:
        assert np.any(found[path]) == path.endswith("lora_a")


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_from_tune_to_full_lora_is_merged(configure, tmp_path, sizes):
    config = configure(**TUNE)
    theirs = kept_run(config, tmp_path)
    axes = ("mesh__data", "mesh__fsdp", "mesh__tensor")
    mesh = dict(zip(axes, sizes, strict=True))
    found = begun(configure(init_from=str(tmp_path), **mesh))
    assert_close(found, merged(theirs, config))


def test_from_tune_to_tune_the_same_lora_goes_on_and_another_is_merged(
    configure, tmp_path
):
    config = configure(**TUNE)
    theirs = kept_run(config, tmp_path)
    beginning = {"init_from": str(tmp_path)} | TUNE
    same = begun(configure(**beginning | {"lora__dropout": 0.1}))
    assert_close(same, theirs)
    other = begun(configure(**beginning | {"lora__rank": 3}))
    fresh = {path: other.pop(path) for path in LORA}
    assert_close(other, merged(theirs, config))
    assert fresh["language_model/lm_head/lora_a"].shape == (8, 3)
    assert not np.any(fresh["language_model/lm_head/lora_b"])


def test_a_folder_of_weights_gets_new_lora(configure, tmp_path, monkeypatch):
    model: Any = drawn(lambda: make_model(configure(), nnx.Rngs(0)))

    def read(folder, mesh):
        shardings = parameter_shardings(nnx.state(model), mesh)
        nnx.update(model, jax.device_put(nnx.state(model), shardings))
        return model

    monkeypatch.setattr(loop.DeemoLlama, "from_pretrained", read)
    (tmp_path / "config.json").touch()
    found = begun(configure(init_from=str(tmp_path), **TUNE))
    assert found.keys() == flat(nnx.state(model)).keys() | LORA
    path = "language_model/lm_head/kernel"
    np.testing.assert_array_equal(found[path], flat(nnx.state(model))[path])


def test_a_beginning_of_another_model_is_refused(configure, tmp_path):
    kept_run(configure(), tmp_path)
    config = configure(init_from=str(tmp_path), model__vision_feature_layer=-2)
    with pytest.raises(ConfigError, match=r"init_from is .* another model than config"):
        begun(config)


def test_a_beginning_without_its_configuration_is_refused(configure, tmp_path):
    kept_run(configure(), tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"init_from is .* no config.json"):
        begun(configure(init_from=str(tmp_path)))


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


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(
    configure, tmp_path
):
    config = configure(optimizer__learning_rate=1e38, optimizer__weight_decay=0.0)
    with pytest.raises(RuntimeError, match=r"at step \d+ .*learning_rate"):
        train(config, tmp_path)
    for row in rows(tmp_path):
        assert np.isfinite(row["loss"])


def test_evaluation_is_called_between_the_steps(configure, tmp_path):
    seen = []

    def evaluate(model, step):
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
