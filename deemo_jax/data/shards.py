"""TFRecord shards with an index beside each: written whole, read in any order."""

from collections.abc import Iterable, Iterator, Sequence
import hashlib
import json
import mmap
import os
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from deemo_jax.annotation import Taxonomy, load_taxonomy
from deemo_jax.data import record as records
from deemo_jax.data.record import Record
from deemo_jax.storage import AnyPath, locate, read_range, size_of, write_whole

Folder = TypeVar("Folder", bound=AnyPath)

INDEX_FORMAT = "deemo-index/2"
HEADER, FOOTER = 12, 4  # bytes of TFRecord's framing around each record
AGAIN = "copy it again from where it was packed, or run `deemo pack` again"
REINDEX = "copy it again, or build it from the shard, `deemo pack --reindex=true`"
WITHDRAWN = "withdrawn.json"  # pseudonyms of those who took their consent back


class Entry(NamedTuple):
    """What an index says of a record; also the columns of the index file.

    `offset` is where its framing starts in the shard, `length` and `crc32c` are of the
    record's bytes. `text` is in bytes, `samples` at 16 kHz, `tasks` are those that
    the record has an answer for, `clip_id` and `subject` are pseudonyms.
    """

    offset: int
    length: int
    crc32c: int
    text: int
    frames: int
    samples: int
    tasks: tuple[str, ...]
    clip_id: str
    subject: str


class Index(NamedTuple):
    """What stands beside a shard of `size` bytes: what is where in it.

    `withdrawn` counts the records that are in the shard and not in `entries`, because
    their subject's consent was withdrawn.
    """

    entries: list[Entry]
    size: int
    withdrawn: int = 0


def shard_name(name: str, split: str, shard: int, shards: int) -> str:
    """The file name that TFDS expects."""
    return f"{name}-{split}.tfrecord-{shard:05d}-of-{shards:05d}"


def index_path(shard: AnyPath) -> AnyPath:
    """The index that stands beside a shard."""
    return shard.with_name(shard.name + ".index")


def write_shard(path: Path, rows: Iterable[Record]) -> list[Entry]:
    """Writes a shard and its index, each beside its name and then renamed."""
    return write_encoded(path, ((row, records.to_bytes(row)) for row in rows))


def write_encoded(path: Path, rows: Iterable[tuple[Record, bytes]]) -> list[Entry]:
    """`write_shard` of records whose bytes are known.

    The framing is TFRecord's: length (8 bytes), masked CRC32C of those, the record,
    masked CRC32C of the record; all little-endian.
    """
    entries = []
    beside = path.with_name(f".{path.name}.partial")
    with open(beside, "wb") as file:
        for row, data in rows:
            length = len(data).to_bytes(8, "little")
            entries.append(entry_of(row, data, file.tell()))
            file.write(length + masked(crc32c(length)))
            file.write(data)
            file.write(masked(entries[-1].crc32c))
        size = file.tell()
        file.flush()
        os.fsync(file.fileno())
    # An index that is left of what stood here before would be that of another shard.
    index_path(path).unlink(missing_ok=True)
    beside.replace(path)
    write_index(path, Index(entries, size))
    return entries


def write_index(shard: Path, index: Index) -> None:
    """Writes what stands beside a shard: a head that has a checksum of the rest."""
    rest = "".join(json.dumps(entry) + "\n" for entry in index.entries)
    head = {
        "format": INDEX_FORMAT,
        "shard": shard.name,
        "bytes": index.size,
        "records": len(index.entries),
        "withdrawn": index.withdrawn,
        "crc32c": crc32c(rest.encode()),
        "columns": list(Entry._fields),
    }
    write_whole(index_path(shard), json.dumps(head) + "\n" + rest)


def read_index(shard: AnyPath) -> Index:
    """Reads and checks the index of a shard.

    Raises:
        ValueError: shard or index is missing, too short, or they contradict.
    """
    path = index_path(shard)
    if not shard.exists():
        raise ValueError(f"{shard} is missing: {AGAIN}")
    if not path.exists():
        raise ValueError(f"{path}, the index of a shard, is missing: {REINDEX}")
    first, _, rest = path.read_bytes().partition(b"\n")
    try:
        head = json.loads(first)
        found, columns, of = head["format"], head["columns"], head["shard"]
        count, size, crc = head["records"], head["bytes"], head["crc32c"]
        withdrawn = head["withdrawn"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or of old: {REINDEX}") from error
    if found != INDEX_FORMAT or columns != list(Entry._fields):
        raise ValueError(
            f"{path} has format {found!r}, not {INDEX_FORMAT!r}: {REINDEX}"
        )
    if crc32c(rest) != crc:
        raise ValueError(f"{path} is damaged or cut short: {REINDEX}")
    if of != shard.name:
        raise ValueError(f"{path} is the index of {of}: {REINDEX}")
    made = [Entry._make(json.loads(line)) for line in rest.splitlines()]
    entries = [entry._replace(tasks=tuple(entry.tasks)) for entry in made]
    if len(entries) != count:
        raise ValueError(f"{path} lists {len(entries)} of {count} records: {REINDEX}")
    if (there := size_of(shard)) != size:
        raise ValueError(f"{shard} has {there} bytes, not {size}: {AGAIN}")
    return Index(entries, size, withdrawn)


def read_withdrawn(folder: AnyPath) -> frozenset[str]:
    """The pseudonyms of those whose consent to a packed folder was withdrawn.

    Raises:
        ValueError: the file that holds them is damaged.
    """
    path = folder / WITHDRAWN
    if not path.exists():
        return frozenset()
    try:
        return frozenset(map(str, json.loads(path.read_bytes())["subjects"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}, which holds who withdrew consent, is damaged: copy it again"
        ) from error


class ShardSource:
    """The records of one split of a packed folder, in any order, checked when read.

    A sequence for Grain: `len(source)`, `source[i]` -> `Record`. It may be pickled
    and used from several threads; files are mapped when first needed, and of those in a
    bucket each record is asked for by itself.

    Attributes:
        name, split: of the data set.
        entries: what the indexes say of each record.
        taxonomy: the label sets of the data set.
        manifest: SHA-256 over the indexes, which hold a checksum of every record.
    """

    def __init__(self, folder: AnyPath, split: str):
        folder = locate(folder)
        self.split = split
        self.name, splits = read_splits(folder)
        if split not in splits:
            raise ValueError(
                f"{folder} has no split {split!r}, it has {', '.join(sorted(splits))}: "
                "choose one of these (--config.evaluate.split), or annotate some "
                f'subjects with "split": "{split}" and pack again'
            )
        withdrawn = read_withdrawn(folder)
        self.taxonomy: Taxonomy = load_taxonomy(folder / "taxonomy.json")
        self.entries: list[Entry] = []
        self._shards: list[AnyPath] = []
        self._shard_of: list[int] = []
        digest = hashlib.sha256()
        for number, (shard, count) in enumerate(splits[split]):
            index = read_index(shard)
            if (there := len(index.entries) + index.withdrawn) != count:
                raise ValueError(
                    f"{shard} holds {there} records, dataset_info.json says {count}: "
                    f"{AGAIN}"
                )
            if not withdrawn.isdisjoint(entry.subject for entry in index.entries):
                raise ValueError(
                    f"{shard} still lists a subject of {WITHDRAWN}: give "
                    "`deemo pack --withdraw=SUBJECT` again, it was interrupted"
                )
            digest.update(index_path(shard).read_bytes())
            self.entries += index.entries
            self._shards.append(shard)
            self._shard_of += [number] * len(index.entries)
        self.manifest = digest.hexdigest()
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
        entry, number = self.entries[i], self._shard_of[i]
        start = entry.offset + HEADER
        data = self._read(number, start, start + entry.length)
        if (found := crc32c(data)) != entry.crc32c:
            raise ValueError(
                f"{self._shards[number]}: record {i - self._shard_of.index(number)} "
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


def crc32c(data: bytes) -> int:
    """CRC32C (Castagnoli) of the bytes."""
    import google_crc32c

    return google_crc32c.value(data)


def masked(crc: int) -> bytes:
    """A checksum as TFRecord stores it."""
    rotated = ((crc >> 15) | (crc << 17)) & 0xFFFFFFFF
    return ((rotated + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def entry_of(row: Record, data: bytes, offset: int) -> Entry:
    """What the index says of a record that stands at `offset`."""
    from deemo_jax.data.audio import count_samples
    from deemo_jax.data.prompt import answered

    texts = (row.transcript, row.reasoning, row.emotion)
    return Entry(
        offset=offset,
        length=len(data),
        crc32c=crc32c(data),
        text=sum(len(text.encode()) for text in texts if text),
        frames=len(row.frames),
        samples=count_samples(row.audio) if row.audio else 0,
        tasks=answered(row),
        clip_id=row.clip_id,
        subject=row.subject,
    )


def read_splits(folder: Folder) -> tuple[str, dict[str, list[tuple[Folder, int]]]]:
    """The data set's name, and (path, records) of each shard of each split.

    Raises:
        ValueError: there is none, or what describes it is damaged.
    """
    path = folder / "dataset_info.json"
    try:
        info = json.loads(path.read_bytes())
        name = str(info["name"])
        lengths = {
            str(found["name"]): [int(count) for count in found["shardLengths"]]
            for found in info["splits"]
        }
    except OSError as error:
        raise ValueError(
            f"{folder} holds no data set (dataset_info.json, written last, is not "
            "there): write it with `deemo pack`, again if it was interrupted"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {AGAIN}") from error
    return name, {
        split: [
            (folder / shard_name(name, split, number, len(counts)), count)
            for number, count in enumerate(counts)
        ]
        for split, counts in lengths.items()
    }
