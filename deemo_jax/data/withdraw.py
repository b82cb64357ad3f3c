"""A consent taken back: a subject out of a packed folder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import json
from pathlib import Path

from deemo_jax.data import integrity, tfds
from deemo_jax.data.card import Facts, write_card
from deemo_jax.data.consent import mark_of, read_mark, who_withdrew, write_withdrawn
from deemo_jax.data.record import pseudonym
from deemo_jax.data.shards import (
    AGAIN,
    Entry,
    index_of,
    index_path,
    read_index,
    read_splits,
    shards_in,
    write_encoded,
    write_index,
)

Progress = Callable[[str, int, int | None], None]


def withdraw(folder: Path, subject: str, *, salt: bytes, is_known: bool = False) -> int:
    """Leaves a subject's records out of every index; the number of clips left out.

    Nothing of them is packed into the folder any more. `is_known` says that it is
    somebody's name, although no clip of theirs may be in there (any more).

    No shard is rewritten: readers that go by the index do not see them any more, and
    their bytes are there until `purge`. Interrupted, it is to be given again; no reader
    of ours takes the folder until then.

    Raises:
        ValueError: no clip of that subject is in the folder, nor was any, nor is the
            name known; or the folder was packed with another salt.
    """
    name = pseudonym(salt, "subject", subject)
    _, splits = read_splits(folder)
    shards = [shard for shards in splits.values() for shard, _ in shards]
    indexes = {shard: read_index(shard) for shard in shards}
    before = who_withdrew(folder)
    is_there = any(e.subject == name for i in indexes.values() for e in i.entries)
    if not (is_there or is_known or name in before):
        raise ValueError(
            f"no clip of subject {subject!r} is in {folder}: give the name that the "
            "annotations have, and the --salt_file that the folder was packed with"
        )
    mark = mark_of(salt)
    if not (is_there or name in before) and (told := read_mark(folder, before)) != mark:
        raise ValueError(
            f"nobody in {folder} has the name {subject!r} by this salt, by which a run "
            "knows it: give the --salt_file that the folder was packed with"
            + (
                ""
                if told
                else "; if this is the one, copy its withdrawn.json again, which was "
                "made of the indexes and does not tell"
            )
        )
    write_withdrawn(folder, before | {name}, mark)
    clips = 0
    for shard, index in indexes.items():
        now = index_of(index.entries, index.size, before | {name})
        counts = {n: index.withdrawn.get(n, 0) + k for n, k in now.withdrawn.items()}
        write_index(shard, now._replace(withdrawn=counts))
        clips += now.withdrawn[name]
    return clips


def purge(folder: Path, *, progress: Progress | None = None) -> int:
    """Rewrites the shards without the withdrawn; the number of clips that are gone.

    A shard is written beside its name and then renamed, and the sizes that TFDS knows
    are written last: interrupted, it is to be given again. A split of which nothing is
    left is none any more, unless it is the last.

    Raises:
        ValueError: nobody has withdrawn, or it cannot be told who; a shard is damaged,
            or stands there and is of no split.
    """
    name, splits = read_splits(folder)
    _remove_emptied(folder, splits)
    if strays := integrity.strays(folder, splits):
        raise ValueError(strays[0])
    withdrawn = who_withdrew(folder)
    if not withdrawn:
        raise ValueError(
            f"nobody has withdrawn from {folder}: give --withdraw=SUBJECT first"
        )
    write_withdrawn(folder, withdrawn)
    for partial in folder.glob(".*-of-*.partial"):  # of an interrupted packing
        partial.unlink()
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
    _remove_emptied(folder, read_splits(folder)[1])
    return gone


def _remove_emptied(
    folder: Path, splits: Mapping[str, Sequence[tuple[Path, int]]]
) -> None:
    """Removes shards of no split of which nothing is left."""
    listed = {shard for shards in splits.values() for shard, _ in shards}
    for shard in shards_in(folder).keys() - listed:
        if not any(True for _ in integrity.walk(shard)):
            index_path(shard).unlink(missing_ok=True)
            shard.unlink()


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

    return write_encoded(shard, kept(), withdrawn=withdrawn), left_out
