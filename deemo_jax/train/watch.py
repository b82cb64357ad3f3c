"""Who is to blame when a run of several processes stalls, judged from heartbeats."""

from collections.abc import Mapping
import dataclasses

from deemo_jax.exits import DONE, LOST

# Phases in which it is usual that nothing moves for long, and how much longer. An
# evaluation compiles, too; its batches count as moves.
SLOWER = {"start": 6, "restore": 6, "compile": 6, "save": 6, "evaluate": 6}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beat:
    """What a process said last: what it does, `count` of its beats, how it ended.

    `run` is the same in all processes of one start of a run; `parts` are those done of
    the phase. `end` is empty while it runs, "done", or what it failed by; `fault` is
    what it knows to be wrong with any of them, for which it ends. `code` is the exit
    code that either stands for.
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
    code: int = DONE


@dataclasses.dataclass(frozen=True)
class Fault:
    """What ends a run, in words, and the exit code of all its processes."""

    words: str
    code: int = LOST


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

    def fault(self, now: float) -> Fault | None:
        """Which process has failed or stalled, and in what; None if all go on."""
        for process, heard in self._heard.items():
            beat = heard.beat
            if beat is not None and beat.fault:
                return Fault(beat.fault, beat.code)
            if beat is not None and beat.end not in ("", "done"):
                words = f"process {process} failed {_where(heard)}: {beat.end}"
                return Fault(words, beat.code)
        running = [
            (process, heard)
            for process, heard in self._heard.items()
            if heard.beat is None or not heard.beat.end
        ]
        for process, heard in running:
            silent = now - heard.alive
            if silent > self._stall_seconds:
                return Fault(
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
        return Fault(
            f"process {', '.join(named)} did not get on for "
            f"{now - behind.moved:.0f} s, {_where(behind)}"
        )

    def unaware(self, now: float) -> list[int]:
        """The other processes that live and do not know yet that the run has to end."""
        return [
            process
            for process, heard in self._heard.items()
            if process
            and not (heard.beat and (heard.beat.end or heard.beat.fault))
            and now - heard.alive <= self._stall_seconds
        ]

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
