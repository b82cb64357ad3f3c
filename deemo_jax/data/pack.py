"""Packs de-identified clips into a TFDS folder: splits, pseudonyms, shards, card."""

from collections import Counter
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
    Refusal,
    Rejection,
    Taxonomy,
    folder_taxonomy,
    reject,
    write_rejections,
    write_whole,
)
from deemo_jax.clip import DeidentifiedClip, read_deidentified
from deemo_jax.data import tfds
from deemo_jax.data.card import Facts, write_card
from deemo_jax.data.integrity import walk
from deemo_jax.data.record import FrameSampling, Record, from_clip, pseudonym
from deemo_jax.data.shards import Entry, read_withdrawn, shard_name, write_shard
from deemo_jax.data.unfinished import Unfinished

Progress = Callable[[str, int, int | None], None]
FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}  # of subjects without a split
SALT = "salt.txt"  # in the owner's folder, never in the packed one
REJECTED = "rejected_by_pack.jsonl"  # likewise
AT_ONCE = 32  # clips that are read together; bounds the memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What packing did: records and subjects a split, and how many were refused."""

    name: str
    records: dict[str, int]
    subjects: dict[str, int]
    bytes: int
    rejected: int

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
        return "\n".join(lines)


def pack_folder(
    input: Path,
    output: Path,
    *,
    name: str,
    salt_file: Path | None = None,
    shards: int = 8,
    description: str = "",
    sampling: FrameSampling | None = None,
    stratify: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Packs what `deemo deidentify` wrote to `input`; the same input, the same bytes.

    The salt of the pseudonyms is read from `salt_file`, by default `input/salt.txt`,
    and made where there is none. What is refused stands in the owner's folder, in
    `input/rejected_by_pack.jsonl`: it names clips and subjects as their owner does, and
    a packed folder is handed on.

    Raises:
        ValueError: `input` is no de-identified folder, the name is not one that TFDS
            takes, the salt would lie in `output`, nothing is left to pack.
    """
    input, output = Path(input), Path(output)
    clips, rejections = read_deidentified(input)
    salt_path = salt_file or input / SALT
    if salt_path.resolve().is_relative_to(output.resolve()):
        raise ValueError(
            f"the salt {salt_path} would lie in the packed folder, where it undoes "
            "the pseudonyms: choose another --output or --salt_file"
        )
    output.mkdir(parents=True, exist_ok=True)
    entries, refused = write_dataset(
        clips,
        output,
        name=name,
        salt=read_salt(salt_path),
        taxonomy=folder_taxonomy(input),
        shards=shards,
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
        )
    return Summary(
        name=name,
        records={split: len(rows) for split, rows in entries.items()},
        subjects={split: len({r.subject for r in e}) for split, e in entries.items()},
        bytes=sum(row.length for rows in entries.values() for row in rows),
        rejected=len(rejections) + len(refused),
    )


def write_dataset(
    clips: Iterable[DeidentifiedClip],
    output: Path,
    *,
    name: str,
    salt: bytes,
    taxonomy: Taxonomy,
    shards: int = 8,
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
        nothing is left to pack there is no entry, and no data set.

    Raises:
        ValueError: the folder holds another data set, or the name is unfit.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(
            f"{name!r} is no name for a data set: use a-z, 0-9 and _, such as deemo_mer"
        )
    if shards < 1:
        raise ValueError(f"shards is {shards}: give 1 or more")
    if (there := tfds.dataset_name(output)) not in (None, name):
        raise ValueError(
            f"{output} holds the data set {there}: "
            "choose another --output, or remove it"
        )
    splits, rejections = assign_splits(
        clips, salt, withdrawn=read_withdrawn(output), stratify=stratify
    )
    (output / "dataset_info.json").unlink(missing_ok=True)
    unfinished = Unfinished(output, salt, sampling)
    plan = _plan(output, name, splits, shards)
    kept = {shard: unfinished.entries(shard, part) for _, shard, part in plan}
    whole = {shard.name for shard, rows in kept.items() if rows is not None}
    for pattern in (f"{name}-*.tfrecord-*", f".{name}-*.partial"):
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
                rows = write_shard(shard, tally.sound(results))
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
            for empty in output.glob(f"{name}-{split}.tfrecord-*"):
                empty.unlink()
    unfinished.close()
    if not entries:
        return {}, rejections
    write_whole(output / "taxonomy.json", json.dumps(taxonomy.to_json(), indent=1))
    write_card(output, name, entries, tally.facts, description)
    num_bytes = {split: sum(e.length for e in rows) for split, rows in entries.items()}
    tfds.write_metadata(output, name, lengths, num_bytes, description)
    return entries, rejections


def assign_splits(
    clips: Iterable[DeidentifiedClip],
    salt: bytes,
    *,
    withdrawn: frozenset[str] = frozenset(),
    stratify: bool = False,
) -> tuple[dict[str, list[DeidentifiedClip]], list[Rejection]]:
    """The clips of each split, in the order of their pseudonyms; no subject in two.

    A subject goes where its annotations say; where none says, a hash decides, by
    `FRACTIONS`, so that it stays there whoever comes later. With `stratify`, those
    whose clips mostly have the same emotion are dealt out by `FRACTIONS` instead, in
    the order of that hash: splits have the labels alike.

    Refused: what is not de-identified, a withdrawn consent (by the annotation, or by
    the pseudonym), all clips of a subject that is put into two splits, a clip id that
    comes again.
    """
    sound: dict[str, DeidentifiedClip] = {}
    rejections: list[Rejection] = []
    stated: dict[str, set[str]] = {}
    for clip in clips:
        clip_id = clip.annotation.clip_id
        try:
            if not isinstance(clip, DeidentifiedClip):
                raise Refusal("it is not de-identified", "run `deemo deidentify` first")
            if (
                clip.annotation.consent != "granted"
                or pseudonym(salt, "subject", clip.annotation.subject) in withdrawn
            ):
                raise Refusal("the consent is withdrawn", "delete the clip")
            if clip_id in sound:
                raise Refusal(f"clip_id {clip_id!r} comes twice", "name it otherwise")
        except Refusal as refusal:
            rejections.append(reject(refusal, clip_id=clip_id))
            continue
        sound[clip_id] = clip
        if clip.annotation.split is not None:
            stated.setdefault(clip.annotation.subject, set()).add(clip.annotation.split)
    splits: dict[str, list[DeidentifiedClip]] = {split: [] for split in FRACTIONS}

    def drawn(subject: str) -> str:
        return _drawn_split(pseudonym(salt, "subject", subject))

    free = [c for c in sound.values() if c.annotation.subject not in stated]
    dealt = _deal(free, salt) if stratify else {}
    for clip in sorted(
        sound.values(), key=lambda c: pseudonym(salt, "clip", c.annotation.clip_id)
    ):
        subject = clip.annotation.subject
        said = stated.get(subject, {dealt.get(subject) or drawn(subject)})
        if len(said) > 1:
            refusal = Refusal(
                f"subject {subject!r} stands in {' and '.join(sorted(said))}",
                "put all clips of a subject into one split",
            )
            rejections.append(reject(refusal, clip_id=clip.annotation.clip_id))
            continue
        splits[min(said)].append(clip)
    return {split: members for split, members in splits.items() if members}, rejections


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
        beside.rename(path)
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
) -> list[tuple[str, Path, Sequence[DeidentifiedClip]]]:
    """The split, the path and the clips of each shard."""
    plan = []
    for split, members in splits.items():
        count = min(shards, len(members))
        cuts = [len(members) * k // count for k in range(count + 1)]
        plan += [
            (split, output / shard_name(name, split, k, count), members[first:last])
            for k, (first, last) in enumerate(itertools.pairwise(cuts))
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
        return from_clip(clip, salt, sampling)
    except (Refusal, OSError) as error:
        refusal = error if isinstance(error, Refusal) else Refusal(str(error), "repair")
        return reject(refusal, clip_id=clip.annotation.clip_id)


def _deal(clips: Iterable[DeidentifiedClip], salt: bytes) -> dict[str, str]:
    """The split of each subject, those of one emotion dealt out by `FRACTIONS`."""
    emotions: dict[str, Counter[str]] = {}
    for clip in clips:
        count = emotions.setdefault(clip.annotation.subject, Counter())
        count[clip.annotation.emotion or ""] += 1
    order = sorted(
        (
            min(count, key=lambda emotion: (-count[emotion], emotion)),
            pseudonym(salt, "subject", name),
            name,
        )
        for name, count in emotions.items()
    )
    # Whichever split is furthest from its share of those dealt so far is next.
    held: Counter[str] = Counter()
    dealt = {}
    for number, (_, _, name) in enumerate(order, start=1):
        split = max(FRACTIONS, key=lambda s: FRACTIONS[s] * number - held[s])
        held[split] += 1
        dealt[name] = split
    return dealt


def _drawn_split(subject: str) -> str:
    """The split of a subject, by its pseudonym alone: others do not change it."""
    drawn, edge = int(subject, 16) / 16 ** len(subject), 0.0
    for split, fraction in FRACTIONS.items():
        edge += fraction
        if drawn < edge:
            return split
    return next(iter(FRACTIONS))
