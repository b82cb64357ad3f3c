"""From records to batches of fixed shapes, in an order that one number resumes.

Everything random about a row, its place in the epoch's order included, is a function
of (seed, epoch, index): of its position in the endless sequence of rows, and of
nothing else. Step `s` of a run takes positions `s * batch_size` up to
`(s + 1) * batch_size`; of these each host reads its contiguous share.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import itertools
from typing import Any, cast

from absl import flags
import grain
from jaxtyping import Bool, Int
import numpy as np

from deemo_jax.annotation import Taxonomy
from deemo_jax.batch import Batch
from deemo_jax.config import MODALITIES, ConfigError, DataConfig
from deemo_jax.data import audio, prompt, video
from deemo_jax.data.record import Record
from deemo_jax.data.source import ShardSource
from deemo_jax.data.tokenizer import Tokenizer

Row = dict[str, Any]  # the fields of a Batch without the leading axis


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loose:
    """Records that are in no packed folder, with the label sets to ask them by."""

    records: tuple[Record, ...]
    taxonomy: Taxonomy

    def __getitem__(self, i: int) -> Record:
        """Record `i`."""
        return self.records[i]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
    """Makes rows of records; picklable, so that worker processes can have one.

    `spans` are the connectors' tokens: (video, audio).
    """

    source: ShardSource | Loose
    config: DataConfig
    tokenizer: Tokenizer
    spans: tuple[int, int]

    def training_row(self, index: int, rng: np.random.Generator) -> Row:
        """A conversation over every configured task, in a random order."""
        record = self.source[index]
        turns = self._turns(record)
        turns = [turns[i] for i in rng.permutation(len(turns))]
        kept = drop_modalities(
            prompt.available(record), self.config.modality_dropout, rng
        )
        row = self._row(index, record, turns, kept, left=False)
        if self.config.augment:
            if "video" in kept:
                row["frames"] = video.augment(row["frames"], rng)
                row["frames"][~row["frame_mask"]] = 0
            if "audio" in kept:
                sound = row["audio"][: row["audio_length"]]
                row["audio"][: row["audio_length"]] = audio.augment(sound, rng)
        return row

    def evaluation_row(
        self, index: int, task: str, answer: str | None, modalities: Sequence[str]
    ) -> Row:
        """One task, with the answer given, or open and padded on the left."""
        record = self.source[index]
        turns = [(task, answer)]
        return self._row(index, record, turns, modalities, left=answer is None)

    def filler(self) -> Row:
        """A row that only fills a batch: index -1, everything masked."""
        row = self._media(None, ())
        tokens = np.full(self.config.max_length, self._pad, np.int32)
        nothing = np.zeros(self.config.max_length, np.int32)
        row |= {"tokens": tokens, "positions": nothing, "segment_ids": nothing}
        return row | {"loss_mask": nothing.astype(bool), "index": np.int32(-1)}

    def length(self, index: int) -> int:
        """Tokens of the longest row that training can make of a record."""
        return self._longest(self.source[index])

    def overhead(self) -> int:
        """Tokens that a row can have besides those of the clip's own texts."""
        bare = Record(
            clip_id="", subject="", duration=0.0, frames=(b"-",), frame_times=(),
            audio=b"-", transcript="-", emotion="-", reasoning="-", nfbl=(),
            verdict="", deidentification="",
        )  # fmt: skip
        return self._longest(bare)

    @property
    def _pad(self) -> int:
        return cast(int, self.tokenizer.pad_token_id)

    def _longest(self, record: Record) -> int:
        return max(
            len(self._encode(record, turns, MODALITIES)[0])
            for turns in itertools.permutations(self._turns(record))
        )

    def _turns(self, record: Record) -> list[tuple[str, str | None]]:
        answered = prompt.answered(record)
        tasks = [task for task in self.config.tasks if task in answered]
        return [(task, prompt.answer(record, task)) for task in tasks]

    def _encode(
        self, record: Record, turns, modalities
    ) -> tuple[Int[np.ndarray, " S"], Bool[np.ndarray, " S"]]:
        messages = prompt.conversation(
            record,
            turns,
            self.tokenizer,
            self.spans,
            self.source.taxonomy.emotions,
            modalities,
        )
        return prompt.encode(messages, self.tokenizer)

    def _row(self, index: int, record: Record, turns, modalities, *, left: bool) -> Row:
        tokens, loss_mask = self._encode(record, turns, modalities)
        empty = self.config.max_length - len(tokens)
        if empty < 0:
            raise ConfigError(too_long({record.clip_id: len(tokens)}, self.config))
        around = (empty, 0) if left else (0, empty)
        return self._media(record, modalities) | {
            "tokens": np.pad(tokens, around, constant_values=self._pad),
            "positions": np.pad(np.arange(len(tokens), dtype=np.int32), around),
            "segment_ids": np.pad(np.ones(len(tokens), np.int32), around),
            "loss_mask": np.pad(loss_mask, around),
            "index": np.int32(index),
        }

    def _media(self, record: Record | None, modalities: Sequence[str]) -> Row:
        config = self.config
        jpegs = record.frames if record and "video" in modalities else ()
        frames, mask = video.fit(jpegs, config.num_frames, config.image_size)
        sound = np.zeros(0, np.float32)
        wanted = config.num_samples
        if wanted and record and record.audio and "audio" in modalities:
            sound = audio.decode(record.audio)
        samples, length = audio.fit(sound, wanted)
        return {
            "frames": frames,
            "frame_mask": mask,
            "audio": samples,
            "audio_length": np.int32(length),
        }


def drop_modalities(
    available: Sequence[str], probability: float, rng: np.random.Generator
) -> tuple[str, ...]:
    """Leaves out each modality with a probability, but never all of them."""
    drawn = rng.random(len(available))
    kept = tuple(
        name for name, u in zip(available, drawn, strict=True) if u >= probability
    )
    if kept or not available:
        return kept
    return (available[int(rng.integers(len(available)))],)


def too_long(lengths: Mapping[str, int], config: DataConfig) -> str:
    """The refusal of rows that do not fit; nothing is ever cut off."""
    clip, longest = max(lengths.items(), key=lambda item: item[1])
    return (
        f"config.data.max_length is {config.max_length}, but {len(lengths)} clip(s) "
        f"need more, clip {clip} as many as {longest} tokens: set it to {longest} or "
        "more, or pack without them"
    )


class Batches:
    """The endless batches of a run, of which each process reads its share.

    `source` is a `ShardSource`; its records without an answer to any of
    `config.tasks` are passed over. `spans` are the tokens that the connectors emit,
    (video, audio). `batch_size` is global: rows over all processes, of which this one
    reads those that `rows` numbers (None: all).

    Raises:
        ConfigError: rows longer than `config.max_length`.
        ValueError: nothing to learn from.
    """

    def __init__(
        self,
        source: ShardSource,
        config: DataConfig,
        tokenizer: Tokenizer,
        spans: tuple[int, int],
        *,
        seed: int,
        batch_size: int,
        rows: Sequence[int] | None = None,
    ):
        self._reader = Reader(
            source=source, config=config, tokenizer=tokenizer, spans=spans
        )
        self._source = source
        self._indices = _with_answers(source, config.tasks)
        _check_lengths(self._reader, source, self._indices)
        self._batch_size = batch_size
        self._held = tuple(range(batch_size) if rows is None else rows)
        self._rows = (
            grain.MapDataset.source(self._indices)
            .seed(seed)
            .shuffle()
            .repeat()
            .random_map(self._reader.training_row)
        )

    @property
    def records(self) -> int:
        """Rows of one epoch."""
        return len(self._indices)

    @property
    def subjects(self) -> list[str]:
        """Pseudonyms of those who are in them, sorted."""
        return sorted({self._source.entries[i].subject for i in self._indices})

    def iterate(self, start_step: int = 0) -> Iterator[Batch]:
        """The batches of this process from `start_step` on, without end."""
        share, config = len(self._held), self._reader.config
        # The greatest number of rows that ends with a batch: no position overflows.
        last = len(self._rows) // self._batch_size * share
        places = grain.MapDataset.range(start_step * share, last).map(
            _Training(self._rows, self._batch_size, self._held)
        )
        return _read(places, share, config.workers, config.prefetch)


def evaluation_batches(
    source: ShardSource,
    config: DataConfig,
    tokenizer: Tokenizer,
    spans: tuple[int, int],
    *,
    task: str,
    batch_size: int,
    modalities: Sequence[str] = MODALITIES,
    answer: str | None = None,
) -> Iterator[Batch]:
    """Every record that has an answer to the task, once, in order; nothing is random.

    With an `answer`, such as a label, it ends each row, and `loss_mask` holds for it:
    ready for its likelihood. With None the prompts end where an answer begins and are
    padded on the left: ready to be continued. The last batch is filled with rows
    whose `index` is -1. Every process reads all rows.

    Raises:
        ConfigError: a row longer than `config.max_length`.
        ValueError: a split without answers.
    """
    reader = Reader(source=source, config=config, tokenizer=tokenizer, spans=spans)
    indices = _with_answers(source, (task,))
    places = grain.MapDataset.range(-(-len(indices) // batch_size) * batch_size).map(
        _Evaluation(reader, indices, task, answer, tuple(modalities))
    )
    return _read(places, batch_size, config.workers, config.prefetch)


# Both are classes, not closures, so that worker processes can be given them. The
# n-th row of a process, which has the rows `held` of each batch:
#
#     batch_size 4       global   0 1 2 3   4 5 6 7
#                   held (0, 1)   0 1       2 3
#                   held (2, 3)       0 1       2 3
@dataclasses.dataclass(frozen=True)
class _Training:
    rows: grain.MapDataset
    batch_size: int
    held: tuple[int, ...]

    def __call__(self, place: int) -> Row:
        step, row = divmod(place, len(self.held))
        return cast(Row, self.rows[step * self.batch_size + self.held[row]])


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    reader: Reader
    indices: Sequence[int]
    task: str
    answer: str | None
    modalities: tuple[str, ...]

    def __call__(self, at: int) -> Row:
        if at >= len(self.indices):
            return self.reader.filler()
        return self.reader.evaluation_row(
            self.indices[at], self.task, self.answer, self.modalities
        )


def stack(rows: Sequence[Row]) -> Batch:
    """The batch of some rows."""
    return Batch(**{name: np.stack([row[name] for row in rows]) for name in rows[0]})


def _read(
    rows: grain.MapDataset, size: int, workers: int, prefetch: int
) -> Iterator[Batch]:
    """Batches of rows, read ahead by threads, or by worker processes."""
    threads = min(prefetch, 4)
    batches = rows.batch(size, drop_remainder=True).to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    )
    if workers:
        # Grain asks absl's flags about its workers; our command line has its own.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=workers, per_worker_buffer_size=max(1, prefetch)
            )
        )
    for fields in batches:
        yield Batch(**fields)


def _with_answers(source: ShardSource, tasks: Sequence[str]) -> list[int]:
    indices = [
        i for i, entry in enumerate(source.entries) if set(entry.tasks) & set(tasks)
    ]
    if not indices:
        raise ValueError(
            f"no record of {source} has an answer for {' or '.join(tasks)}: annotate "
            "some clips, or choose other tasks or another split"
        )
    return indices


def _check_lengths(reader: Reader, source: ShardSource, indices: Sequence[int]) -> None:
    """Refuses rows that do not fit before the run starts, not in the middle of it.

    A text never has more tokens than bytes, so the index tells which rows fit for
    sure; only the others are read.
    """
    config, entries = reader.config, source.entries
    overhead = reader.overhead()
    lengths = {
        entries[i].clip_id: length
        for i in indices
        if entries[i].text + overhead > config.max_length
        and (length := reader.length(i)) > config.max_length
    }
    if lengths:
        raise ConfigError(too_long(lengths, config))
