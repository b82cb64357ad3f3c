"""A packed folder encoded once by frozen towers, to be trained on without its media."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import itertools
import json
import os
from pathlib import Path
from typing import Any

from flax import nnx
import jax
import numpy as np

from deemo_jax.batch import Batch
from deemo_jax.config import Config, ConfigError
from deemo_jax.config_data import MODALITIES, DataConfig
from deemo_jax.data import tfds, video
from deemo_jax.data.card import Facts, write_card
from deemo_jax.data.consent import (
    check_salt,
    read_mark,
    read_withdrawn,
    who_withdrew,
    write_withdrawn,
)
from deemo_jax.data.encoded import (
    ABOUT,
    DTYPES,
    Encoding,
    read_encoding,
    to_bytes,
    write_encoding,
)
from deemo_jax.data.integrity import walk
from deemo_jax.data.pack import ELSEWHERE, Progress, Summary
from deemo_jax.data.reader import Row, fit_media
from deemo_jax.data.record import Record
from deemo_jax.data.shards import (
    Entry,
    check_shards,
    read_splits,
    shard_name,
    shards_in,
    write_shard,
)
from deemo_jax.data.source import ShardSource
from deemo_jax.data.unfinished import Unfinished
from deemo_jax.models.deemo_llama import PARTS
from deemo_jax.models.towers import Features
from deemo_jax.progress import bars
from deemo_jax.sharding import check_rows, make_mesh, place
from deemo_jax.storage import alone_in
from deemo_jax.train.frozen import TOWERS, check_frozen, digests, settings
from deemo_jax.train.initial import initial_params
from deemo_jax.train.step import abstract_batch, make_model

Encode = Callable[[Batch], Features]


def answer(
    config: Config | None, input: Path, output: Path, *, dtype: str, shards: int
) -> str:
    """What `deemo pack --features` says when it is done."""
    assert config is not None
    with bars() as progress:
        summary = encode_folder(
            config, input, output, dtype=dtype, shards=shards, progress=progress
        )
    return f"{summary.describe()}; features in {dtype}, no media"


def encode_folder(
    config: Config,
    input: Path,
    output: Path,
    *,
    dtype: str,
    shards: int = 8,
    progress: Progress | None = None,
) -> Summary:
    """Writes a packed folder whose records hold what the towers of a run make of media.

    Splits, ids, subjects, texts and annotations are those of `input`; frames and sound
    are left out. A sound that is too short for one feature is none. The towers are
    those that `config` starts with, over its mesh, `evaluate.batch_size` clips at a
    time: on the same devices, the same input gives the same bytes. Interrupted, the
    same call goes on with the next shard.

    Args:
      dtype: of the features, one of `encoded.DTYPES`.
      shards: a split.

    Raises:
      ConfigError: the run trains its towers, cannot start, or does not fit the devices;
        there is no such dtype, or `shards` is less than 1.
      ValueError: `input` holds no data set or one without media, `output` another one,
        or a feature is beyond `dtype`, or all subjects withdrew.
    """
    if dtype not in DTYPES:
        raise ConfigError(
            f"--dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}"
        )
    check_shards(shards)
    check_frozen(config)
    name, splits = read_splits(input)
    _check_folders(input, output, name)
    mesh = make_mesh(config.mesh)
    size = config.evaluate.batch_size
    check_rows(size, mesh, key="evaluate.batch_size")
    output.mkdir(parents=True, exist_ok=True)
    written: dict[str, list[list[Entry]]] = {}
    facts, done = Facts(), 0
    sources = {split: ShardSource(input, split) for split in splits}
    with (
        alone_in(output),
        jax.set_mesh(mesh),
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        gone, there = read_withdrawn(input), who_withdrew(output)
        mark, withdrawn = read_mark(input, gone), gone | there
        if there:
            check_salt(input, gone, mark)  # its file may not tell one
            check_salt(output, there, mark)
        kept = {
            split: [i for i, e in enumerate(s.entries) if e.subject not in withdrawn]
            for split, s in sources.items()
        }
        total = sum(map(len, kept.values()))
        if not total:
            raise ValueError(f"all subjects of {input} withdrew: nothing is left of it")
        params = initial_params(config, mesh, TOWERS)
        encoding = _encoding(config, mesh, dtype, digests(params))
        encode = _encoder(config, mesh, params, dtype)
        write_withdrawn(output, withdrawn, mark)
        unfinished = Unfinished(output, b"", encoding, withdrawn)
        (output / "dataset_info.json").unlink(missing_ok=True)
        write_encoding(output, encoding)

        def told(rows: Iterator[Record]) -> Iterator[Record]:
            nonlocal done
            for row in rows:
                done += 1
                facts.count(row)
                if progress:
                    progress("encoding clips", done, total)
                yield row

        for split, source in sources.items():
            own = kept[split]
            count = min(shards, len(own))
            for k in range(count):
                part = own[len(own) * k // count : len(own) * (k + 1) // count]
                shard = output / shard_name(name, split, k, count)
                of = [source.entries[i] for i in part]
                rows = unfinished.entries(shard, of)
                if rows is None:
                    batches = _read(source, part, config.data, size, pool)
                    rows = write_shard(
                        shard,
                        told(_encoded(batches, encode, encoding, config.data)),
                        withdrawn=withdrawn,
                    )
                    unfinished.enter(shard, of)
                else:
                    rows_there = (found.row for found in walk(shard))
                    deque(told(row for row in rows_there if row), maxlen=0)
                written.setdefault(split, []).append(rows)
        _remove_others(output, written, name)
        if read_withdrawn(input) != gone:
            raise ValueError(
                f"somebody withdrew from {input} meanwhile: give the same command again"
            )
        summary = _finish(input, output, name, written, facts)
        unfinished.close()
        return summary


def _check_folders(input: Path, output: Path, name: str) -> None:
    if read_encoding(input) is not None:
        raise ValueError(
            f"{input} holds features, not media: give the folder that it was made of"
        )
    shards = shards_in(output)
    media = any(shards) and read_encoding(output) is None
    others = {tfds.dataset_name(output), *shards.values()} - {None, name}
    if media or others:
        raise ValueError(
            f"{output} holds the data set {others.pop() if others else name}"
            f"{' with its media' if media else ''}: {ELSEWHERE}"
        )


def _encoding(
    config: Config, mesh: Any, dtype: str, digests: dict[str, str]
) -> Encoding:
    data = dataclasses.replace(config.data, features=dtype, augment=False)
    shapes = abstract_batch(dataclasses.replace(config, data=data), mesh)
    assert shapes.video_features is not None
    assert shapes.audio_features is not None
    patches, width = shapes.video_features.shape[2:]
    longest, audio_width = shapes.audio_features.shape[1:]
    return Encoding(
        dtype=dtype,
        patches=(patches, width),
        sounds=(longest, audio_width),
        computed_in=config.train.dtype,
        settings=settings(config),
        digests=digests,
    )


def _encoder(config: Config, mesh: Any, params: nnx.State, dtype: str) -> Encode:
    """The towers alone, compiled; their features come back to the host in `dtype`."""
    model = nnx.eval_shape(lambda: make_model(config, nnx.Rngs(0)))
    for name in PARTS.keys() - set(TOWERS):
        delattr(model, name)
    graphdef = nnx.graphdef(model)

    @jax.jit
    def run(params: nnx.State, batch: Batch) -> Features:
        found = nnx.merge(graphdef, params).features(batch)
        short = {n: getattr(found, n).astype(dtype) for n in ("video", "audio")}
        return found._replace(**short)

    return lambda batch: jax.device_get(run(params, place(batch, mesh)))


def _read(
    source: ShardSource,
    indices: Sequence[int],
    config: DataConfig,
    size: int,
    pool: ThreadPoolExecutor,
) -> Iterator[tuple[list[Record], Batch]]:
    """Records and the batch of their media, read by threads one batch ahead."""

    def read(index: int) -> tuple[Record, Row]:
        record = source[index]
        return record, fit_media(record, MODALITIES, config)

    ahead: deque[Iterator[tuple[Record, Row]]] = deque()
    parts = [indices[first : first + size] for first in range(0, len(indices), size)]
    for part in [*parts, ()]:
        if part:
            ahead.append(pool.map(read, part))
        if len(ahead) == 2 or not part:
            records, rows = zip(*ahead.popleft(), strict=True)
            filler = [fit_media(None, (), config)] * (size - len(rows))
            yield list(records), _batch([*rows, *filler])


def _batch(rows: Sequence[Row]) -> Batch:
    """Media without words."""
    nothing = np.zeros((len(rows), 0), np.int32)
    return Batch(
        tokens=nothing,
        positions=nothing,
        segment_ids=nothing,
        loss_mask=nothing.astype(bool),
        index=np.zeros(len(rows), np.int32),
        **{name: np.stack([row[name] for row in rows]) for name in rows[0]},
    )


def _encoded(
    batches: Iterator[tuple[list[Record], Batch]],
    encode: Encode,
    encoding: Encoding,
    config: DataConfig,
) -> Iterator[Record]:
    for records, batch in batches:
        found = encode(batch)
        for row, record in enumerate(records):
            frames = video.choose(len(record.frames), config.num_frames)
            seen = np.asarray(found.video[row, : len(frames)])
            sound = np.asarray(found.audio[row, : found.heard[row].sum()])
            if not (np.isfinite(seen).all() and np.isfinite(sound).all()):
                raise ValueError(
                    f"features of clip {record.clip_id} are not finite in "
                    f"{encoding.dtype}: take --dtype=bfloat16 or float32, or other "
                    f"towers"
                )
            yield dataclasses.replace(
                record,
                frames=tuple(to_bytes(frame, encoding.dtype) for frame in seen),
                frame_times=tuple(record.frame_times[i] for i in frames),
                audio=to_bytes(sound, encoding.dtype) or None,
                encoded=encoding.dtype,
            )


def _remove_others(
    output: Path, written: dict[str, list[list[Entry]]], name: str
) -> None:
    """Removes shards that an earlier packing has left, and its indexes."""
    whole = {
        shard_name(name, split, k, len(shards))
        for split, shards in written.items()
        for k in range(len(shards))
    }
    for pattern in (f"{name}-*.*-of-*", ".*-of-*.partial"):
        for old in output.glob(pattern):
            if old.name.removesuffix(".index") not in whole:
                old.unlink()


def _finish(
    input: Path,
    output: Path,
    name: str,
    written: dict[str, list[list[Entry]]],
    facts: Facts,
) -> Summary:
    """Writes what describes the shards, `dataset_info.json` last."""
    entries = {
        split: list(itertools.chain.from_iterable(shards))
        for split, shards in written.items()
    }
    sizes = {split: sum(e.length for e in rows) for split, rows in entries.items()}
    about = json.loads((input / "dataset_info.json").read_bytes()).get(
        "description", ""
    )
    (output / "taxonomy.json").write_bytes((input / "taxonomy.json").read_bytes())
    write_card(output, name, entries, facts, f"{about}\n\n{ABOUT}")
    lengths = {split: [len(rows) for rows in s] for split, s in written.items()}
    tfds.write_metadata(output, name, lengths, sizes, f"{about} {ABOUT}".strip())
    return Summary(
        name=name,
        records={split: len(rows) for split, rows in entries.items()},
        subjects={split: len({e.subject for e in r}) for split, r in entries.items()},
        bytes=sum(sizes.values()),
        rejected=0,
    )
