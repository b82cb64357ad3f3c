"""What a process is doing and how long it took: for the watchdog and for goodput."""

from collections.abc import Callable
import dataclasses
import json
import time

from deemo_jax.storage import AnyPath, write_whole

# In the order in which a step goes through them. "start" is everything before the
# first step that is none of the others; "step" is the waiting for the devices.
PHASES: tuple[str, ...] = (
    "start", "restore", "data", "compile", "step", "save", "evaluate",
)  # fmt: skip
GOODPUT = "goodput.json"
TICK_SECONDS = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doing:
    """The phase of a process, the step it is for, and when it began (monotonic, s).

    `parts` counts what is done of a phase that says so.
    """

    phase: str
    step: int
    since: float
    parts: int = 0


class Phases:
    """The phases that a process has gone through, their seconds added up."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self.now = Doing(phase="start", step=0, since=clock())

    def enter(self, phase: str, step: int) -> None:
        """Ends the phase before, if it is another one or for another step."""
        assert phase in PHASES, phase
        if (phase, step) != (self.now.phase, self.now.step):
            before = self.now
            self.now = Doing(phase=phase, step=step, since=self._clock())
            self._seconds[before.phase] += self.now.since - before.since

    def get_on(self) -> None:
        """Says that another part of this phase is done, of one that takes long."""
        self.now = dataclasses.replace(self.now, parts=self.now.parts + 1)

    def seconds(self) -> dict[str, float]:
        """Of every phase so far, the present one included."""
        found = dict(self._seconds)
        found[self.now.phase] += self._clock() - self.now.since
        return found


class Goodput:
    """`goodput.json`: where the time of a run went, over all of its starts.

    `seconds` has those of every phase up to the newest checkpoint, and of "lost": what
    earlier starts did after their last checkpoint, before they were killed.
    `unkept_seconds` are those of this start since its last checkpoint, which become
    lost in the same way. `goodput` is the share of the steps that counted. What passed
    between two starts is unknown.

    Args:
      workdir: of the run.
      phases: what this start does.
    """

    def __init__(self, workdir: AnyPath, phases: Phases):
        self._path = workdir / GOODPUT
        self._phases = phases
        self._starts = 1
        self._before = {}
        self._kept = dict.fromkeys(PHASES, 0.0)
        if self._path.exists():
            earlier = json.loads(self._path.read_text(encoding="utf-8"))
            self._starts += earlier["starts"]
            self._before = earlier["seconds"]
            self._before["lost"] += earlier["unkept_seconds"]
        self._write()  # a start that is killed at once counts as well

    def keep(self) -> None:
        """Says that a checkpoint holds what was done up to now."""
        self._kept = self._phases.seconds()
        self._write()

    def tick(self) -> None:
        """Writes what is known by now, every `TICK_SECONDS`; call it often."""
        if time.monotonic() - self._written > TICK_SECONDS:
            self._write()

    def _seconds(self) -> dict[str, float]:
        return {
            phase: self._kept.get(phase, 0.0) + self._before.get(phase, 0.0)
            for phase in (*PHASES, "lost")
        }

    def _unkept(self) -> float:
        return sum(self._phases.seconds().values()) - sum(self._kept.values())

    def _write(self) -> None:
        seconds, unkept = self._seconds(), self._unkept()
        total = sum(seconds.values()) + unkept
        found = {
            "starts": self._starts,
            "wall_seconds": total,
            "goodput": seconds["step"] / total if total else 0.0,
            "seconds": seconds,
            "unkept_seconds": unkept,
        }
        write_whole(self._path, json.dumps(found, indent=2) + "\n")
        self._written = time.monotonic()

    def describe(self) -> str:
        """One line: the share of the steps, and of everything else that took time."""
        seconds = self._seconds()
        total = sum(seconds.values()) + self._unkept()
        step = seconds.pop("step")
        others = sorted(seconds.items(), key=lambda item: -item[1])
        shares = [f"{x} {100 * y / total:.1f}%" for x, y in others if y]
        if (unkept := self._unkept()) >= 0.0005 * total:  # it would read 0.0%
            shares.append(f"not kept yet {100 * unkept / total:.1f}%")
        starts = f"{self._starts} start{'s' if self._starts > 1 else ''}"
        return (
            f"goodput: {100 * step / total:.1f}% of {total:,.0f} s in {starts}; "
            f"{', '.join(shares)}"
        )
