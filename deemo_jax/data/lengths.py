"""How many tokens the clips of a data set need, counted once and kept beside it."""

from collections.abc import Callable, Sequence
import hashlib
import json

from jaxtyping import Int
import numpy as np

from deemo_jax.storage import AnyPath, write_whole


def token_lengths(
    folder: AnyPath,
    *,
    key: Sequence[object],
    clips: Sequence[str],
    count: Callable[[int], int],
) -> Int[np.ndarray, " N"]:
    """The tokens of each clip, by `count` of its place among `clips`.

    They are kept in `folder`, where it can be written to, under a digest of `key`: of
    all that they follow from, the records' contents too, and of the clips.
    """
    digest = hashlib.sha256(json.dumps([*key, *clips]).encode()).hexdigest()
    path = folder / f"lengths-{digest[:16]}.json"
    try:
        kept = json.loads(path.read_bytes())
        if len(kept) == len(clips) and all(type(length) is int for length in kept):
            return np.array(kept, np.int64)
    except (OSError, ValueError, TypeError):
        pass  # it is not there, or was cut short: counted again
    found = [count(i) for i in range(len(clips))]
    try:
        write_whole(path, json.dumps(found) + "\n")
    except OSError as error:  # a data set that is read only
        print(f"token lengths are counted each time: {path}: {error.strerror}")
    return np.array(found, np.int64)
