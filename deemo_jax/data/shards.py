"""Shards of records with an index beside each: written whole, read in any order."""

from collections.abc import Iterable, Set
import json
from pathlib import Path
import re
from typing import NamedTuple, TypeVar

from deemo_jax.data import array_record, tfrecord
from deemo_jax.data import record as records
from deemo_jax.data.record import Record
from deemo_jax.data.tfrecord import crc32c
from deemo_jax.fields import ConfigError
from deemo_jax.storage import AnyPath, size_of, write_whole

Folder = TypeVar("Folder", bound=AnyPath)

INDEX_FORMAT = "deemo-index/4"
FORMATS = {"tfrecord": tfrecord, "array_record": array_record}  # by names of TFDS
AGAIN = "copy it again from where it was packed, or run `deemo pack` again"
SHARD = re.compile(r"([a-z][a-z0-9_]*)-[a-z]+\.[a-z_]+-\d{5}-of-\d{5}")
PACKING = ".packing.json"  # stands in a folder while it is packed
REINDEX = "copy it again, or build it from the shard, `deemo pack --reindex=true`"


class Entry(NamedTuple):
    """What an index says of a record; also the columns of the index file.

    `offset` is where its framing starts in the shard, `length` and `crc32c` are of the
    record's bytes. `text` is in bytes, `samples` at 16 kHz (of an encoded record, bytes
    of features), `tasks` are those that the record has an answer for, `nfbl` the
    classes of body language that it shows, as they begin, `clip_id` and `subject` are
    pseudonyms.
    """

    offset: int
    length: int
    crc32c: int
    text: int
    frames: int
    samples: int
    tasks: tuple[str, ...]
    nfbl: tuple[str, ...]
    clip_id: str
    subject: str


class Index(NamedTuple):
    """What stands beside a shard of `size` bytes: what is where in it.

    `withdrawn` has whom it knows to have withdrawn, with the number of their records
    that are in the shard, which are not in `entries`.
    """

    entries: list[Entry]
    size: int
    withdrawn: dict[str, int]

    @property
    def records(self) -> int:
        """How many are in the shard."""
        return len(self.entries) + sum(self.withdrawn.values())


def index_of(entries: Iterable[Entry], size: int, withdrawn: Set[str]) -> Index:
    """What stands beside a shard of these records, of which some subjects withdrew."""
    kept, gone = [], dict.fromkeys(sorted(withdrawn), 0)
    for entry in entries:
        if entry.subject in gone:
            gone[entry.subject] += 1
        else:
            kept.append(entry)
    return Index(kept, size, gone)


def shard_name(
    name: str, split: str, shard: int, shards: int, format: str = "tfrecord"
) -> str:
    """The file name that TFDS expects."""
    return f"{name}-{split}.{format}-{shard:05d}-of-{shards:05d}"


def shards_in(folder: Path) -> dict[Path, str]:
    """The shards that stand in a folder, whatever describes it, and their data sets."""
    named = (
        (path, SHARD.fullmatch(path.name)) for path in sorted(folder.glob("*-of-*"))
    )
    return {path: match[1] for path, match in named if match}


def indexes_in(folder: Path) -> list[Path]:
    """The indexes that stand in a folder, be their shards there or not."""
    return [
        path
        for path in sorted(folder.glob("*-of-*.index"))
        if SHARD.fullmatch(path.stem)
    ]


def check_shards(count: int) -> None:
    """Refuses a number of shards that no split can be divided into.

    Raises:
        ConfigError: it is less than 1.
    """
    if count < 1:
        raise ConfigError(f"--shards is {count}: give 1 or more")


def format_of(shard: AnyPath) -> str:
    """The format of a shard, which its name says."""
    return shard.name.rpartition(".")[2].partition("-")[0]


def index_path(shard: AnyPath) -> AnyPath:
    """The index that stands beside a shard."""
    return shard.with_name(shard.name + ".index")


def write_shard(
    path: Path, rows: Iterable[Record], *, withdrawn: Set[str] = frozenset()
) -> list[Entry]:
    """Writes a shard and its index, each beside its name and then renamed.

    The index names the `withdrawn`, too, of whom there is no record.
    """
    return write_encoded(path, map(records.to_bytes, rows), withdrawn=withdrawn)


def write_encoded(
    path: Path, rows: Iterable[bytes], *, withdrawn: Set[str] = frozenset()
) -> list[Entry]:
    """`write_shard` of records as bytes, of which the index is made, too."""
    entries = []
    beside = path.with_name(f".{path.name}.partial")
    with FORMATS[format_of(path)].writing(beside) as write:
        for data in rows:
            # Its seconds are float32, those of the clip it was made of are not.
            row = records.from_bytes(data)
            entries.append(entry_of(row, data, write(data)))
    size = beside.stat().st_size
    # An index that is left of what stood here before would be that of another shard.
    index_path(path).unlink(missing_ok=True)
    beside.replace(path)
    write_index(path, index_of(entries, size, withdrawn))
    return entries


def write_index(shard: Path, index: Index) -> None:
    """Writes what stands beside a shard: a head that has a checksum of the rest."""
    lines = [index.withdrawn, *index.entries]
    rest = "".join(json.dumps(line) + "\n" for line in lines)
    head = {
        "format": INDEX_FORMAT,
        "shard": shard.name,
        "bytes": index.size,
        "records": len(index.entries),
        "crc32c": crc32c(rest.encode()),
        "columns": list(Entry._fields),
    }
    write_whole(index_path(shard), json.dumps(head) + "\n" + rest)


def read_index(shard: AnyPath) -> Index:
    """Reads and checks the index of a shard.

    Raises:
        ValueError: shard or index is missing, too short, or they contradict.
    """
    if not shard.exists():
        raise ValueError(f"{shard} is missing: {AGAIN}")
    index = index_alone(index_path(shard))
    if (there := size_of(shard)) != index.size:
        raise ValueError(f"{shard} has {there} bytes, not {index.size}: {AGAIN}")
    return index


def index_alone(path: AnyPath) -> Index:
    """Reads and checks an index by itself, whether its shard is there or not.

    Raises:
        ValueError: it is missing, damaged, or of a shard of another name.
    """
    if not path.exists():
        raise ValueError(f"{path}, the index of a shard, is missing: {REINDEX}")
    first, _, rest = path.read_bytes().partition(b"\n")
    try:
        head = json.loads(first)
        found, columns, of = head["format"], head["columns"], head["shard"]
        count, size, crc = head["records"], head["bytes"], head["crc32c"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or of old: {REINDEX}") from error
    if found != INDEX_FORMAT or columns != list(Entry._fields):
        raise ValueError(
            f"{path} has format {found!r}, not {INDEX_FORMAT!r}: {REINDEX}"
        )
    if crc32c(rest) != crc:
        raise ValueError(f"{path} is damaged or cut short: {REINDEX}")
    if path.name != f"{of}.index":
        raise ValueError(f"{path} is the index of {of}: {REINDEX}")
    withdrawn, *lines = map(json.loads, rest.splitlines())
    made = map(Entry._make, lines)
    entries = [e._replace(tasks=tuple(e.tasks), nfbl=tuple(e.nfbl)) for e in made]
    if len(entries) != count:
        raise ValueError(f"{path} lists {len(entries)} of {count} records: {REINDEX}")
    return Index(entries, size, withdrawn)


def miscounted(shard: AnyPath, found: int, stated: int, withdrawn: Set[str]) -> str:
    """What to say of a shard that has not the records that TFDS is told of.

    A purge that was interrupted leaves such ones: a copy would bring back whom it took
    out.
    """
    remedy = AGAIN
    if found < stated and withdrawn:
        remedy = (
            "a purge was interrupted, give `deemo pack --purge --output="
            f"{shard.parent}` again"
        )
    return f"{shard} holds {found} records, dataset_info.json says {stated}: {remedy}"


def entry_of(row: Record, data: bytes, offset: int) -> Entry:
    """What the index says of a record that stands at `offset`."""
    from deemo_jax.data import tasks
    from deemo_jax.data.audio import count_samples

    shown = tasks.answer(row, "nfbl_which")
    texts = (row.transcript, row.reasoning, row.emotion, shown, tasks.cues(row))
    sound = row.audio or b""
    return Entry(
        offset=offset,
        length=len(data),
        crc32c=crc32c(data),
        text=sum(len(text.encode()) for text in texts if text),
        frames=len(row.frames),
        samples=len(sound) if row.encoded or not sound else count_samples(sound),
        tasks=tasks.answered(row),
        nfbl=tasks.classes(row),
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
        name, format = str(info["name"]), str(info["fileFormat"])
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
    if format not in FORMATS:
        raise ValueError(
            f"{folder} holds {format}, not {' or '.join(FORMATS)}: {AGAIN}"
        )
    return name, {
        split: [
            (folder / shard_name(name, split, number, len(counts), format), count)
            for number, count in enumerate(counts)
        ]
        for split, counts in lengths.items()
    }
