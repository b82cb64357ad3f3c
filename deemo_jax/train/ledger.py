"""`ledger.jsonl`: whom parameters were trained on, handed on wherever they go."""

from collections.abc import Iterable, Mapping
import dataclasses
import json
from pathlib import Path
from typing import Any

from deemo_jax.config import ConfigError
from deemo_jax.distributed import is_first
from deemo_jax.storage import AnyPath, write_whole

LEDGER = "ledger.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A line of a ledger: steps of a run, and the records that they were trained on.

    `data` has a `manifest`; `subjects` are pseudonyms; `steps` are the first and the
    last that is in a checkpoint; `run` is the folder of an earlier run, whose
    parameters this one took over, and empty for its own steps.
    """

    data: Mapping[str, Any]
    subjects: tuple[str, ...]
    steps: tuple[int, int]
    run: str = ""


class Ledger:
    """Keeps the ledger of a run: what it took over, then its own line.

    A run that goes on from `start` goes on in that line. What it `began_with`, a
    workdir or an exported folder, may be gone or elsewhere by then: its lines stand
    here.

    Raises:
      ConfigError: if the steps before saw data of another manifest, or a ledger is
        damaged.
    """

    def __init__(
        self,
        workdir: AnyPath,
        *,
        data: Mapping[str, Any],
        subjects: Iterable[str],
        start: int,
        began_with: AnyPath | None = None,
    ):
        self._path = workdir / LEDGER
        self._data, self._subjects = dict(data), tuple(subjects)
        self._before: list[Trained] = []
        if start:
            check_records(workdir, data["manifest"])
            self._before = [entry for entry in read_ledger(workdir) if entry.run]
        if began_with is not None and not self._before:
            self._before = handed_on(began_with)

    def enter(self, step: int) -> None:
        """Writes that the steps up to `step` are kept; the first process does."""
        if not is_first():
            return
        own = Trained(data=self._data, subjects=self._subjects, steps=(1, step))
        write_whole(self._path, to_lines([*self._before, own]))


def read_ledger(folder: AnyPath) -> list[Trained]:
    """The ledger of a workdir or an exported folder; empty where nothing is kept yet.

    Raises:
      ConfigError: if it is damaged (it is always written whole), or is not there or
        says nothing of the run itself, although that has checkpoints.
    """
    path, found = folder / LEDGER, []
    if path.exists():
        lines = path.read_bytes().decode(errors="replace").splitlines()
        found = [_parse(path, number, line) for number, line in enumerate(lines, 1)]
    kept = any((folder / "checkpoints").glob("[0-9]*"))
    if kept and all(entry.run for entry in found):
        raise ConfigError(
            f"{path} does not say who the checkpoints beside it were trained on: "
            "restore it"
        )
    return found


def handed_on(folder: AnyPath) -> list[Trained]:
    """The ledger for those who take over the parameters in a folder."""
    name = str(folder.resolve() if isinstance(folder, Path) else folder)
    return [
        dataclasses.replace(entry, run=entry.run or name)
        for entry in read_ledger(folder)
    ]


def to_lines(entries: Iterable[Trained]) -> str:
    """The text of a ledger."""
    found = [dataclasses.asdict(entry) for entry in entries]
    for entry in found:
        if not entry["run"]:
            del entry["run"]
    return "".join(json.dumps(entry) + "\n" for entry in found)


def check_records(workdir: AnyPath, manifest: str) -> None:
    """Raises `ConfigError` if the kept steps of a run saw data of another manifest."""
    for entry in read_ledger(workdir):
        before = entry.data["manifest"]
        if not entry.run and before != manifest:
            raise ConfigError(
                f"the steps up to {entry.steps[1]} in {workdir} were trained on "
                f"other records (manifest {before}, now {manifest}); give the old data "
                f"back, or, as after a withdrawal, use a new --workdir with "
                f"config.init_from"
            )


def _parse(path: AnyPath, number: int, line: str) -> Trained:
    try:
        found = json.loads(line)
        first, last = found["steps"]
        if not isinstance(found["subjects"], list):
            raise TypeError("subjects is no list")
        return Trained(
            data={**found["data"], "manifest": str(found["data"]["manifest"])},
            subjects=tuple(map(str, found["subjects"])),
            steps=(int(first), int(last)),
            run=str(found.get("run", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{path}, line {number}, is damaged: it says who the parameters were "
            f"trained on; restore it"
        ) from error
