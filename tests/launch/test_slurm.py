"""`launch/slurm.sbatch` on a real SLURM, whose two nodes are both this machine."""

from collections.abc import Iterator
import contextlib
import json
import os
from pathlib import Path
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time

import numpy as np
import pytest

from deemo_jax.train.watchdog import FOLDER
from tests.faults.conftest import environment, steps
from tests.launch.conftest import LAUNCH

SECONDS = 120  # bound of whatever is waited for
STEPS = 400
CONF = """
ClusterName=deemo
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/linear
SlurmdParameters=config_overrides
MpiDefault=none
# Of the number of a job JAX makes the port on which its first process listens.
FirstJobId={first_job}
SchedulerParameters=sched_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={node} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName={node}-b NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=120 State=UP
PartitionName=high Nodes=ALL PriorityTier=2 State=UP
"""


class Slurm:
    """A cluster under way."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.env = environment() | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        }

    def __call__(self, *words: str | Path) -> str:
        done = subprocess.run(
            words, env=self.env, cwd=self.folder, capture_output=True, text=True
        )
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def submit(self, config: Path, workdir: Path) -> "Job":
        name = self(
            "sbatch", "--parsable", "--nodes=2", "--output=%j.log",
            LAUNCH / "slurm.sbatch", f"--config={config}", f"--workdir={workdir}",
        )  # fmt: skip
        return Job(self, name.strip())


class Job:
    """One that was submitted, and what it has said so far."""

    def __init__(self, slurm: Slurm, name: str):
        self.slurm, self.name = slurm, name

    @property
    def said(self) -> str:
        log = self.slurm.folder / f"{self.name}.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def __getitem__(self, key: str) -> str:
        shown = self.slurm("scontrol", "show", "job", self.name)
        [value] = re.findall(rf"\b{key}=(\S+)", shown)
        return value

    def until(self, holds) -> None:
        end = time.monotonic() + SECONDS
        while not holds():
            assert time.monotonic() < end, (self["JobState"], self.said)
            time.sleep(0.2)

    def ends_as(self, state: str) -> None:
        running = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED")
        self.until(lambda: self["JobState"] not in running)
        assert self["JobState"] == state, self.said

    def starts_again(self) -> None:
        """SLURM lets a job that queues again wait for two minutes; here it does not."""
        self.until(lambda: self["JobState"] == "PENDING" and self["Restarts"] != "0")
        self.slurm("scontrol", "update", f"JobId={self.name}", "StartTime=now")


@contextlib.contextmanager
def daemon(*words: str | Path, env: dict[str, str] | None = None) -> Iterator[None]:
    """A program in the foreground, ended afterwards."""
    running = subprocess.Popen(
        words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[Slurm]:
    # Debian has the daemons where only root looks.
    path = os.environ["PATH"] + ":/usr/sbin"
    programs = {}
    for name in ("munged", "slurmctld", "slurmd", "sbatch"):
        programs[name] = shutil.which(name, path=path)
        if programs[name] is None:
            pytest.skip(f"{name} is missing: apt-get install slurm-wlm munge")
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    node = socket.gethostname()  # which JAX must be able to resolve
    (folder / "slurm.conf").write_text(
        CONF.format(
            folder=folder,
            node=node,
            ports=free_ports(3),
            user=Path("/proc/self").owner(),
            first_job=1 + secrets.randbelow(4000),
        )
    )
    slurm = Slurm(folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            daemon(
                programs["munged"], "--foreground", "--force", f"--key-file={key}",
                *(
                    f"--{name}-file={folder}/munge.{name}"
                    for name in ("pid", "log", "seed")
                ),
                f"--socket={folder}/munge.socket",
            )
        )  # fmt: skip
        until(lambda: (folder / "munge.socket").exists(), "munged")
        for words in (
            ("slurmctld", "-D", "-c"),
            ("slurmd", "-D", "-N", node),
            ("slurmd", "-D", "-N", f"{node}-b"),
        ):
            stack.enter_context(daemon(programs[words[0]], *words[1:], env=slurm.env))
        until(lambda: slurm("sinfo", "-h", "-o", "%D%T").startswith("2idle"), folder)
        yield slurm
        # What a failed test has left, ends with the cluster.
        slurm("scancel", "--quiet", "--full", "--signal=KILL", "--state=RUNNING")
        until(
            lambda: not slurm("squeue", "-h", "--state=RUNNING,COMPLETING"), "the end"
        )


def until(holds, what) -> None:
    end = time.monotonic() + 30
    while True:
        with contextlib.suppress(AssertionError):
            if holds():
                return
        assert time.monotonic() < end, f"{what} did not come up"
        time.sleep(0.2)


def test_bad_usage_does_not_queue_again(slurm, tmp_path):
    config = tmp_path / "config.py"
    config.write_text("def get_config():\n    return no_such_name\n")
    job = slurm.submit(config, tmp_path / "run")
    job.ends_as("FAILED")
    assert "no_such_name" in job.said
    assert (job["ExitCode"], job["Restarts"]) == ("2:0", "0")


@pytest.mark.slow
def test_preempted_it_queues_again_and_goes_on(slurm, launch, undisturbed, tmp_path):
    changes = {"train__steps": STEPS, "train__save_every": STEPS}
    workdir = tmp_path / "run"
    job = slurm.submit(launch.configured(**changes), workdir)
    job.until(lambda: len(steps(workdir)) >= 10)
    slurm("sbatch", "--partition=high", "--output=/dev/null", "--wrap=sleep 1")
    job.starts_again()
    [saved] = re.findall(rf"asked to stop, saved at step (\d+) of {STEPS}", job.said)
    assert 10 <= int(saved) < STEPS
    assert "exit code 75: the job queues again" in job.said
    job.ends_as("COMPLETED")
    assert f"resumed at step {saved}\n" in job.said
    assert job["Restarts"] == "1"
    before, found = steps(undisturbed(**changes)), steps(workdir)
    assert list(found) == list(before) == list(range(1, STEPS + 1))
    np.testing.assert_allclose([*found.values()], [*before.values()], rtol=1e-5)


@pytest.mark.slow
def test_asked_to_save_it_queues_again_and_cancelled_it_does_not(
    slurm, launch, tmp_path
):
    workdir = tmp_path / "run"
    config = launch.configured(train__steps=100_000, train__save_every=1000)
    job = slurm.submit(config, workdir)
    job.until(lambda: len(steps(workdir)) >= 5)
    slurm("scancel", "--signal=TERM", job.name)
    job.starts_again()
    job.until(lambda: "resumed at step" in job.said)
    slurm("scancel", job.name)
    job.ends_as("CANCELLED")
    assert job["Restarts"] == "1"


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_the_job_queues_again(
    slurm, launch, tmp_path, monkeypatch
):
    monkeypatch.setitem(slurm.env, "GRACE", "5")
    workdir = tmp_path / "run"
    job = slurm.submit(launch.configured(train__steps=100_000), workdir)
    job.until(lambda: len(steps(workdir)) >= 15)
    beat = json.loads((workdir / FOLDER / "1.json").read_text())
    os.kill(beat["pid"], signal.SIGKILL)
    job.starts_again()
    assert "exit code 137: the job queues again" in job.said
    job.until(lambda: "resumed at step" in job.said)
    slurm("scancel", job.name)
    job.ends_as("CANCELLED")
