"""The watchdog: a process that stalls is named, and the run ends instead of hanging."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import faulthandler
import json
import os
import secrets
import socket
import sys
import threading
import time

from deemo_jax.distributed import broadcast
from deemo_jax.spool import flush, growing
from deemo_jax.storage import AnyPath, in_bucket, read_many, write_whole
from deemo_jax.train.phases import Phases

STALLED = 76  # exit code
FOLDER = "heartbeats"
# Phases in which it is usual that nothing moves for long, and how much longer. An
# evaluation compiles, too; its batches count as moves.
SLOWER = {"start": 6, "restore": 6, "compile": 6, "save": 6, "evaluate": 6}
GRACE_SECONDS = 3.0  # for every process to write its stacks before the first one ends
BEAT_SECONDS, BEAT_SECONDS_IN_BUCKET = 1.0, 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beat:
    """What a process said last: what it does, `count` of its beats, how it ended.

    `run` is the same in all processes of one start of a run; `parts` are those done of
    the phase. `end` is empty while it
    runs, "done", or what it failed by. `fault` is what the first process found wrong
    with any of them.
    """

    run: int
    process: int
    host: str
    pid: int
    count: int
    phase: str
    step: int
    parts: int = 0
    end: str = ""
    fault: str = ""


@dataclasses.dataclass
class _Heard:
    """A process as another one sees it: its last beat, and when that last changed."""

    beat: Beat | None
    alive: float  # when a beat last came
    moved: float  # when its phase, step or part last changed


class Watch:
    """Judges, from the beats of processes, whether one has stalled.

    Times are those of the process that watches: the clocks of hosts need not agree.

    The first process watches all of them, and the others watch it: what is read grows
    with their number, not with its square.
    """

    def __init__(self, count: int, *, process: int = 0, stall_seconds: int, now: float):
        self.watched = range(count) if process == 0 else range(1)
        self._sees_all = process == 0
        self._stall_seconds = stall_seconds
        self._heard = {
            process: _Heard(beat=None, alive=now, moved=now) for process in self.watched
        }

    def hear(self, beats: Mapping[int, Beat], now: float) -> None:
        """Takes in what can be read at the time `now`."""
        for process, beat in beats.items():
            heard = self._heard[process]
            before, heard.beat = heard.beat, beat
            if beat != before:
                heard.alive = now
            if before is None or _place(beat) != _place(before):
                heard.moved = now

    def fault(self, now: float) -> str | None:
        """Which process has failed or stalled, and in what; None if all go on."""
        for process, heard in self._heard.items():
            if heard.beat is not None and heard.beat.fault:
                return heard.beat.fault
            if heard.beat is not None and heard.beat.end not in ("", "done"):
                return f"process {process} failed {_where(heard)}: {heard.beat.end}"
        running = [
            (process, heard)
            for process, heard in self._heard.items()
            if heard.beat is None or not heard.beat.end
        ]
        for process, heard in running:
            silent = now - heard.alive
            if silent > self._stall_seconds:
                return (
                    f"process {process} gave no sign of life for {silent:.0f} s, "
                    f"{_where(heard)}"
                )
        if not self._sees_all:  # which one is behind, the first process says
            return None
        if not any(self._overdue(heard, now) for _, heard in running):
            return None
        # The others wait for the one that is furthest behind.
        behind = min(running, key=lambda item: _progress(item[1]))[1]
        named = [
            str(process)
            for process, heard in running
            if _progress(heard) == _progress(behind)
        ]
        return (
            f"process {', '.join(named)} did not get on for "
            f"{now - behind.moved:.0f} s, {_where(behind)}"
        )

    def _overdue(self, heard: _Heard, now: float) -> bool:
        phase = "start" if heard.beat is None else heard.beat.phase
        return now - heard.moved > self._stall_seconds * SLOWER.get(phase, 1)


def _place(beat: Beat) -> tuple[str, int, int]:
    return beat.phase, beat.step, beat.parts


def _progress(heard: _Heard) -> tuple[int, bool, int]:
    """What is smaller is further behind; whoever is in "step" waits for others."""
    beat = heard.beat
    if beat is None:
        return -1, False, 0
    return beat.step, beat.phase == "step", beat.parts


def _where(heard: _Heard) -> str:
    if heard.beat is None:
        return "before its first sign of life"
    beat = heard.beat
    return f"in {beat.phase} of step {beat.step} (pid {beat.pid} on {beat.host})"


class Watchdog:
    """Says in the workdir that this process lives, and ends it when another does not.

    Every process of a run has one. A thread writes `heartbeats/PROCESS.json` and reads
    those that `Watch` says, also while the process waits for others and cannot be
    interrupted. When one stalls, each of the others names it, writes the stacks of its
    threads to `heartbeats/PROCESS.stacks` and ends with exit code `STALLED`.

    Args:
      workdir: of the run, which all processes see.
      phases: what this process does.
      process: its number, from 0 to `count` - 1.
      stall_seconds: without a sign of life, or in one phase of one step or one batch of
        an evaluation (`SLOWER` says in which it may be longer), after which a process
        has stalled.
      say: told which one stalled, and in what.
    """

    def __init__(
        self,
        workdir: AnyPath,
        phases: Phases,
        *,
        process: int,
        count: int,
        stall_seconds: int,
        say: Callable[[str], None],
    ):
        self._folder = workdir / FOLDER
        self._phases = phases
        self._process = process
        self._count = count
        self._stall_seconds = stall_seconds
        self._say = say
        # Beats of an earlier start in this workdir are not those of this one.
        self._run_id = broadcast(secrets.randbits(31))
        self._beats = 0
        self._interval = min(
            BEAT_SECONDS_IN_BUCKET if in_bucket(workdir) else BEAT_SECONDS,
            stall_seconds / 4,
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        """Starts to watch."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._stacks.unlink(missing_ok=True)
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Tells the others how this process ended."""
        self._ended.set()
        self._thread.join()
        end = "done" if error is None else f"{type(error).__name__}: {error}"
        self._beat(end=" ".join(end.split()))

    @property
    def _stacks(self) -> AnyPath:
        return self._folder / f"{self._process}.stacks"

    def _run(self) -> None:
        watch = Watch(
            self._count,
            process=self._process,
            stall_seconds=self._stall_seconds,
            now=time.monotonic(),
        )
        while not self._ended.wait(self._interval):
            self._beat()
            watch.hear(self._read(watch.watched), time.monotonic())
            fault = watch.fault(time.monotonic())
            if fault is not None and not self._ended.is_set():
                self._end(fault)

    def _beat(self, *, end: str = "", fault: str = "") -> None:
        self._beats += 1
        doing = self._phases.now
        beat = Beat(
            run=self._run_id,
            process=self._process,
            host=socket.gethostname(),
            pid=os.getpid(),
            count=self._beats,
            phase=doing.phase,
            step=doing.step,
            parts=doing.parts,
            end=end,
            fault=fault,
        )
        path = self._folder / f"{self._process}.json"
        try:
            write_whole(path, json.dumps(dataclasses.asdict(beat)) + "\n")
        except Exception as error:  # no full disk or network ends a run that gets on
            print(f"no heartbeat was written: {error}", file=sys.stderr)

    def _read(self, watched: Sequence[int]) -> dict[int, Beat]:
        beats = {}
        with contextlib.suppress(Exception):  # the network's: its silence is judged
            texts = read_many(self._folder, [f"{process}.json" for process in watched])
            for text in texts.values():
                with contextlib.suppress(ValueError, TypeError):  # of another version
                    beat = Beat(**json.loads(text))
                    if beat.run == self._run_id:
                        beats[beat.process] = beat
        return beats

    def _end(self, fault: str) -> None:
        # The first process ends last of all: with it, JAX ends the others.
        until = time.monotonic() + GRACE_SECONDS
        if self._process == 0:
            self._beat(fault=fault)
            until += 2 * self._interval
        with contextlib.suppress(OSError):  # on a full disk, too, it ends
            self._say(
                f"stopped: {fault}; stacks of process {self._process}: {self._stacks}"
            )
        with (
            contextlib.suppress(OSError),
            open(growing(self._stacks), "w", encoding="utf-8") as file,
        ):
            faulthandler.dump_traceback(file=file, all_threads=True)
        flush()
        time.sleep(max(0.0, until - time.monotonic()))
        os._exit(STALLED)
