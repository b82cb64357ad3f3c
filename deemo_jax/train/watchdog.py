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

from deemo_jax.distributed import broadcast, lost
from deemo_jax.exits import DONE, LOST, end_now, exit_code_of
from deemo_jax.spool import flush, growing
from deemo_jax.storage import AnyPath, in_bucket, read_many, write_whole
from deemo_jax.train.phases import Phases
from deemo_jax.train.watch import Beat, Fault, Watch

FOLDER = "heartbeats"
GRACE_SECONDS = 3.0  # for every process to write its stacks before the first one ends
# An object in a bucket takes one new version a second.
BEAT_SECONDS, BEAT_SECONDS_IN_BUCKET = 1.0, 2.0
JUDGE_SECONDS = 0.5  # what was heard is in memory


class Watchdog:
    """Says in the workdir that this process lives, and ends it when another does not.

    Every process of a run has one. One thread writes `heartbeats/PROCESS.json` and
    reads those that `Watch` says, also while the process waits for others and cannot be
    interrupted; another one judges, and touches no file, so that storage that hangs is
    found as well. When a process stalls, each of the others names it, writes the stacks
    of its threads to `heartbeats/PROCESS.stacks` and ends with exit code `LOST`; when
    one fails, they end with its exit code. The first process ends when the others that
    live have said, by their beats, that they know: with it, JAX ends all of them.

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
        # A failure is heard at most so much later: by the first process, and, through
        # that, by the others.
        self._heard_seconds = 2 * (1 + (process > 0)) * self._interval + 1.0
        # So long the first process stays, at most, for the others to hear of a fault,
        # and then for them to leave, who may have files to upload.
        self._last_seconds = GRACE_SECONDS + 2 * self._heard_seconds
        self._leave_seconds = GRACE_SECONDS + (5.0 if in_bucket(workdir) else 1.0)
        self._ended = threading.Event()  # nobody is judged any more
        self._over = threading.Event()  # the last beat is due
        self._fault = Fault("", DONE)  # once there is one, every beat repeats it
        self._end_words, self._end_code = "", DONE
        self._lock = threading.Lock()  # of the file with this process's beat
        self._read_beats: Mapping[int, Beat] = {}
        self._trouble = ""  # what storage said since it last took a beat
        self._begin(time.monotonic())
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in (
                (self._keep_beating, "heartbeat"),
                (self._keep_judging, "watchdog"),
            )
        ]

    def __enter__(self) -> "Watchdog":
        """Starts to watch."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._stacks.unlink(missing_ok=True)
        self._beat()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Tells the others how this process ended."""
        several = self._count > 1
        code = DONE if error is None else exit_code_of(error)
        if several and error is not None and lost(error) is not None:
            # Another one may have failed, and then its exit code is that of all.
            time.sleep(self._heard_seconds)
            code = LOST
        self._ended.set()
        beating, judging = self._threads
        judging.join(self._heard_seconds)
        words = "done" if error is None else f"{type(error).__name__}: {error}"
        self._end_code, self._end_words = code, " ".join(words.split())
        if several and self._process == 0 and error is not None:
            self._let_others_go()
        # This thread touches no file: storage that hangs keeps only the other one.
        self._over.set()
        beating.join(self._heard_seconds)

    @property
    def _stacks(self) -> AnyPath:
        return self._folder / f"{self._process}.stacks"

    def _begin(self, now: float) -> None:
        """Whatever was heard before, nobody has been silent at the time `now`."""
        self._stored = now  # when storage last took a beat
        self._watch = Watch(
            self._count,
            process=self._process,
            stall_seconds=self._stall_seconds,
            now=now,
        )

    def _keep_beating(self) -> None:
        while not self._over.wait(self._interval):
            self._beat()
            self._read_beats = self._read(self._watch.watched)
        self._beat()

    def _keep_judging(self) -> None:
        pause = min(JUDGE_SECONDS, self._interval)
        before = time.monotonic()
        while not self._ended.wait(pause):
            now = time.monotonic()
            if now - before > pause + self._heard_seconds:
                self._begin(now)  # this process stood still, and the rest need not have
            before = now
            fault = self._judge(now)
            if fault is not None and not self._ended.is_set():
                self._end(fault)

    def _judge(self, now: float) -> Fault | None:
        unheard = now - self._stored
        if unheard <= self._heard_seconds + 1:
            self._watch.hear(self._read_beats, now)
            return self._watch.fault(now)
        # Where nothing can be written, others cannot be heard, and are not to blame.
        if unheard <= self._stall_seconds:
            return None
        said = self._trouble or "it does not answer"
        return Fault(
            f"process {self._process} could write no heartbeat to {self._folder} for "
            f"{unheard:.0f} s: {said}"
        )

    def _beat(self) -> None:
        if not self._lock.acquire(timeout=self._heard_seconds):
            return  # storage hangs, and the one before this one with it
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
            end=self._end_words,
            fault=self._fault.words,
            code=self._end_code or self._fault.code,
        )
        path = self._folder / f"{self._process}.json"
        text = json.dumps(dataclasses.asdict(beat)) + "\n"
        try:
            write_whole(path, text)
        except Exception as error:  # no full disk or network ends a run that gets on
            self._trouble = f"{type(error).__name__}: {error}"
            stored = _written_over(path, text)
            if not stored:
                print(f"no heartbeat was written: {error}", file=sys.stderr)
        else:
            stored = True
        finally:
            self._lock.release()
        if stored:
            self._stored, self._trouble = time.monotonic(), ""

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

    def _end(self, fault: Fault) -> None:
        # What follows may hang where storage does.
        seconds = self._last_seconds if self._process == 0 else GRACE_SECONDS
        longest = self._heard_seconds + seconds + self._leave_seconds + 2
        late = threading.Timer(longest, end_now, (fault.code,))
        late.daemon = True
        late.start()
        with contextlib.suppress(OSError):  # on a full disk, too, it ends
            self._say(
                f"stopped: {fault.words}; stacks of process {self._process}: "
                f"{self._stacks}"
            )
        self._fault = fault
        self._beat()
        until = time.monotonic() + GRACE_SECONDS
        with (
            contextlib.suppress(OSError),
            open(growing(self._stacks), "w", encoding="utf-8") as file,
        ):
            faulthandler.dump_traceback(file=file, all_threads=True)
        flush()
        if self._process == 0:
            self._let_others_go()
        time.sleep(max(0.0, until - time.monotonic()))
        end_now(fault.code)

    def _let_others_go(self) -> None:
        """Returns when those of the others that live have had time to end."""
        until = time.monotonic() + self._last_seconds
        while (now := time.monotonic()) < until:
            self._watch.hear(self._read_beats, now)
            if not self._watch.unaware(now):
                time.sleep(self._leave_seconds)  # who has left says nothing more
                return
            time.sleep(min(JUDGE_SECONDS, self._interval))


def _written_over(path: AnyPath, text: str) -> bool:
    """Writes a beat over the one before: a full disk has no room for a new file.

    Whoever reads it meanwhile may find it torn, and reads it again.
    """
    if in_bucket(path):
        return False
    try:
        with open(path, "r+b", buffering=0) as file:
            file.write(text.encode().ljust(os.fstat(file.fileno()).st_size))
    except OSError:
        return False
    return True
