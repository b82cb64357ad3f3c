"""The shell files under `launch/` and `.ci/` parse, and can be started."""

import os
import shutil
import subprocess

import pytest

from deemo_jax.exits import LOST, PREEMPTED
from tests.launch.conftest import BETWEEN_STARTS, LAUNCH

FILES = [*sorted(LAUNCH.glob("*.s*")), LAUNCH.parent / ".ci" / "run"]
# `${DEEMO:-deemo}` may be several words; functions are called by `trap`; what stands in
# single quotes is for the shells of the workers.
EXCLUDED = "SC2086,SC2317,SC2016"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_parses_and_says_how_it_is_used(path):
    subprocess.run(["bash", "-n", path], check=True)
    head = path.read_text().splitlines()[:3]
    assert head[0] == "#!/usr/bin/env bash"
    assert head[1].startswith("# ")
    assert path.suffix == ".sbatch" or os.access(path, os.X_OK)


@pytest.mark.skipif(
    shutil.which("shellcheck") is None,
    reason="shellcheck is missing: apt-get install shellcheck",
)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    done = subprocess.run(
        ["shellcheck", "--shell=bash", f"--exclude={EXCLUDED}", path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [("local.sh", []), ("mpi.sh", ["-np", "2"]), ("tpu_vm.sh", [])],
)
def test_without_its_arguments_it_says_how_it_is_used(name, words):
    done = subprocess.run([LAUNCH / name, *words], capture_output=True, text=True)
    assert done.returncode != 0
    assert f"usage: launch/{name}" in done.stderr


def test_mpi_asked_to_stop_between_two_starts_does_not_start_again(tmp_path):
    called, stop = tmp_path / "called", tmp_path / "stop.sh"
    (tmp_path / "mpirun").write_text(f"#!/bin/sh\necho >>{called}\nexit {LOST}\n")
    (tmp_path / "mpirun").chmod(0o755)
    stop.write_text(BETWEEN_STARTS.format(name="mpi.sh"))
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        [LAUNCH / "mpi.sh", "-np", "2", "--"],
        env=os.environ | {"PATH": path, "BASH_ENV": str(stop)},
        timeout=60,
    )
    assert done.returncode == PREEMPTED
    assert called.read_text() == "\n"
