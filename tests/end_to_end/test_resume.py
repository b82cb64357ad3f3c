"""A run killed in the middle and started again is the run that was never killed."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

from deemo_jax.data.source import ShardSource
from deemo_jax.train.prepare import prepare_tokenizer
from tests.small import make_corpus, small_config

ROOT = Path(__file__).parents[2]
STEPS, KILLED_AT = 60, 30
SECONDS = 300  # bound of one run

# A run of the small configuration as a process of its own.
PROGRAM = """
import sys
from pathlib import Path
from deemo_jax.train.loop import train
from tests.small import small_config

packed, tokenizer, workdir = sys.argv[1:]
config = small_config(
    data__path=packed, data__tokenizer=tokenizer, train__steps=60, train__save_every=10
)
train(config, Path(workdir))
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    packed = make_corpus(folder)
    prepare_tokenizer(small_config(), folder, ShardSource(packed, "train"))
    return packed, folder / "tokenizer"


def start(corpus, workdir: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, corpus), str(workdir)],
        cwd=ROOT,
        # One device, which is quickest: other meshes are killed in `tests/faults`.
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "XLA_FLAGS": "",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def steps_logged(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def losses(workdir: Path) -> dict[int, float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["step"]: row["loss"] for row in rows}


@pytest.mark.slow  # with a smaller model, `tests/faults` does it in every run
def test_killed_at_step_30_and_resumed_equals_straight_through(corpus, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    whole = start(corpus, straight)
    said, _ = whole.communicate(timeout=SECONDS)
    assert whole.returncode == 0, said

    doomed = start(corpus, killed)
    until = time.monotonic() + SECONDS
    while steps_logged(killed) < KILLED_AT:
        assert doomed.poll() is None, doomed.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.01)
    doomed.send_signal(signal.SIGKILL)
    doomed.communicate()
    assert doomed.returncode == -signal.SIGKILL
    assert steps_logged(killed) < STEPS

    again = start(corpus, killed)
    said, _ = again.communicate(timeout=SECONDS)
    assert again.returncode == 0, said
    assert any(f"resumed at step {step}" in said for step in (10, 20, 30, 40, 50))
    assert losses(killed) == losses(straight)  # to the last bit
    assert list(losses(killed)) == list(range(1, STEPS + 1))
