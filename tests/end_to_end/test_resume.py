"""A run killed in its middle and started again is the run that was never killed."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

from deemo_jax.config import to_dict
from tests.small import make_corpus, small_config

STEPS, KILLED = 60, 30
PROGRAM = (
    "import json, pathlib, sys\n"
    "from deemo_jax.config import from_dict\n"
    "from deemo_jax.train.loop import train\n"
    "config, workdir = map(pathlib.Path, sys.argv[1:])\n"
    "train(from_dict(json.loads(config.read_text())), workdir)\n"
)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts a run of 60 steps in a process of its own."""
    folder = tmp_path_factory.mktemp("resume")
    config = small_config(
        data__path=str(make_corpus(folder / "corpus")), train__steps=STEPS
    )
    (folder / "run.json").write_text(json.dumps(to_dict(config)))
    environment = dict(os.environ)
    # Each process compiles the same program: the first one for all.
    environment["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
    command = [sys.executable, "-c", PROGRAM, str(folder / "run.json")]

    def run(workdir):
        return subprocess.Popen(
            [*command, str(workdir)],
            cwd=Path(__file__).parents[2],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run


def rows(workdir):
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def finish(process):
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def test_killed_at_step_30_and_started_again(start, tmp_path):
    finish(start(tmp_path / "straight"))

    process = start(tmp_path / "killed")
    while len(rows(tmp_path / "killed")) < KILLED:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert KILLED <= rows(tmp_path / "killed")[-1]["step"] < STEPS

    output = finish(start(tmp_path / "killed"))
    said = [line for line in output.splitlines() if line.startswith("resumed at")]
    assert said[0] in {f"resumed at step {step}" for step in range(10, STEPS, 10)}
    log = (tmp_path / "killed" / "train.log").read_text()
    assert said[0] in log

    expected = [(row["step"], row["loss"]) for row in rows(tmp_path / "straight")]
    found = [(row["step"], row["loss"]) for row in rows(tmp_path / "killed")]
    assert [step for step, _ in expected] == list(range(1, STEPS + 1))
    assert found == expected
