"""Real processes on this machine: the same run, whatever their number."""

import json
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest

from deemo_jax.data.shards import ShardSource
from deemo_jax.train.prepare import prepare_tokenizer
from tests.small import make_corpus, small_config

ROOT = Path(__file__).parents[2]
STEPS = 20
SECONDS = 400
CONFIG = """
from tests.small import small_config_dict

def get_config():
    return small_config_dict(
        data__path={path!r}, data__tokenizer={tokenizer!r}, train__steps={steps},
        train__save_every=10, mesh__data=2, mesh__fsdp=2, mesh__tensor=2,
    )
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    packed = make_corpus(folder)
    prepare_tokenizer(small_config(), folder, ShardSource(packed, "train"))
    return packed, folder / "tokenizer"


def launch(corpus, workdir: Path, count: int, devices: int):
    """`launch/local.sh`, to its end: exit code and what was said."""
    packed, tokenizer = map(str, corpus)
    config = workdir.with_suffix(".py")
    config.write_text(CONFIG.format(path=packed, tokenizer=tokenizer, steps=STEPS))
    done = subprocess.run(
        [str(ROOT / "launch" / "local.sh"), str(count),
         f"--config={config}", f"--workdir={workdir}"],
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "DEEMO": f"{sys.executable} -m deemo_jax",
            "DEVICES": str(devices),
            "XLA_FLAGS": "",
        },
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def losses(workdir: Path) -> list[float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "run"
    code, said = launch(corpus, workdir, 1, 8)
    assert code == 0, said
    return losses(workdir)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "devices"), [(2, 4), (4, 2)])
def test_processes_see_the_losses_of_one(corpus, alone, tmp_path, count, devices):
    workdir = tmp_path / "run"
    code, said = launch(corpus, workdir, count, devices)
    assert code == 0, said
    assert said.count(f"done: {STEPS} steps") == 1
    environment = json.loads((workdir / "environment.json").read_text())
    assert environment["devices"]["processes"] == count
    np.testing.assert_allclose(losses(workdir), alone, rtol=1e-5)
    ledger = (workdir / "ledger.jsonl").read_text().splitlines()
    assert [json.loads(line)["steps"] for line in ledger] == [[1, STEPS]]
