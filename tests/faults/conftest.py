"""Real processes on this machine, started as a user starts them: `launch/local.sh`."""

from collections.abc import Callable, Iterator
import dataclasses
import itertools
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from deemo_jax.checkpoint import find_fault
from deemo_jax.data.source import ShardSource
from deemo_jax.train.prepare import prepare_tokenizer
from deemo_jax.train.watchdog import FOLDER
from tests.small import make_corpus, small_config

ROOT = Path(__file__).parents[2]
SECONDS = 300  # bound of whatever is waited for
CONFIG = """
from tests.small import small_config_dict

def get_config():
    return small_config_dict(**{changes!r})
"""


@dataclasses.dataclass(kw_only=True)
class Run:
    """A run under way, of one process or several, and what it has said so far."""

    workdir: Path
    launched: subprocess.Popen
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def end(self, seconds: float = SECONDS) -> int:
        """Its exit code."""
        try:
            return self.launched.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.said) from None

    def until(self, holds: Callable[[], bool]) -> None:
        """Returns when something has come about, while the run goes on."""
        end = time.monotonic() + SECONDS
        while not holds():
            assert self.launched.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.01)

    def until_step(self, step: int) -> None:
        self.until(lambda: len(steps(self.workdir)) >= step)

    def until_said(self, words: str) -> None:
        self.until(lambda: words in self.said)

    def until_there(self, name: str) -> None:
        self.until((self.workdir / name).exists)

    def beat(self, process: int) -> dict[str, Any]:
        return json.loads((self.workdir / FOLDER / f"{process}.json").read_text())

    def signal(self, process: int, number: signal.Signals) -> None:
        os.kill(self.beat(process)["pid"], number)

    def kill(self) -> None:
        """All its processes, at once."""
        os.killpg(self.launched.pid, signal.SIGKILL)
        self.launched.wait()


@dataclasses.dataclass
class Launcher:
    """Starts runs on one corpus."""

    folder: Path
    data: dict[str, Any]
    started: list[Run] = dataclasses.field(default_factory=list)
    numbers: Iterator[int] = dataclasses.field(default_factory=itertools.count)

    def __call__(
        self,
        workdir: Path,
        count: int = 1,
        devices: int = 8,
        *,
        program: str = "tests/faults/deemo_small.py",
        **changes: Any,
    ) -> Run:
        """A run of `count` processes with so many devices each."""
        config = self.configured(**changes)
        log = config.with_suffix(".txt")
        with open(log, "w") as file:
            launched = subprocess.Popen(
                [
                    str(ROOT / "launch" / "local.sh"), str(count),
                    f"--config={config}", f"--workdir={workdir}",
                ],
                env=environment(program) | {"DEVICES": str(devices), "GRACE": "8"},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        run = Run(workdir=workdir, launched=launched, log=log)
        self.started.append(run)
        return run

    def configured(self, **changes: Any) -> Path:
        """A config file of this corpus."""
        config = self.folder / f"config_{next(self.numbers)}.py"
        config.write_text(CONFIG.format(changes=self.data | changes))
        return config


def environment(program: str = "tests/faults/deemo_small.py") -> dict[str, str]:
    """What the files under `launch/` are given, to start `program` (none: `deemo`)."""
    python = f"{sys.executable} {ROOT / program}" if program else ""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "DEEMO": python or f"{sys.executable} -m deemo_jax",
    }


def steps(workdir: Path) -> dict[int, float]:
    """The loss of every step that was logged, in the order of the lines."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    assert len({row["step"] for row in rows}) == len(rows), "a step is logged twice"
    return {row["step"]: row["loss"] for row in rows}


def good(workdir: Path) -> set[int]:
    """The steps of the checkpoints that are whole."""
    found = [path for path in (workdir / "checkpoints").iterdir() if path.is_dir()]
    numbered = [path for path in found if path.name.isdecimal()]
    return {int(path.name) for path in numbered if find_fault(path) is None}


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launched")
    packed = make_corpus(folder)
    prepare_tokenizer(small_config(), folder, ShardSource(packed, "train"))
    data = {"data__path": str(packed), "data__tokenizer": str(folder / "tokenizer")}
    launcher = Launcher(folder, data)
    yield launcher
    for run in launcher.started:
        if run.launched.poll() is None:
            run.kill()
