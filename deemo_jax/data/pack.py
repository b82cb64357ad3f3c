"""Packs de-identified clips into a TFDS folder: splits, pseudonyms, shards, card."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import functools
import itertools
import json
import os
from pathlib import Path
import re
import secrets

from deemo_jax.annotation import (
    Taxonomy,
    folder_taxonomy,
    write_whole,
)
from deemo_jax.clip import DeidentifiedClip
from deemo_jax.config import ConfigError
from deemo_jax.data import tfds
from deemo_jax.data.audio import count_samples
from deemo_jax.data.card import Facts, write_card
from deemo_jax.data.consent import WITHDRAWN, mark_of, who_withdrew, write_withdrawn
from deemo_jax.data.encoded import MANIFEST
from deemo_jax.data.integrity import walk
from deemo_jax.data.packable import packable_clips
from deemo_jax.data.record import FrameSampling, Record, from_clip
from deemo_jax.data.shards import (
    FORMATS,
    PACKING,
    Entry,
    check_shards,
    shard_name,
    shards_in,
    write_shard,
)
from deemo_jax.data.splits import assign_splits
from deemo_jax.data.unfinished import Unfinished
from deemo_jax.data.windows import Windowing
from deemo_jax.refusals import Refusal, Rejection, reject, write_rejections
from deemo_jax.storage import alone_in

Progress = Callable[[str, int, int | None], None]
SALT = "salt.txt"  # in the owner's folder, never in the packed one
REJECTED = "rejected_by_pack.jsonl"  # likewise
ELSEWHERE = "choose another --output, and --withdraw there who withdrew from this one"
AT_ONCE = 32  # clips that are read together; bounds the memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What packing did: records and subjects a split, and how many were refused."""

    name: str
    records: dict[str, int]
    subjects: dict[str, int]
    bytes: int
    rejected: int
    # Clips that passed an audit of looser thresholds than the defaults.
    loosely: int = 0
    # Where the salt is, if it was made for these records.
    new_salt: Path | None = dataclasses.field(default=None, compare=False)

    def describe(self) -> str:
        """A line for people, and one for each split that a run will miss."""
        splits = ", ".join(
            f"{count} {split} ({self.subjects[split]} subjects)"
            for split, count in self.records.items()
        )
        lines = [f"{self.name}: {splits}; {self.bytes / 1e6:.1f} MB"]
        lines += [
            f'no clip is in {split}: put some subjects there, "split": "{split}" in '
            "their annotations, and pack again"
            for split in ("train", "test")
            if split not in self.records
        ]
        if self.loosely:
            lines.append(
                f"{self.loosely} clips passed an audit of looser thresholds than the "
                "defaults: `deemo audit` judges them again"
            )
        if self.new_salt is not None:
            lines.append(
                f"the pseudonyms are new: keep their salt, {self.new_salt}, where "
                "packed records do not go"
            )
        return "\n".join(lines)


def pack_folder(
    input: Path,
    output: Path,
    *,
    name: str,
    salt_file: Path | None = None,
    shards: int = 8,
    format: str = "tfrecord",
    description: str = "",
    sampling: FrameSampling | None = None,
    stratify: bool = False,
    windowing: Windowing | None = None,
    allow_unaudited: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Packs what `deemo deidentify` wrote to `input`; the same input, the same bytes.

    Clips that failed their audit are refused, those whose consent is withdrawn in
    `input/annotations.jsonl` or unclear, or that lack a sound line there, and those
    that nobody audited unless they are allowed.

    The salt of the pseudonyms is read from `salt_file`, by default `input/salt.txt`,
    and made where there is none. What is refused stands in the owner's folder, in
    `input/rejected_by_pack.jsonl`: it names clips and subjects as their owner does, and
    a packed folder is handed on. With `windowing`, long clips are packed in windows.

    Raises:
        ConfigError: the name, the format or the number of shards is unfit.
        ValueError: `input` is no de-identified folder, the salt would lie in `output`,
            which holds another data set or features, or from which subjects withdrew
            by another salt; nothing is left to pack.
    """
    input, output = Path(input), Path(output)
    clips, rejections = packable_clips(input, allow_unaudited=allow_unaudited)
    loosely = sum(c.verdict == "passed" and bool(c.audit.get("looser")) for c in clips)
    salt_path = salt_file or input / SALT
    if salt_path.resolve().is_relative_to(output.resolve()):
        raise ValueError(
            f"the salt {salt_path} would lie in the packed folder, where it undoes "
            "the pseudonyms: choose another --output or --salt_file"
        )
    if input.resolve().is_relative_to(output.resolve()):
        raise ValueError(
            f"{input} would lie in the packed folder, which is handed on, and names "
            "people as their owner does: choose another --output"
        )
    _check_asked(output, name, shards, format)  # before anything is made
    new_salt = None if salt_path.exists() else salt_path
    if new_salt and who_withdrew(output):
        raise ValueError(
            f"{salt_path} is not there, and by a new salt who withdrew from {output} "
            "would come back: give the --salt_file that it was packed with"
        )
    try:
        write_rejections(input / REJECTED, rejections)
    except OSError as error:
        raise ValueError(
            f"{input / REJECTED}, which tells what is refused, cannot be written "
            f"({error.strerror}): make {input} writable, or pack a copy of it"
        ) from error
    output.mkdir(parents=True, exist_ok=True)
    with alone_in(output):
        entries, refused = write_dataset(
            clips if windowing is None else windowing.cut(clips),
            output,
            name=name,
            salt=read_salt(salt_path),
            taxonomy=folder_taxonomy(input),
            shards=shards,
            format=format,
            description=description,
            sampling=sampling,
            stratify=stratify,
            progress=progress,
        )
    write_rejections(input / REJECTED, rejections + refused)
    if not entries:
        raise ValueError(
            f"nothing is left to pack, {len(rejections + refused)} clips were refused: "
            f"see {input / REJECTED}"
            + (
                f". {output} is as it was: --withdraw there whom it should not have"
                if tfds.dataset_name(output)
                else ""
            )
        )
    return Summary(
        name=name,
        records={split: len(rows) for split, rows in entries.items()},
        subjects={split: len({r.subject for r in e}) for split, e in entries.items()},
        bytes=sum(row.length for rows in entries.values() for row in rows),
        rejected=len(rejections) + len(refused),
        loosely=loosely,
        new_salt=new_salt,
    )


def _check_asked(output: Path, name: str, shards: int, format: str) -> None:
    """Refuses what cannot be written, or not there."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(
            f"{name!r} is no name for a data set: use a-z, 0-9 and _, such as deemo_mer"
        )
    check_shards(shards)
    if format not in FORMATS:
        raise ConfigError(f"format is {format!r}: give {' or '.join(FORMATS)}")
    held = set(shards_in(output).values())
    if others := (held | {tfds.dataset_name(output)}) - {None, name}:
        raise ValueError(
            f"{output} holds the data set {others.pop()}, or part of it: {ELSEWHERE}"
        )
    if (output / MANIFEST).exists():
        raise ValueError(f"{output} holds features, not media: {ELSEWHERE}")
    ours = ("dataset_info.json", PACKING, WITHDRAWN)  # or what is left of one
    if not held and not any((output / each).exists() for each in ours):
        for written in ("README.md", "taxonomy.json"):
            if (output / written).exists():
                raise ValueError(
                    f"{output / written} would be written over, and {output} holds no "
                    "data set: choose another --output"
                )


def write_dataset(
    clips: Iterable[DeidentifiedClip],
    output: Path,
    *,
    name: str,
    salt: bytes,
    taxonomy: Taxonomy,
    shards: int = 8,
    format: str = "tfrecord",
    description: str = "",
    sampling: FrameSampling | None = None,
    stratify: bool = False,
    progress: Progress | None = None,
) -> tuple[dict[str, list[Entry]], list[Rejection]]:
    """Writes shards, indexes, taxonomy, card and TFDS's files; refuses what is unfit.

    Anything but a `DeidentifiedClip` is refused. Records are ordered by pseudonym, so
    that neither the order of the clips nor who is in them shows. `dataset_info.json`
    is removed first and written last: a folder that has one is whole. Shards that an
    interrupted packing of the same clips has written are kept.

    Returns:
        The index entries of each split, and a rejection for each clip left out. Where
        nothing is left to pack there is no entry, and what stood there is untouched;
        where no clip could be read, there is no entry and no data set.

    Raises:
        ValueError: who withdrew from the folder did so by another salt, or cannot be
            told.
    """
    withdrawn = who_withdrew(output, salt)
    splits, rejections = assign_splits(
        clips, salt, withdrawn=withdrawn, stratify=stratify
    )
    if not splits:
        return {}, rejections
    write_withdrawn(output, withdrawn, mark_of(salt))
    unfinished = Unfinished(output, salt, sampling, withdrawn)
    (output / "dataset_info.json").unlink(missing_ok=True)
    plan = _plan(output, name, splits, shards, format)
    kept = {shard: unfinished.entries(shard, part) for _, shard, part in plan}
    whole = {shard.name for shard, rows in kept.items() if rows is not None}
    for pattern in (f"{name}-*.*-of-*", ".*-of-*.partial"):
        for old in output.glob(pattern):
            if old.name.removesuffix(".index") not in whole:
                old.unlink()
    read = functools.partial(_read, salt=salt, sampling=sampling)
    tally = _Tally(progress, sum(map(len, splits.values())), rejections)
    written: dict[str, list[list[Entry]]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for split, shard, part in plan:
            rows = kept[shard]
            if rows is not None:
                tally.again(found.row for found in walk(shard))
            else:
                results = _in_order(pool, read, part)
                rows = write_shard(shard, tally.sound(results), withdrawn=withdrawn)
                # Of those that were refused, the reasons are to be told again.
                if len(rows) == len(part):
                    unfinished.enter(shard, part)
            written.setdefault(split, []).append(rows)
    lengths: dict[str, list[int]] = {}
    entries: dict[str, list[Entry]] = {}
    for split, indexes in written.items():
        if any(indexes):
            lengths[split] = [len(rows) for rows in indexes]
            entries[split] = [entry for rows in indexes for entry in rows]
        else:  # a split whose every clip was refused is none
            for empty in output.glob(f"{name}-{split}.{format}-*"):
                empty.unlink()
    if not entries:
        unfinished.close()
        return {}, rejections
    write_whole(output / "taxonomy.json", json.dumps(taxonomy.to_json(), indent=1))
    write_card(output, name, entries, tally.facts, description)
    num_bytes = {split: sum(e.length for e in rows) for split, rows in entries.items()}
    tfds.write_metadata(output, name, lengths, num_bytes, description, format=format)
    unfinished.close()
    return entries, rejections


def read_salt(path: Path) -> bytes:
    """The salt of the pseudonyms: 32 bytes, drawn once, readable by the owner only.

    Raises:
        ValueError: the file is there and holds no salt.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
        try:
            os.link(beside, path)  # not over that of another process, written just now
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            beside.rename(path)
        beside.unlink(missing_ok=True)
    text = path.read_text(errors="replace").strip()
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError(
            f"{path} holds no salt (64 hexadecimal digits): restore it, or remove it "
            "and get new pseudonyms"
        )
    return bytes.fromhex(text)


class _Tally:
    """Passes sound records on; counts what they are, and keeps the refused."""

    def __init__(
        self, progress: Progress | None, total: int, rejections: list[Rejection]
    ):
        self.facts = Facts()
        self._progress, self._total, self._done = progress, total, 0
        self._rejections = rejections

    def sound(self, results: Iterable[Record | Rejection]) -> Iterator[Record]:
        for result in results:
            self._done += 1
            if self._progress:
                self._progress("packing clips", self._done, self._total)
            if isinstance(result, Rejection):
                self._rejections.append(result)
                continue
            self.facts.count(result)
            yield result

    def again(self, rows: Iterable[Record | None]) -> None:
        """Counts the records of a shard that is there."""
        for _ in self.sound(row for row in rows if row is not None):
            pass


def _plan(
    output: Path,
    name: str,
    splits: Mapping[str, Sequence[DeidentifiedClip]],
    shards: int,
    format: str,
) -> list[tuple[str, Path, Sequence[DeidentifiedClip]]]:
    """The split, the path and the clips of each shard."""
    plan = []
    for split, members in splits.items():
        count = min(shards, len(members))
        cuts = [len(members) * k // count for k in range(count + 1)]
        names = [shard_name(name, split, k, count, format) for k in range(count)]
        plan += [
            (split, output / shard, members[first:last])
            for shard, (first, last) in zip(
                names, itertools.pairwise(cuts), strict=True
            )
        ]
    return plan


def _in_order(
    pool: ThreadPoolExecutor,
    read: Callable[[DeidentifiedClip], Record | Rejection],
    clips: Sequence[DeidentifiedClip],
) -> Iterator[Record | Rejection]:
    """What is read of each clip, a few clips ahead at most."""
    for start in range(0, len(clips), AT_ONCE):
        yield from pool.map(read, clips[start : start + AT_ONCE])


def _read(
    clip: DeidentifiedClip, *, salt: bytes, sampling: FrameSampling | None
) -> Record | Rejection:
    try:
        row = from_clip(clip, salt, sampling)
        if row.audio:
            count_samples(row.audio)  # the index will have them
        return row
    except RuntimeError:  # libsndfile's
        refusal = Refusal("its sound file is damaged", "de-identify it again")
    except (Refusal, OSError) as error:
        refusal = error if isinstance(error, Refusal) else Refusal(str(error), "repair")
    return reject(refusal, clip_id=clip.annotation.clip_id)
