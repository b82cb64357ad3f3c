"""The records of a split or of a fold, in any order, each checked when it is read."""

import collections
from collections.abc import Iterator, Mapping, Sequence
import functools
import hashlib
import itertools
import json
import mmap
from pathlib import Path
from typing import Any

from deemo_jax.annotation import Taxonomy, load_taxonomy
from deemo_jax.data import record as records
from deemo_jax.data.consent import WITHDRAWN, forgotten, read_withdrawn
from deemo_jax.data.encoded import read_encoding
from deemo_jax.data.record import Record
from deemo_jax.data.shards import (
    AGAIN,
    FORMATS,
    Entry,
    Index,
    format_of,
    miscounted,
    read_index,
    read_splits,
)
from deemo_jax.data.tfrecord import crc32c
from deemo_jax.storage import AnyPath, locate, read_range


class ShardSource:
    """The records of one split of a packed folder, in any order, checked when read.

    With `folds`, its splits do not matter: its subjects are divided into so many folds
    (-1: one a subject), of which number `fold` is every split but "train".

    A sequence for Grain: `len(source)`, `source[i]` -> `Record`. It may be pickled
    and used from several threads; files are mapped when first needed, and of those in a
    bucket each record is asked for by itself.

    Attributes:
        folder, name, split: of the data set.
        entries: what the indexes say of each record.
        taxonomy: the label sets of the data set.
        classes: those of body language that occur, and how many records show each.
        encoding: of the features that its records hold in place of media, if they do.
        manifest: SHA-256 over all entries, which hold a checksum of every record.

    Raises:
        ValueError: the folder, the split or the fold is not there, an index is damaged,
            a subject stands in two splits or has withdrawn, or its classes of body
            language are not those of its taxonomy.
    """

    def __init__(self, folder: AnyPath, split: str, *, folds: int = 0, fold: int = 0):
        folder = locate(folder)
        self.folder, self.split = folder, split
        self.name, splits = read_splits(folder)
        if not folds and split not in splits:
            raise ValueError(
                f"{folder} has no split {split!r}, it has {', '.join(sorted(splits))}: "
                "choose one of these (--config.evaluate.split), or annotate some "
                f'subjects with "split": "{split}" and pack again'
            )
        indexes = read_indexes(folder, splits)
        self.taxonomy: Taxonomy = load_taxonomy(folder / "taxonomy.json")
        self.encoding = read_encoding(folder)
        own, number_of = _divide(folder, indexes, split, folds, fold)
        self.entries: list[Entry] = []
        self._shards: list[AnyPath] = []
        self._place: list[tuple[int, int]] = []  # of each: its shard, its place there
        digest = hashlib.sha256(number_of.encode())
        for shard, found in itertools.chain.from_iterable(
            indexes[each] for each in ([split] if not folds else indexes)
        ):
            kept = [(at, e) for at, e in enumerate(found.entries) if e.subject in own]
            self._place += [(len(self._shards), at) for at, _ in kept]
            self.entries += [entry for _, entry in kept]
            self._shards.append(shard)
            digest.update(json.dumps([shard.name, found.entries]).encode())
        self.manifest = digest.hexdigest()
        shown = collections.Counter(label for e in self.entries for label in e.nfbl)
        self.classes: Mapping[str, int] = dict(sorted(shown.items()))
        if unknown := sorted(set(shown) - set(self.taxonomy.nfbl)):
            raise ValueError(
                f"{folder / 'taxonomy.json'} has no body language {unknown[0]!r}, "
                f"which {self.name} shows: {AGAIN}"
            )
        self._maps: dict[int, mmap.mmap] = {}

    def answered(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """Those of the tasks that some record has an answer for."""
        found = {task for entry in self.entries for task in entry.tasks}
        return tuple(task for task in tasks if task in found)

    def __len__(self) -> int:
        """The number of records."""
        return len(self.entries)

    def __repr__(self) -> str:
        """Names it in errors and in Grain's descriptions."""
        return f"ShardSource({self.name}-{self.split}, {len(self)} records)"

    def __iter__(self) -> Iterator[Record]:
        """All records, in order."""
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> Record:
        """Record `i`.

        Raises:
            ValueError: its bytes are not those that were packed.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"record {i} of {len(self)}")
        entry, (number, at) = self.entries[i], self._place[i]
        framing = FORMATS[format_of(self._shards[number])]
        read = functools.partial(self._read, number)
        data = framing.record(read, entry.offset, entry.length)
        if (found := crc32c(data)) != entry.crc32c:
            raise ValueError(
                f"{self._shards[number]}: record {at} "
                f"at byte {entry.offset} (clip {entry.clip_id}) is damaged: CRC32C "
                f"{found:08x}, not {entry.crc32c:08x}: {AGAIN}"
            )
        return records.from_bytes(data)

    def _read(self, number: int, start: int, end: int) -> bytes:
        """Bytes of a shard."""
        shard = self._shards[number]
        if not isinstance(shard, Path):
            return read_range(shard, start, end)
        if number not in self._maps:
            with open(shard, "rb") as file:
                self._maps[number] = mmap.mmap(
                    file.fileno(), 0, access=mmap.ACCESS_READ
                )
        return self._maps[number][start:end]

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps, which no other process could use."""
        return self.__dict__ | {"_maps": {}}


def read_indexes(
    folder: AnyPath, splits: Mapping[str, Sequence[tuple[AnyPath, int]]]
) -> dict[str, list[tuple[AnyPath, Index]]]:
    """The indexes of every split, which name nobody who withdrew or is in two splits.

    Raises:
        ValueError: one of them is damaged, or does.
    """
    withdrawn = read_withdrawn(folder)
    found: dict[str, list[tuple[AnyPath, Index]]] = {}
    homes: dict[str, str] = {}
    for split, shards in splits.items():
        found[split] = []
        for shard, count in shards:
            index = read_index(shard)
            if lost := forgotten(shard, index, withdrawn):
                raise ValueError(lost)
            if index.records != count:
                raise ValueError(miscounted(shard, index.records, count, withdrawn))
            for entry in index.entries:
                if entry.subject in withdrawn:
                    raise ValueError(
                        f"{shard} still lists a subject of {WITHDRAWN}: give "
                        "`deemo pack --withdraw=SUBJECT` again, it was interrupted"
                    )
                if (home := homes.setdefault(entry.subject, split)) != split:
                    raise ValueError(
                        f"{shard}: subject {entry.subject} stands in {home}, too: put "
                        "all clips of a subject into one split and pack again"
                    )
            found[split].append((shard, index))
    return found


def _divide(
    folder: AnyPath,
    indexes: dict[str, list[tuple[AnyPath, Index]]],
    split: str,
    folds: int,
    fold: int,
) -> tuple[set[str], str]:
    """The subjects of a split, or on one side of a fold; and a word for which it is."""
    within = [split] if not folds else indexes
    subjects = sorted(
        {
            e.subject
            for each in within
            for _, index in indexes[each]
            for e in index.entries
        }
    )
    if not folds:
        return set(subjects), ""
    count = len(subjects) if folds == -1 else folds
    if not 2 <= count <= len(subjects):
        raise ValueError(
            f"{folder} has {len(subjects)} subjects, for config.data.folds={folds}: "
            "give 2 folds or more, and no more than subjects; -1 is one a subject"
        )
    if not 0 <= fold < count:
        raise ValueError(
            f"config.data.fold is {fold}: of {count} folds, give 0 to {count - 1}"
        )
    # Pseudonyms are hashes: their order is drawn already.
    tested = set(subjects[fold::count])
    own = set(subjects) - tested if split == "train" else tested
    return own, f"{'not ' * (split == 'train')}fold {fold} of {count}"
