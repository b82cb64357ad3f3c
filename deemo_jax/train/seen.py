"""Who a run was trained on, by earlier runs too: nobody of them may judge it."""

from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import os
from pathlib import Path, PurePosixPath
from typing import NoReturn

from deemo_jax.config import Config, ConfigError
from deemo_jax.data.shards import read_splits
from deemo_jax.data.source import ShardSource
from deemo_jax.storage import AnyPath, files_below, locate
from deemo_jax.train.ledger import LEDGER, Trained, handed_on, read_ledger
from deemo_jax.train.prepare import open_split

NAMED = 3  # subjects that an error names
EXPORTED = "configuration_deemo_llama.py"  # is in every exported folder


def check_beginning(config: Config, packed: AnyPath) -> None:
    """Refuses a run whose `evaluate.split` has people that `init_from` has seen.

    Else its evaluation would be refused, when all is done. Data without such a split
    can begin.

    Raises:
      ConfigError: naming some of them, and the run that saw them.
    """
    split = config.evaluate.split
    if config.init_from and (config.data.folds or split in read_splits(packed)[1]):
        source = open_split(config, packed, split)
        _check(handed_on(locate(config.init_from)), source)


def check_unseen(workdir: AnyPath, source: ShardSource) -> None:
    """Refuses to evaluate a run on subjects that it, or one it began with, has seen.

    The records that a run was itself trained on may be asked for by their split: what
    it makes of these is no secret, and no result.

    Raises:
      ConfigError: naming some of the subjects, and the run that saw them.
    """
    trained = [
        dataclasses.replace(entry, run=entry.run or str(workdir))
        for entry in read_ledger(workdir)
        if entry.run or entry.data["manifest"] != source.manifest
    ]
    _check(trained, source)


def _check(trained: Iterable[Trained], source: ShardSource) -> None:
    subjects = {entry.subject for entry in source.entries}
    for entry in trained:
        if not (both := sorted(subjects & set(entry.subjects))):
            continue
        more = f" and {len(both) - NAMED} more" if len(both) > NAMED else ""
        raise ConfigError(
            f"{len(both)} of {len(subjects)} subjects of {source.folder}, split "
            f"{source.split!r}, are people that {entry.run} was trained on "
            f"({', '.join(both[:NAMED])}{more}): evaluate on others, or begin with a "
            f"run that has the same splits and config.data.fold"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """A folder of parameters that were trained on a subject.

    `trained` is the ledger's line that says so, the folder's own before those of runs
    that it began with, and None where no sound ledger can tell. `checkpoints` are the
    steps that are left of a run; `exported`, whether it is a folder for PyTorch.
    """

    folder: AnyPath
    trained: Trained | None
    checkpoints: tuple[int, ...]
    exported: bool

    def describe(self) -> str:
        """A line for people."""
        if self.trained is None:
            how = ", perhaps (its ledger is missing or damaged)"
        elif self.trained.run:
            how = f", whose parameters go back to {self.trained.run}"
        else:
            how = f" in steps 1 to {self.trained.steps[1]}"
        if self.exported:
            return f"{self.folder}{how}"
        kept = ", ".join(map(str, self.checkpoints)) or "none is here"
        return f"{self.folder}{how}; checkpoints: {kept}"


def who_saw(subject: str, runs: AnyPath) -> list[Seen]:
    """The runs and exported folders below a folder that were trained on a subject.

    `subject` is the pseudonym. Those that began with the parameters of such a run are
    among them, and those that began with theirs; so are those without a sound ledger.

    Raises:
      ConfigError: the folder is not there, or not all in it can be looked into.
    """
    if not runs.is_dir():
        raise ConfigError(
            f"--runs is {runs}, where no folder is: give the one that has the "
            "--workdir of your runs in it, an empty one if nothing was trained"
        )
    files = [PurePosixPath(name) for name in _files(runs)]
    steps: dict[PurePosixPath, set[int]] = {}
    for parts in (file.parts for file in files):
        for place, part in enumerate(parts[:-1]):
            if part == "checkpoints" and parts[place + 1].isdigit():
                run = PurePosixPath(*parts[:place])
                steps.setdefault(run, set()).add(int(parts[place + 1]))
    exports = {file.parent for file in files if file.name == EXPORTED}
    ledgers = {file.parent for file in files if file.name == LEDGER}
    found = []
    for place in sorted({*steps, *exports, *ledgers}):
        folder, trained = runs / place, None
        with contextlib.suppress(ConfigError):
            if entries := read_ledger(folder):
                saw = [entry for entry in entries if subject in entry.subjects]
                if not saw:
                    continue
                trained = min(saw, key=lambda entry: bool(entry.run))
        found.append(
            Seen(
                folder=folder,
                trained=trained,
                checkpoints=tuple(sorted(steps.get(place, ()))),
                exported=place in exports,
            )
        )
    return found


def _files(folder: AnyPath) -> Iterator[str]:
    """The files below a folder, by their names from there, behind links as well."""
    if not isinstance(folder, Path):
        yield from files_below(folder)
        return

    def refuse(error: OSError) -> NoReturn:
        raise ConfigError(
            f"{error.filename} cannot be looked into ({error.strerror}), so who saw "
            "them is not known: give the command as one who may"
        ) from error

    known: set[Path] = set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        if (here := Path(place).resolve()) in known:  # a link that leads back
            folders.clear()
            continue
        known.add(here)
        below = Path(place).relative_to(folder)
        yield from ((below / name).as_posix() for name in names)
