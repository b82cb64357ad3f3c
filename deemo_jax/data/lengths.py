"""How many tokens the clips of a data set need, counted once and kept beside it."""

from collections.abc import Callable, Sequence
import hashlib
import json

from jaxtyping import Int
import numpy as np

from deemo_jax.data.tfrecord import crc32c
from deemo_jax.storage import AnyPath, write_whole


def token_lengths(
    folder: AnyPath,
    *,
    key: Sequence[object],
    clips: Sequence[str],
    count: Callable[[int], Sequence[int]],
) -> Int[np.ndarray, "N C"]:
    """The tokens of each clip, by `count` of its place among `clips`, which has C.

    They are kept in `folder`, where it can be written to, under a digest of `key`: of
    all that they follow from, the records' contents too, and of the clips.
    """
    digest = hashlib.sha256(json.dumps([*key, *clips]).encode()).hexdigest()
    path = folder / f"lengths-{digest[:16]}.json"
    try:
        kept = json.loads(path.read_bytes())
        if kept["crc32c"] == _checksum(kept["lengths"]):
            return _rows_of(kept["lengths"])
    except (OSError, ValueError, TypeError, KeyError):
        pass  # it is not there, was cut short, or is of old: counted again
    found = [list(count(i)) for i in range(len(clips))]
    kept = {"crc32c": _checksum(found), "lengths": found}
    try:
        write_whole(path, json.dumps(kept) + "\n")
    except OSError as error:  # a data set that is read only
        print(f"token lengths are counted each time: {path}: {error.strerror}")
    return _rows_of(found)


def _rows_of(lengths: Sequence[Sequence[int]]) -> Int[np.ndarray, "N C"]:
    return np.array(lengths, np.int64).reshape(len(lengths), -1)


def _checksum(lengths: Sequence[Sequence[int]]) -> int:
    """Of the numbers, by which rows are planned: another one would be another plan."""
    return crc32c(json.dumps(lengths).encode())
