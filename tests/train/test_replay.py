"""A recorded step run again: the same bits, or told which are not."""

import json
import shutil

import pytest

from deemo_jax.config import ConfigError
from deemo_jax.train import step
from deemo_jax.train.loop import train
from deemo_jax.train.replay import replay
from tests.small import Bigrams, small_config


@pytest.fixture(scope="module", autouse=True)
def bigrams():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "DeemoLlama", Bigrams)
        yield


@pytest.fixture(scope="module")
def config(corpus):
    return small_config(
        data__path=str(corpus), train__save_every=4, train__steps=10, train__keep=9
    )


@pytest.fixture(scope="module")
def trained(config, bigrams, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    train(config, workdir)
    return workdir


@pytest.fixture
def workdir(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def everything(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(("number", "start"), [(1, 0), (4, 0), (5, 4), (7, 4), (10, 8)])
def test_a_step_gives_the_same_bits(config, workdir, number, start):
    before = everything(workdir)
    found = replay(config, workdir, number)
    assert found.same
    assert found.start == start
    assert found.recorded["loss"] == found.found["loss"]
    assert f"step {number}, run again from step {start}" in found.describe()
    assert len(found.clips) == config.train.batch_size
    assert everything(workdir) == before  # nothing is touched


def test_a_figure_that_differs_in_its_last_bit_is_told(config, workdir):
    path = workdir / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[5]["loss"] *= 1 + 2**-50
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = replay(config, workdir, 6)
    assert not found.same
    loss, grad_norm = found.describe().splitlines()[1:3]
    assert loss.endswith("DIFFERENT")
    assert grad_norm.endswith("the same")
    assert replay(config, workdir, 7).same


@pytest.mark.parametrize("number", [11, 400])
def test_a_step_that_is_not_recorded_is_refused(config, workdir, number):
    with pytest.raises(ConfigError, match=rf"--replay is {number}, .* are 1 to 10"):
        replay(config, workdir, number)


def test_another_run_is_refused(config, workdir, corpus):
    other = small_config(data__path=str(corpus), seed=1)
    with pytest.raises(ConfigError, match="config.seed was 0 and is 1"):
        replay(other, workdir, 5)


def test_other_records_are_refused(config, workdir):
    path = workdir / "ledger.jsonl"
    entry = json.loads(path.read_text())
    entry["data"]["manifest"] = "another"
    path.write_text(json.dumps(entry) + "\n")
    with pytest.raises(ConfigError, match="trained on other records"):
        replay(config, workdir, 5)
