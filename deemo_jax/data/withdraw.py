"""A consent taken back: a subject out of a packed folder, and who has seen them."""

from collections.abc import Callable, Iterator
import dataclasses
import itertools
import json
from pathlib import Path

from deemo_jax.config import ConfigError
from deemo_jax.data import integrity, tfds
from deemo_jax.data.card import Facts, write_card
from deemo_jax.data.record import pseudonym
from deemo_jax.data.shards import (
    AGAIN,
    Entry,
    Index,
    index_path,
    read_index,
    read_splits,
    read_withdrawn,
    write_encoded,
    write_index,
    write_withdrawn,
)

Progress = Callable[[str, int, int | None], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """A run that was trained on a subject, up to `steps`, and what it left.

    Without steps and a run that it began with, its ledger is too damaged to tell; nor
    does it tell anything if that run is `lost`.
    """

    workdir: Path
    steps: int
    checkpoints: tuple[int, ...]
    began_with: Path | None = None  # the run whose parameters it took over, if so
    lost: bool = False  # that run is not where it was

    def describe(self) -> str:
        """A line for people."""
        kept = ", ".join(map(str, self.checkpoints)) or "none is left"
        if self.lost:
            why = f"it began with {self.began_with}, which is not to be found"
            return f"{self.workdir}, perhaps ({why}); checkpoints: {kept}"
        if self.began_with:
            return f"{self.workdir} began with {self.began_with}; checkpoints: {kept}"
        if not self.steps:
            return f"{self.workdir}, perhaps (its ledger is torn); checkpoints: {kept}"
        return f"{self.workdir} in steps 1 to {self.steps}; checkpoints: {kept}"


def withdraw(folder: Path, subject: str, *, salt: bytes) -> int:
    """Leaves a subject's records out of every index; the number of clips left out.

    No shard is rewritten: readers that go by the index do not see them any more, and
    their bytes are there until `purge`. Interrupted, it is to be given again; no reader
    of ours takes the folder until then.

    Raises:
        ValueError: no clip of that subject is in the folder.
    """
    name = pseudonym(salt, "subject", subject)
    _, splits = read_splits(folder)
    shards = [shard for shards in splits.values() for shard, _ in shards]
    indexes = {shard: read_index(shard) for shard in shards}
    before = read_withdrawn(folder)
    having = [
        shard
        for shard, index in indexes.items()
        if any(entry.subject == name for entry in index.entries)
    ]
    if not having and name in before:
        return 0
    if not having:
        raise ValueError(
            f"no clip of subject {subject!r} is in {folder}: give the name that the "
            "annotations have, and the --salt_file that the folder was packed with"
        )
    write_withdrawn(folder, before | {name}, salt)
    clips = 0
    for shard in having:
        index = indexes[shard]
        kept = [entry for entry in index.entries if entry.subject != name]
        left_out = len(index.entries) - len(kept)
        write_index(shard, Index(kept, index.size, index.withdrawn + left_out))
        clips += left_out
    return clips


def purge(folder: Path, *, progress: Progress | None = None) -> int:
    """Rewrites the shards without the withdrawn; the number of clips that are gone.

    A shard is written beside its name and then renamed, and the sizes that TFDS knows
    are written last: interrupted, it is to be given again. A split of which nothing is
    left is none any more, unless it is the last.

    Raises:
        ValueError: nobody has withdrawn, or a shard is damaged.
    """
    withdrawn = read_withdrawn(folder)
    if not withdrawn:
        raise ValueError(
            f"nobody has withdrawn from {folder}: give --withdraw=SUBJECT first"
        )
    name, splits = read_splits(folder)
    total = sum(len(shards) for shards in splits.values())
    facts, done, gone = Facts(), 0, 0
    entries: dict[str, list[Entry]] = {}
    lengths: dict[str, list[int]] = {}
    for split, shards in splits.items():
        lengths[split], entries[split] = [], []
        for shard, _ in shards:
            if progress:
                progress("rewriting shards", done, total)
            kept, left_out = _rewrite(shard, withdrawn, facts)
            lengths[split].append(len(kept))
            entries[split] += kept
            done, gone = done + 1, gone + left_out
    if progress:
        progress("rewriting shards", done, total)
    emptied = [split for split, rows in entries.items() if not rows]
    if len(emptied) == len(splits):
        emptied = []
    for split in emptied:
        del entries[split], lengths[split]
    info = json.loads((folder / "dataset_info.json").read_bytes())
    description = info.get("description", "")  # an empty one is not written
    write_card(folder, name, entries, facts, description)
    sizes = {split: sum(e.length for e in rows) for split, rows in entries.items()}
    tfds.write_metadata(
        folder, name, lengths, sizes, description, format=info["fileFormat"],
        records_kept=True,
    )  # fmt: skip
    for shard, _ in itertools.chain.from_iterable(splits[split] for split in emptied):
        shard.unlink()
        index_path(shard).unlink()
    return gone


def _rewrite(
    shard: Path, withdrawn: frozenset[str], facts: Facts
) -> tuple[list[Entry], int]:
    """What is kept of a shard, and how many records are not."""
    if not shard.exists():
        raise ValueError(f"{shard} is missing: {AGAIN}")
    left_out = 0

    def kept() -> Iterator[bytes]:
        nonlocal left_out
        for found in integrity.walk(shard):
            if found.row is None:
                raise ValueError(f"{found.problem}: {AGAIN}")
            if found.row.subject in withdrawn:
                left_out += 1
                continue
            facts.count(found.row)
            yield found.data

    return write_encoded(shard, kept()), left_out


def runs_that_saw(subject: str, runs: Path) -> list[Seen]:
    """The runs below a folder that were trained on a subject, by their ledgers.

    `subject` is the pseudonym. Runs that began with the parameters of such a run are
    among them, and those that began with theirs; so are runs whose ledger is damaged,
    or of which it is not to be found what they began with.

    Raises:
        ConfigError: the folder is not there.
        ValueError: what a run began with cannot be read.
    """
    if not runs.is_dir():
        raise ConfigError(
            f"--runs is {runs}, where no folder is: give the one that has the "
            "--workdir of your runs in it, an empty one if nothing was trained"
        )
    seen: dict[Path, Seen] = {}
    for path in sorted(runs.rglob("ledger.jsonl")):
        if (steps := _steps_with(subject, path)) is not None:
            seen[path.parent.resolve()] = Seen(
                workdir=path.parent,
                steps=steps,
                checkpoints=_checkpoints(path.parent),
            )
    origins = {
        path.parent: _origin(path)
        for path in sorted(runs.rglob("config.json"))
        if (path.parent / "run_id").exists()
    }
    grown = True
    while grown:
        grown = False
        for workdir, origin in origins.items():
            if workdir.resolve() in seen or origin is None:
                continue
            lost = not origin.exists()
            if lost or origin.resolve() in seen:
                seen[workdir.resolve()] = Seen(
                    workdir=workdir,
                    steps=0,
                    checkpoints=_checkpoints(workdir),
                    began_with=origin,
                    lost=lost,
                )
                grown = True
    return list(seen.values())


def _steps_with(subject: str, ledger: Path) -> int | None:
    """The last step that a run saw a subject by; 0 if it may have, None if not."""
    steps = None
    text = ledger.read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            if subject in entry["subjects"]:
                steps = int(entry["steps"][1])
        except (ValueError, KeyError, TypeError, IndexError):
            steps = steps or 0
    return steps


def _origin(config: Path) -> Path | None:
    """What a run began with, from here or from a folder that it is in; None: nothing.

    Where it was started, which is what a relative path counts from, it does not say.
    """
    try:
        began_with = json.loads(config.read_bytes()).get("init_from")
        path = Path(began_with) if began_with else None
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{config}, which says what its run began with, is damaged: restore it"
        ) from error
    if path is None:
        return None
    around = (folder / path for folder in config.resolve().parents)
    return next((found for found in (path, *around) if found.exists()), path)


def _checkpoints(workdir: Path) -> tuple[int, ...]:
    return tuple(
        sorted(int(p.name) for p in workdir.glob("checkpoints/*") if p.name.isdigit())
    )
