"""`launch/tpu_vm.sh` with a `gcloud` whose two workers are both this machine."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from tests.launch.conftest import BETWEEN_STARTS, LAUNCH

SECONDS = 120  # bound of whatever is waited for

# As the real one, it gives the command to each worker's shell, prints what they say,
# waits for all, and ends with the exit code of the first worker that has failed.
GCLOUD = """#!/bin/bash
printf '%q ' "$@" >>"$FAKE/asked"; echo >>"$FAKE/asked"
for word; do case $word in --command=*) command=${word#--command=} ;; esac; done
for worker in 0 1; do
    (cd "$FAKE/home$worker" && HOME=$PWD exec bash -c "$command") & workers[worker]=$!
done
failed=0
for worker in 0 1; do
    code=0
    wait "${workers[worker]}" || code=$?
    if ((code && !failed)); then failed=$code; fi
done
exit "$failed"
"""
# `deemo` on a worker: ends with the next of the exit codes that the test has written.
DEEMO = """#!{python}
import json, os, signal, sys, time
here = os.getcwd()
with open(here + "/called", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
codes = [int(word) for word in open(here + "/codes").read().split()]
code = codes[len(open(here + "/called").readlines()) - 1]
if code < 0:
    os.kill(os.getpid(), -code)
if code == 98:
    os.kill(os.getpid(), signal.SIGSTOP)
if code == 99:  # trains until it is asked to stop
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    open(here + "/trains", "w").close()
    for _ in range(600):  # or until the test has failed
        time.sleep(0.05)
sys.exit(code)
"""
STRANGE = '--config.run.note=it\'s "$HOME" `id` $(id) ; & | * ü \\'


@pytest.fixture
def workers(tmp_path):
    for worker in "01":
        (tmp_path / f"home{worker}" / "deemo jax" / ".venv" / "bin").mkdir(parents=True)
        program = tmp_path / f"home{worker}" / "deemo jax" / ".venv" / "bin" / "deemo"
        program.write_text(DEEMO.format(python=sys.executable))
        program.chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gcloud").write_text(GCLOUD)
    (tmp_path / "bin" / "gcloud").chmod(0o755)
    return [tmp_path / "home0" / "deemo jax", tmp_path / "home1" / "deemo jax"]


def start(workers, codes: tuple[str, str], *words: str, **environment: str):
    for worker, code in zip(workers, codes, strict=True):
        (worker / "codes").write_text(code)
    folder = workers[0].parents[1]
    environment |= {"DIRECTORY": "deemo jax", "FAKE": str(folder)}
    environment["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
    return subprocess.Popen(
        # Where the tests run in the background of a shell, Ctrl-C is ignored.
        ["env", "--default-signal=INT", LAUNCH / "tpu_vm.sh", "slice", *words],
        env=os.environ | environment,
    )


def calls(worker) -> list[str]:
    return (worker / "called").read_text().splitlines()


@pytest.mark.parametrize(
    ("codes", "starts", "code"),
    [
        (("0", "0"), 1, 0),
        (("2", "2"), 1, 2),
        (("1", "1"), 1, 1),
        (("0", "2"), 1, 2),
        (("75 0", "75 0"), 2, 0),
        (("76 0", "76 0"), 2, 0),
        (("0 0", "76 0"), 2, 0),
        (("-9 0", "76 0"), 2, 0),
        (("75 76 75 2", "75 76 75 2"), 4, 2),
    ],
)
def test_it_is_started_again_on_all_workers_or_on_none(workers, codes, starts, code):
    run = start(workers, codes, "--workdir=w")
    assert (run.wait(SECONDS), [len(calls(x)) for x in workers]) == (code, [starts] * 2)


def test_one_that_hangs_is_killed_some_time_after_another_has_failed(workers, capfd):
    run = start(workers, ("76 0", "98 0"), "--workdir=w", GRACE="1")
    assert run.wait(SECONDS) == 0
    assert [len(calls(worker)) for worker in workers] == [2, 2]
    assert "deemo failed here: exit code 76" in capfd.readouterr().out


def test_asked_to_stop_between_two_starts_it_does_not_start_again(workers, tmp_path):
    stop = tmp_path / "stop.sh"
    stop.write_text(BETWEEN_STARTS.format(name="tpu_vm.sh"))
    run = start(workers, ("76 0", "76 0"), "--workdir=w", BASH_ENV=str(stop))
    assert run.wait(SECONDS) == 75
    assert [len(calls(worker)) for worker in workers] == [1, 1]


def test_it_does_not_start_for_ever(workers):
    run = start(workers, ("76 " * 9, "76 " * 9), RESTARTS="3")
    assert run.wait(SECONDS) == 76
    assert len(calls(workers[0])) == 4


def test_words_come_to_every_worker_as_they_were_given(workers):
    run = start(
        workers, ("0", "0"), "--workdir=a b", STRANGE, ZONE="us-east5-b", PROJECT="p"
    )
    assert run.wait(SECONDS) == 0
    for worker in workers:
        assert json.loads(calls(worker)[0]) == ["train", "--workdir=a b", STRANGE]
    [asked] = (workers[0].parents[1] / "asked").read_text().splitlines()
    words = shlex.split(asked)
    assert words[:6] == ["compute", "tpus", "tpu-vm", "ssh", "slice", "--worker=all"]
    assert words[6:8] == ["--zone=us-east5-b", "--project=p"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_asked_to_stop_all_workers_save_and_it_ends(workers, number):
    run = start(workers, ("99 0", "99 0"), "--workdir=w")
    end = time.monotonic() + 20
    while not all((worker / "trains").exists() for worker in workers):
        assert time.monotonic() < end
        time.sleep(0.02)
    run.send_signal(number)
    assert run.wait(SECONDS) == 75
    assert [len(calls(worker)) for worker in workers] == [1, 1]
