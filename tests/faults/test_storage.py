"""A full disk, a disk that cannot be written, checkpoints that are not of the run."""

import contextlib
import os
from pathlib import Path
import shutil
import subprocess

import pytest

from tests.faults.conftest import good, steps

STEPS = 400
SETTINGS = {"train__steps": STEPS, "train__save_every": 2}


@contextlib.contextmanager
def mounted(folder: Path, options: str):
    """A small disk of its own at `folder`."""
    folder.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    """Leaves no room on the disk of a folder."""
    file = os.open(folder / "ballast", os.O_CREAT | os.O_WRONLY)
    with contextlib.suppress(OSError):
        while True:
            os.write(file, bytes(4096))
    os.close(file)


def complaints(run):
    """What a run that failed says for it, one line each."""
    return [line for line in run.said.splitlines() if line.startswith("deemo train: ")]


def test_a_full_disk_ends_the_run_and_takes_nothing_with_it(launch, tmp_path):
    with mounted(tmp_path / "run", "size=8m") as workdir:
        run = launch(workdir, **SETTINGS)
        run.until_step(8)
        fill(workdir)
        assert run.end() == 1, run.said
        assert len(complaints(run)) == 1
        assert "No space left on device" in complaints(run)[0]
        assert ": make room, the same command goes on" in run.said
        before = good(workdir)
        assert before
        reached = max(steps(workdir))
        assert max(before) >= reached - 6
        # With room again, the same command goes on from there.
        (workdir / "ballast").unlink()
        again = launch(workdir, **SETTINGS | {"train__steps": reached + 4})
        assert again.end() == 0, again.said
        assert f"resumed at step {max(before)}\n" in again.said
        assert list(steps(workdir)) == list(range(1, reached + 5))


@pytest.mark.slow
def test_of_several_processes_all_say_that_the_disk_is_full(launch, tmp_path):
    with mounted(tmp_path / "run", "size=8m") as workdir:
        run = launch(workdir, 2, 4, **SETTINGS | {"train__stall_seconds": 20})
        run.until_step(8)
        fill(workdir)
        assert run.end() == 1, run.said
    said = [line for line in run.said.splitlines() if "No space left on dev" in line]
    assert any("deemo train: " in line for line in said), run.said
    assert any("process 0 failed in" in line for line in said), run.said
    assert "fatal errors" not in run.said  # which JAX says before it aborts


def test_a_disk_that_cannot_be_written_is_refused_and_left_as_it_is(launch, tmp_path):
    with mounted(tmp_path / "run", "size=8m") as workdir:
        run = launch(workdir, **SETTINGS | {"train__steps": 4})
        assert run.end() == 0, run.said
        subprocess.run(["mount", "-o", "remount,ro", str(workdir)], check=True)
        again = launch(workdir, **SETTINGS | {"train__steps": 8})
        assert again.end() != 0
        assert len(complaints(again)) == 1
        assert "Read-only file system" in complaints(again)[0]
        assert good(workdir) == {2, 4}


@pytest.fixture(scope="module")
def finished(launch, tmp_path_factory):
    run = launch(
        tmp_path_factory.mktemp("finished") / "run",
        train__steps=8, train__save_every=2, train__keep=3,
    )  # fmt: skip
    assert run.end() == 0, run.said
    return run.workdir


def largest(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(
    "harm", ["truncated", pytest.param("flipped", marks=pytest.mark.slow)]
)
def test_a_damaged_newest_checkpoint_is_passed_over(launch, finished, tmp_path, harm):
    workdir = shutil.copytree(finished, tmp_path / "run")
    file = largest(workdir / "checkpoints" / "8")
    data = bytearray(file.read_bytes())
    if harm == "flipped":
        data[len(data) // 2] ^= 1
    else:
        os.truncate(file, len(data) // 2)
        data = bytearray(file.read_bytes())
    file.write_bytes(data)
    again = launch(workdir, train__steps=8, train__save_every=2, train__keep=3)
    assert again.end() == 0, again.said
    assert "checkpoints/8 is passed over" in again.said
    assert "resumed at step 6\n" in again.said
    assert steps(workdir) == steps(finished)
    assert good(workdir) == {4, 6, 8}  # 8 was made anew


@pytest.mark.slow
def test_checkpoints_of_another_model_are_refused_and_left(launch, finished, tmp_path):
    """Put there by hand: the workdir's own configuration is not theirs."""
    other = launch(
        tmp_path / "run", train__steps=2, model__language_model__vocab_size=600
    )
    assert other.end() == 0, other.said
    shutil.rmtree(other.workdir / "checkpoints")
    shutil.copytree(finished / "checkpoints", other.workdir / "checkpoints")
    again = launch(
        other.workdir, train__steps=10, model__language_model__vocab_size=600
    )
    assert again.end() in (1, 2)
    assert len(complaints(again)) == 1, again.said
    assert "is of another model, stage or optimizer" in complaints(again)[0]
    assert good(other.workdir) == {4, 6, 8}
