"""One process fails: all end, with its exit code, and say which it was and why."""

import contextlib
import json
import socket
import subprocess
import time

import pytest

from deemo_jax.exits import BAD_USAGE, FAILED, LOST
from tests.faults.conftest import SECONDS, environment, good, steps

STEPS = {"train__steps": 8, "train__save_every": 2, "train__stall_seconds": 12}
KILLED, ABORTED = -9, -6
# With the first process dies the service of JAX that all are connected to; whichever
# thread of another process sees it first ends that process, JAX's own by aborting it.
WITHOUT_THE_FIRST = (LOST, ABORTED)


@pytest.fixture
def processes(launch, tmp_path):
    """Starts processes without `launch/local.sh`, which would end them all.

    Gives the exit code of each, and what each said.
    """
    started = []

    def run(*changes, fail="-1:0:none", workdirs=None, devices=2):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        program = environment("tests/faults/deemo_fails.py")
        flag = f"--xla_force_host_platform_device_count={devices}"
        count, logs = len(changes), []
        with contextlib.ExitStack() as stack:
            for index, changed in enumerate(changes):
                config = launch.configured(**STEPS | changed)
                workdir = (workdirs or [tmp_path / "run"] * count)[index]
                logs.append(tmp_path / f"said_{index}.txt")
                words = [
                    *program["DEEMO"].split(), "train", f"--config={config}",
                    f"--workdir={workdir}", f"--coordinator=127.0.0.1:{port}",
                    f"--process_count={count}", f"--process_index={index}",
                ]  # fmt: skip
                log = stack.enter_context(open(logs[-1], "w"))
                asked = {"FAIL": fail, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flag}
                started.append(
                    subprocess.Popen(words, env=program | asked, stdout=log, stderr=log)
                )
        end = time.monotonic() + SECONDS
        codes = [x.wait(max(1.0, end - time.monotonic())) for x in started[-count:]]
        return codes, [log.read_text() for log in logs]

    yield run
    for process in started:
        process.kill()


@pytest.mark.parametrize(
    ("fail", "codes"),
    [
        ("0:5:RuntimeError", [FAILED] * 2),
        pytest.param("1:5:RuntimeError", [FAILED] * 2, marks=pytest.mark.slow),
        pytest.param("0:5:ConfigError", [BAD_USAGE] * 2, marks=pytest.mark.slow),
        pytest.param("2:5:ConfigError", [BAD_USAGE] * 4, marks=pytest.mark.slow),
        pytest.param("1:5:SIGKILL", [LOST, KILLED], marks=pytest.mark.slow),
        pytest.param(
            "0:5:SIGKILL", [KILLED, WITHOUT_THE_FIRST], marks=pytest.mark.slow
        ),
        pytest.param("2:5:SIGKILL", [LOST, LOST, KILLED, LOST], marks=pytest.mark.slow),
    ],
)
def test_all_end_as_the_one_that_failed(processes, tmp_path, fail, codes):
    found, said = processes(*[{}] * len(codes), fail=fail)
    failed, _, how = fail.split(":")
    for code, accepted in zip(found, codes, strict=True):
        assert code == accepted or code in WITHOUT_THE_FIRST == accepted, said
    for process, words in enumerate(said):
        if process == int(failed):
            assert how == "SIGKILL" or "out of luck" in words
        elif found[process] == ABORTED:
            assert "JAX distributed service detected fatal errors" in words
        elif how == "SIGKILL":
            assert "another process is gone" in words or "stopped: process" in words
        else:
            assert f"process {failed} failed" in words
            assert "out of luck" in words
    # What was saved is there, and the next start goes on from it.
    found, said = processes(*[{}] * len(codes))
    assert found == [0] * len(codes), said
    assert "resumed at step" in said[0]
    assert list(steps(tmp_path / "run")) == list(range(1, 9))


EVALUATED = {
    "evaluate__every": 4, "evaluate__batch_size": 4, "evaluate__ablations": False,
    "evaluate__max_new_tokens": 4, "evaluate__split": "train", "mesh__fsdp": 2,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("killed", [1, 0])
def test_one_of_two_killed_in_a_save_a_restore_and_an_evaluation(
    processes, tmp_path, killed
):
    straight, run = [tmp_path / "straight"] * 2, [tmp_path / "run"] * 2
    found, said = processes(EVALUATED, EVALUATED, workdirs=straight)
    assert found == [0, 0], said
    for fail in ("2:SIGKILL:save", "1:SIGKILL:restore", "1:SIGKILL:evaluate"):
        found, said = processes(
            EVALUATED, EVALUATED, workdirs=run, fail=f"{killed}:{fail}"
        )
        assert found[killed] == KILLED, said
        other = found[1 - killed]
        assert other == LOST or (killed == 0 and other in WITHOUT_THE_FIRST), said
    found, said = processes(EVALUATED, EVALUATED, workdirs=run)
    assert found == [0, 0], said
    assert "resumed at step" in said[0]
    assert steps(tmp_path / "run") == steps(tmp_path / "straight")
    assert good(tmp_path / "run") == good(tmp_path / "straight") == {4, 6, 8}


@pytest.mark.slow
def test_one_of_several_killed_and_all_started_again_give_the_same_losses(
    processes, tmp_path
):
    for name, fail in (("whole", "-1:0:"), ("killed", "1:6:SIGKILL"), ("killed", "")):
        found, said = processes(
            {}, {}, fail=fail or "-1:0:", workdirs=[tmp_path / name] * 2
        )
        assert found == [LOST, KILLED] if "SIGKILL" in fail else [0, 0], said
    assert steps(tmp_path / "whole") == steps(tmp_path / "killed")


@pytest.mark.slow
def test_one_that_is_slow_is_named_in_the_metrics(processes, tmp_path):
    found, said = processes({}, {}, fail="1:3:SLOW")
    assert found == [0, 0], said
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    for row in [json.loads(line) for line in lines][2:]:
        assert row["slowest_process"] == 1
        assert row["slowest_busy_seconds"] > 0.5
        assert row["median_busy_seconds"] < row["slowest_busy_seconds"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            [{}, {"train__steps": 9}],
            "settings of process 1 are not those of process 0",
        ),
        pytest.param(
            [{}, {"data__path": "/nowhere"}], "/nowhere", marks=pytest.mark.slow
        ),
        pytest.param(
            [{"train__batch_size": 7}] * 2, "batch of 7 rows", marks=pytest.mark.slow
        ),
    ],
)
def test_what_one_refuses_all_refuse(processes, changes, words):
    found, said = processes(*changes)
    assert found == [BAD_USAGE] * 2, said
    assert words in said[1]
    assert "Traceback" not in "".join(said)


@pytest.mark.slow
def test_processes_with_workdirs_of_their_own_are_refused(processes, tmp_path):
    found, said = processes({}, {}, workdirs=[tmp_path / "a", tmp_path / "b"])
    assert found == [BAD_USAGE] * 2, said
    assert "process 1 is not the folder that process 0 writes to" in said[1]
