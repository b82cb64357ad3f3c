"""Who took consent to a packed folder back: a file names them, and so do its indexes.

The file is there from the first packing on, with a checksum; each index names them all,
too, whatever became of its shard. Either tells of whom the other has lost or does not
know yet; where neither can, nobody is read or packed. What is not noticed is an older
file beside no sound index.
"""

from collections.abc import Set
import contextlib
import json
from pathlib import Path

from deemo_jax.data.record import pseudonym
from deemo_jax.data.shards import (
    PACKING,
    Index,
    index_alone,
    index_path,
    indexes_in,
    shards_in,
)
from deemo_jax.data.tfrecord import crc32c
from deemo_jax.storage import AnyPath, write_whole

WITHDRAWN = "withdrawn.json"  # pseudonyms of those who took their consent back
REBUILD = "copy it again, or build it from the indexes, `deemo pack --reindex=true`"


def read_withdrawn(folder: AnyPath) -> frozenset[str]:
    """The pseudonyms of those whose consent to a packed folder was withdrawn.

    Raises:
        ValueError: the file that holds them is missing or damaged.
    """
    return _read_withdrawn(folder)[0]


def who_withdrew(folder: Path, salt: bytes | None = None) -> frozenset[str]:
    """Those whom `withdrawn.json` or an index names; for who writes either.

    Raises:
        ValueError: neither can tell; or the pseudonyms are of another salt than `salt`,
            whose own match none of them.
    """
    path, shards, unsound = folder / WITHDRAWN, shards_in(folder), ""
    indexes = {*indexes_in(folder), *map(index_path, shards)}
    subjects: frozenset[str] = frozenset()
    try:
        subjects = read_withdrawn(folder)
    except ValueError as error:
        unsound = str(error)
    for index in sorted(indexes):
        try:
            subjects = subjects.union(index_alone(index).withdrawn)
        except ValueError as error:
            if unsound:
                raise ValueError(_untold(path, f"nor is {index}")) from error
    if unsound and (folder / PACKING).exists():
        raise ValueError(_untold(path, "and a packing was interrupted"))
    if unsound and not indexes and (folder / "dataset_info.json").exists():
        raise ValueError(_untold(path, "nor is any index of the data set"))
    if unsound and (subjects or path.exists()) and (salt is not None or not shards):
        raise ValueError(unsound)
    if subjects and salt is not None:
        check_salt(folder, subjects, mark_of(salt))
    return subjects


def check_salt(folder: Path, subjects: Set[str], mark: str | None) -> None:
    """Refuses a salt, by its mark, under which these would come back.

    Raises:
        ValueError: `withdrawn.json` has the mark of another one, or of none.
    """
    known = read_mark(folder, subjects)
    if known is None or mark is None:
        raise ValueError(
            f"{folder / WITHDRAWN} does not tell its salt, and who withdrew may come "
            "back under a new pseudonym: give --withdraw=SUBJECT of one of them again"
        )
    if known != mark:
        raise ValueError(
            f"{folder / WITHDRAWN} was written with another salt, whose pseudonyms are "
            "others: give the --salt_file that the folder was packed with"
        )


def mark_of(salt: bytes) -> str:
    """What tells a salt, and not how it reads."""
    return pseudonym(salt, "check", "")


def read_mark(folder: Path, subjects: Set[str]) -> str | None:
    """That of the salt by which these are named, if `withdrawn.json` knows them all.

    One that does not is of before, when the folder may have had another salt.
    """
    with contextlib.suppress(ValueError):
        named, mark = _read_withdrawn(folder)
        return mark if named >= subjects else None
    return None


def _untold(path: Path, why: str) -> str:
    return (
        f"{path} is not there and sound, {why}: who withdrew cannot be told. Copy "
        "either again; or pack to a new folder, and give --withdraw there for all who "
        "did"
    )


def write_withdrawn(folder: Path, subjects: Set[str], mark: str | None = None) -> None:
    """Writes their pseudonyms, and the mark of the salt of these.

    Without one, that which is there stays, if it is theirs.
    """
    held = {"subjects": sorted(subjects), "check": mark or read_mark(folder, subjects)}
    held |= {"crc32c": _crc_of(held)}
    write_whole(folder / WITHDRAWN, json.dumps(held, indent=1) + "\n")


def _read_withdrawn(folder: AnyPath) -> tuple[frozenset[str], str | None]:
    """Subjects, and the mark of the salt that they are named by."""
    path = folder / WITHDRAWN
    if not path.exists():
        raise ValueError(f"{path}, which names who withdrew, is missing: {REBUILD}")
    try:
        held = json.loads(path.read_bytes())
        crc = held.pop("crc32c")
        found = frozenset(held["subjects"]), held["check"]
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IsADirectoryError,
        RecursionError,
    ):
        held = crc = None
    if held is None or crc != _crc_of(held):
        raise ValueError(f"{path}, which names who withdrew, is damaged: {REBUILD}")
    return found


def _crc_of(held: dict) -> int:
    return crc32c(json.dumps(held).encode())


def forgotten(shard: AnyPath, index: Index, withdrawn: Set[str]) -> str:
    """What is wrong where an index names who withdrew, and nothing else does."""
    lost = len(index.withdrawn.keys() - withdrawn)
    if not lost:
        return ""
    return (
        f"{shard.parent / WITHDRAWN} does not name {lost} of those who withdrew by "
        f"{index_path(shard)}: {REBUILD}"
    )
