"""A packed folder looked through from the first byte to the last, and indexed anew."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
import json
from pathlib import Path
from typing import NamedTuple

from deemo_jax.annotation import load_taxonomy
from deemo_jax.data import record as records
from deemo_jax.data.consent import (
    forgotten,
    read_withdrawn,
    who_withdrew,
    write_withdrawn,
)
from deemo_jax.data.encoded import MANIFEST, read_encoding
from deemo_jax.data.record import Record
from deemo_jax.data.shards import (
    AGAIN,
    FORMATS,
    REINDEX,
    Entry,
    Index,
    entry_of,
    format_of,
    index_of,
    index_path,
    miscounted,
    read_index,
    read_splits,
    shards_in,
    write_index,
)

Progress = Callable[[str, int, int | None], None]


class Found(NamedTuple):
    """A record as it stands in a shard; `problem` says what is wrong with it, if so."""

    entry: Entry | None
    row: Record | None
    data: bytes
    problem: str


def walk(shard: Path) -> Iterator[Found]:
    """The records of a shard, found without its index, one at a time."""
    scanned = FORMATS[format_of(shard)].scan(shard)
    for number, (offset, data, problem) in enumerate(scanned):
        where = f"{shard}: record {number} at byte {offset}"
        if problem:
            yield Found(None, None, data, f"{where} {problem}")
            continue
        try:
            row = records.from_bytes(data)
            yield Found(entry_of(row, data, offset), row, data, "")
        except Exception as error:  # whatever stands there was not written by us
            yield Found(None, None, data, f"{where} is no record of ours: {error}")


def check(folder: Path, *, progress: Progress | None = None) -> list[str]:
    """What is wrong with a packed folder, a line each; every byte of it is read.

    Raises:
        ValueError: it holds no data set.
    """
    _, splits = read_splits(folder)
    problems: list[str] = []
    withdrawn: frozenset[str] = frozenset()
    try:
        withdrawn = read_withdrawn(folder)
    except ValueError as error:
        problems.append(str(error))
    named = not problems
    features = folder / "features.json"
    try:
        json.loads(features.read_bytes())
    except (OSError, ValueError):
        problems.append(f"{features}, which TFDS reads, is missing or damaged: {AGAIN}")
    taxonomy = None
    try:
        taxonomy = load_taxonomy(folder / "taxonomy.json")
    except (OSError, ValueError) as error:
        problems.append(str(error))
    stated: str | None = None  # what the records hold in place of media, if known
    try:
        encoding = read_encoding(folder)
        stated = encoding.dtype if encoding else ""
    except ValueError as error:
        problems.append(str(error))
    shards = [(split, *each) for split, all_ in splits.items() for each in all_]
    problems += strays(folder, splits)
    homes: dict[str, str] = {}
    clips: dict[str, Path] = {}
    for done, (split, shard, count) in enumerate(shards):
        if progress:
            progress("checking shards", done, len(shards))
        index, said = None, []
        try:
            index = read_index(shard)
        except ValueError as error:
            said.append(str(error))
        if index and named and (lost := forgotten(shard, index, withdrawn)):
            said.append(lost)
        gone = withdrawn | (index.withdrawn.keys() if index else set())
        if shard.exists():
            found = list(_notes(shard))
            said += [problem for *_, problem in found if problem]
            entries = [entry for entry, *_ in found if entry is not None]
            kept = [entry for entry in entries if entry.subject not in gone]
            if len(found) != count:
                said.append(miscounted(shard, len(found), count, withdrawn))
            if index and not said and _differs(index, entries, gone):
                said.append(
                    f"{shard}: its index says something else than its records: "
                    f"{REINDEX}"
                )
            held = Counter(holds for entry, holds, *_ in found if entry is not None)
            said += [
                f"{shard}: {number} records hold {holds or 'media'}, {MANIFEST} "
                f"{f'says {stated}' if stated else 'is missing'}: {AGAIN}"
                for holds, number in held.items()
                if stated not in (None, holds)
            ]
            if taxonomy:
                known = {*taxonomy.emotions, *taxonomy.nfbl}
                unknown = {label for *_, labels, _ in found for label in labels} - known
                said += [
                    f"{shard}: {label!r} is no label of taxonomy.json: {AGAIN}"
                    for label in sorted(unknown)
                ]
            for entry in kept:
                if (home := homes.setdefault(entry.subject, split)) != split:
                    said.append(
                        f"{shard}: subject {entry.subject} stands in {home}, too"
                    )
                if (first := clips.get(entry.clip_id)) is not None:
                    where = "twice" if first == shard else f"in {first}, too"
                    said.append(f"{shard}: clip {entry.clip_id} is {where}")
                clips[entry.clip_id] = shard
        problems += said
    if progress:
        progress("checking shards", len(shards), len(shards))
    return problems


def strays(folder: Path, splits: Mapping[str, Sequence[tuple[Path, int]]]) -> list[str]:
    """A line for each shard that is of no split; an interrupted packing leaves such."""
    listed = {shard for shards in splits.values() for shard, _ in shards}
    return [
        f"{path} is of no split of dataset_info.json, and no --purge rewrites it: "
        "delete it, or copy that file again, if it is an old one"
        for shard in shards_in(folder)
        if shard not in listed
        for path in (shard, index_path(shard))
        if path.exists()
    ]


def _differs(index: Index, entries: list[Entry], gone: Set[str]) -> bool:
    """Whether an index is not of these; who withdrew later is not known to each."""
    now = index_of(entries, index.size, gone)
    known = {name: now.withdrawn[name] for name in index.withdrawn}
    return index != now._replace(withdrawn=known)


def _notes(shard: Path) -> Iterator[tuple[Entry | None, str, list[str], str]]:
    """Of each record, not its bytes: entry, encoding, labels, problem."""
    for entry, row, _, problem in walk(shard):
        labels = [interval.label for interval in (row and row.nfbl) or ()]
        if row and row.emotion:
            labels.append(row.emotion)
        yield entry, row.encoded if row else "", labels, problem


def reindex(folder: Path, *, progress: Progress | None = None) -> int:
    """Builds every index anew from its shard; the number of records listed.

    Who withdrew stays out, and is named by `withdrawn.json` again where that was lost.

    Raises:
        ValueError: it holds no data set, who withdrew cannot be told, or a shard is
          damaged; the indexes of those before it are built by then.
    """
    _, splits = read_splits(folder)
    shards = [each for shards in splits.values() for each in shards]
    withdrawn = who_withdrew(folder)
    write_withdrawn(folder, withdrawn)  # before an index that knows them is gone
    listed = 0
    for done, (shard, count) in enumerate(shards):
        if progress:
            progress("indexing shards", done, len(shards))
        if not shard.exists():
            raise ValueError(f"{shard} is missing: {AGAIN}")
        entries = []
        for entry, *_, problem in _notes(shard):
            if entry is None:
                raise ValueError(f"{problem}: {AGAIN}")
            entries.append(entry)
        if len(entries) != count:
            raise ValueError(miscounted(shard, len(entries), count, withdrawn))
        index = index_of(entries, shard.stat().st_size, withdrawn)
        write_index(shard, index)
        listed += len(index.entries)
    if progress:
        progress("indexing shards", len(shards), len(shards))
    return listed
