import errno
import json
import subprocess
import sys
import time

import pytest

from deemo_jax.config import ConfigError
from deemo_jax.exits import LOST
from deemo_jax.storage import locate
from deemo_jax.train import lock
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


def test_a_lock_in_a_bucket_is_given_back_and_taken_again(bucket, tmp_path):
    workdir = locate(f"{bucket}/{tmp_path.name}")
    for _ in range(2):
        with locked(workdir):
            assert "process " in json.loads((workdir / LOCK).read_text())["holder"]
        assert not (workdir / LOCK).exists()


def test_a_lock_in_a_bucket_is_kept_while_its_run_lives(
    bucket, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 1.0)
    workdir = locate(f"{bucket}/{tmp_path.name}")
    with locked(workdir):
        before = (workdir / LOCK).read_text()
        with pytest.raises(ConfigError, match="by process .*wait"), locked(workdir):
            raise AssertionError("two had it")
        assert (workdir / LOCK).read_text() != before
    assert "in 1 s" in capsys.readouterr().out


def test_a_lock_in_a_bucket_whose_run_is_dead_is_taken(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.2)
    workdir = locate(f"{bucket}/{tmp_path.name}")
    workdir.mkdir(parents=True)
    (workdir / LOCK).write_text('{"holder": "a dead one", "id": "", "renewed": 7}')
    with locked(workdir):
        assert "dead" not in (workdir / LOCK).read_text()


@pytest.mark.parametrize("let_go", [False, True])
def test_one_that_another_run_has_taken_meanwhile_ends_this_one(
    bucket, tmp_path, monkeypatch, capfd, let_go
):
    codes = []

    def end(code):
        codes.append(code)
        raise RuntimeError  # it would not come back, and nothing would be written

    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.4)
    monkeypatch.setattr(lock, "end_now", end)
    workdir = locate(f"{bucket}/{tmp_path.name}")
    with locked(workdir):
        other = '{"holder": "another", "id": "x", "renewed": 0}'
        if let_go:
            (workdir / LOCK).unlink()
        else:
            (workdir / LOCK).write_text(other)
        deadline = time.monotonic() + 20
        while not codes and time.monotonic() < deadline:
            time.sleep(0.05)
        codes.append(None)
        (workdir / LOCK).write_text(other)
    assert codes[0] == LOST
    assert f"another run has taken {workdir}/{LOCK}" in capfd.readouterr().err
    assert (workdir / LOCK).exists()  # it is not this one's to let go


def test_a_workdir_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    said = r"workdir=.*file is no folder .*choose"
    with pytest.raises(ConfigError, match=said), locked(tmp_path / "file"):
        raise AssertionError("not reached")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_warned_of(
    tmp_path, monkeypatch, capsys, number
):
    def flock(*_):
        raise OSError(number, "no locks")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith("process ")
    said = capsys.readouterr().err
    assert said == (
        f"{tmp_path}/.lock cannot be locked (no locks): see to it that no other run "
        f"uses this workdir\n"
    )
