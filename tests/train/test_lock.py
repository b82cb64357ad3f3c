import subprocess
import sys

import pytest

from deemo_jax.config import ConfigError
from deemo_jax.train.lock import LOCK, locked

HOLD = """
import sys, time
from pathlib import Path
from deemo_jax.train.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_another_process_has_the_workdir_until_it_is_gone(tmp_path):
    workdir = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(workdir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            before = (workdir / LOCK).read_text()
            named = f"by process {other.pid} on .*wait"
            with pytest.raises(ConfigError, match=named), locked(workdir):
                raise AssertionError("two had it")
            assert (workdir / LOCK).read_text() == before
        finally:
            other.kill()
    with locked(workdir):  # however it ended
        assert f"process {other.pid} on" not in (workdir / LOCK).read_text()


def test_it_is_given_back_and_taken_again(tmp_path):
    for _ in range(2):
        with locked(tmp_path):
            assert (tmp_path / LOCK).read_text().startswith("process ")
