"""From records to batches of fixed shapes, in an order that one number resumes.

Everything random about a row, its place in the epoch's order included, is a function
of (seed, epoch, index): of its position in the endless sequence of rows, and of
nothing else. Step `s` of a run takes positions `s * batch_size` up to
`(s + 1) * batch_size`; of these each host reads its contiguous share.
"""

from collections.abc import Iterator, Sequence
import dataclasses
from pathlib import Path
from typing import Any, cast

from absl import flags
import grain
from jaxtyping import Float, Int
import numpy as np

from deemo_jax.batch import Batch
from deemo_jax.config_data import MODALITIES, DataConfig
from deemo_jax.data.lengths import token_lengths
from deemo_jax.data.memory import keep_freed_memory
from deemo_jax.data.packed import Packed
from deemo_jax.data.reader import FEATURES, MEDIA, Reader, Row, too_long
from deemo_jax.data.source import ShardSource
from deemo_jax.data.tokenizer import Tokenizer
from deemo_jax.data.turns import draw_absent, task_shares
from deemo_jax.fields import ConfigError


class Batches:
    """The endless batches of a run, of which each process reads its share.

    `source` is a `ShardSource`; its records without an answer to any task that is asked
    are passed over. `spans` are the tokens that the connectors emit, (video, audio).
    `batch_size` is global: rows over all processes, of which this one reads those that
    `rows` numbers (None: all).

    Raises:
        ConfigError: rows longer than `config.max_length`, or augmentation of records
            that hold no media.
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
        if config.augment and source.encoding is not None:
            raise ConfigError(
                f"config.data.augment is True, which varies pictures and sound, and "
                f"{source.folder} holds features in place of these; set it to false, "
                f"or choose data with media"
            )
        self._source = source
        self._indices = _with_answers(source, config.trained_tasks)
        self._batch_size = batch_size
        self._held = tuple(range(batch_size) if rows is None else rows)
        if config.clips_per_row == 1:
            _check_lengths(self._reader, source, self._indices)
            self._rows: grain.MapDataset | Packed = (
                grain.MapDataset.source(self._indices)
                .seed(seed)
                .shuffle()
                .repeat()
                .random_map(self._reader.training_row)
            )
        else:
            self._rows = Packed(
                self._reader,
                self._indices,
                _lengths(self._reader, source, self._indices),
                self._shares(),
                seed,
            )

    @property
    def records(self) -> int:
        """Clips of one epoch."""
        return len(self._indices)

    def describe(self) -> str:
        """How well clips fill the rows, and what is asked; empty if that is plain."""
        config, words = self._reader.config, []
        if isinstance(self._rows, Packed):
            words.append(self._rows.describe())
        if config.task_weights:
            asked = [f"{t} {100 * s:.1f}%" for t, s in self.task_shares().items()]
            words.append(f"questions: {', '.join(asked)}")
        return "; ".join(words)

    def task_shares(self) -> dict[str, float]:
        """The share of each task among the questions, where they are drawn by weight.

        It differs from the weights where clips lack answers.
        """
        shares = self._shares().mean(axis=0).tolist()
        return dict(zip(self._reader.config.trained_tasks, shares, strict=True))

    def _shares(self) -> Float[np.ndarray, "N C"]:
        """With which probability each task is asked of each clip; 1, of all at once."""
        config, entries = self._reader.config, self._source.entries
        if not config.task_weights:
            return np.ones((self.records, 1))
        found = (task_shares(entries[i].tasks, config) for i in self._indices)
        return np.array([[s.get(t, 0.0) for t in config.trained_tasks] for s in found])

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
        return _read(places, share, config, self._source)


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
    rows: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """All that `evaluation_questions` lists, once, in order; nothing is random.

    With an `answer`, such as a label, it ends each row, and `loss_mask` holds for it:
    ready for its likelihood. With None the prompts end where an answer begins and are
    padded on the left: ready to be continued. The last batch is filled with rows
    whose `index` is -1. Of each batch, the `rows` are read (None: all).

    Raises:
        ConfigError: a row longer than `config.max_length`.
        ValueError: a split without answers.
    """
    reader = Reader(source=source, config=config, tokenizer=tokenizer, spans=spans)
    asked = evaluation_questions(source, task)
    held = tuple(range(batch_size) if rows is None else rows)
    places = grain.MapDataset.range(-(-len(asked) // batch_size) * len(held)).map(
        _Evaluation(reader, asked, task, answer, tuple(modalities), batch_size, held)
    )
    return _read(places, len(held), config, source)


def evaluation_questions(source: ShardSource, task: str) -> list[tuple[int, str]]:
    """(record, label) of each question of a task: every record with an answer, once.

    Of `nfbl_when`, `label` is every class that the record shows, and then one that it
    does not, drawn among those of the split by the record's number; else it is "".

    Raises:
        ValueError: a split without answers.
    """
    indices = _with_answers(source, (task,))
    if task != "nfbl_when":
        return [(i, "") for i in indices]
    asked = []
    for i in indices:
        shown = source.entries[i].nfbl
        absent = draw_absent(shown, source.classes, np.random.default_rng(i))
        asked += [(i, label) for label in (*shown, absent) if label is not None]
    return asked


def check_evaluation(
    source: ShardSource,
    config: DataConfig,
    tokenizer: Tokenizer,
    spans: tuple[int, int],
) -> None:
    """Refuses a split whose rows will not fit when it is evaluated, hours later.

    Raises:
        ConfigError: a row longer than `config.max_length`.
        ValueError: no record has an answer to any task.
    """
    _with_answers(source, config.tasks)
    words = dataclasses.replace(config, num_frames=0, audio_seconds=0.0)
    reader = Reader(source=source, config=words, tokenizer=tokenizer, spans=spans)
    overhead = reader.overhead()
    for task in source.answered(config.tasks):
        given = source.taxonomy.emotions if task == "recognition" else (None,)
        for index, label in evaluation_questions(source, task):
            # A text never has more tokens than bytes.
            if source.entries[index].text + overhead > config.max_length:
                for answer in given:
                    reader.evaluation_row(index, task, answer, MODALITIES, label)


# Both are classes, not closures, so that worker processes can be given them. The
# n-th row of a process, which has the rows `held` of each batch:
#
#     batch_size 4       global   0 1 2 3   4 5 6 7
#                   held (0, 1)   0 1       2 3
#                   held (2, 3)       0 1       2 3
@dataclasses.dataclass(frozen=True)
class _Training:
    rows: grain.MapDataset | Packed
    batch_size: int
    held: tuple[int, ...]

    def __call__(self, place: int) -> Row:
        step, row = divmod(place, len(self.held))
        return cast(Row, self.rows[step * self.batch_size + self.held[row]])


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    reader: Reader
    asked: Sequence[tuple[int, str]]
    task: str
    answer: str | None
    modalities: tuple[str, ...]
    batch_size: int
    held: tuple[int, ...]

    def __call__(self, place: int) -> Row:
        step, row = divmod(place, len(self.held))
        at = step * self.batch_size + self.held[row]
        if at >= len(self.asked):
            return self.reader.filler()
        index, label = self.asked[at]
        return self.reader.evaluation_row(
            index, self.task, self.answer, self.modalities, label
        )


def stack(rows: Sequence[Row]) -> Batch:
    """The batch of some rows."""
    return _batch({name: np.stack([row[name] for row in rows]) for name in rows[0]})


def _read(
    rows: grain.MapDataset, size: int, config: DataConfig, source: ShardSource
) -> Iterator[Batch]:
    """Batches of rows, read ahead by threads, or by worker processes."""
    workers, prefetch = config.workers, config.prefetch
    # A process of its own has nothing to wait for but a bucket: there, threads only
    # take the interpreter from one another, a tenth of the time.
    alone = workers and isinstance(source.folder, Path)
    threads = 0 if alone else min(prefetch, 4)
    batches = rows.batch(size, drop_remainder=True).to_iter_dataset(
        grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=0 if alone else prefetch
        )
    )
    if workers:
        # Grain asks absl's flags about its workers; our command line has its own.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=workers, per_worker_buffer_size=max(1, prefetch)
            ),
            keep_freed_memory,
        )
    for fields in batches:
        yield _batch(fields)


def _batch(fields: dict[str, Any]) -> Batch:
    """The batch of stacked rows; of rows of several clips, these one after another."""
    if np.ndim(fields["index"]) > 1:
        for name in fields.keys() & {*MEDIA, *FEATURES}:
            rows, clips, *rest = fields[name].shape
            fields[name] = fields[name].reshape(rows * clips, *rest)
    return Batch(**fields)


def _with_answers(source: ShardSource, tasks: Sequence[str]) -> list[int]:
    indices = [
        i for i, entry in enumerate(source.entries) if set(entry.tasks) & set(tasks)
    ]
    if not indices:
        raise ValueError(
            f"no record of {source} has an answer for {' or '.join(tasks)}: annotate "
            "some clips, or choose other tasks (--config.data.tasks, task_weights) or "
            "another split"
        )
    return indices


def _lengths(
    reader: Reader, source: ShardSource, indices: Sequence[int]
) -> Int[np.ndarray, "N C"]:
    """The tokens of each clip, see `Reader.lengths`, counted once for a data set."""
    return token_lengths(
        source.folder,
        key=[source.manifest, *reader.follows_from()],
        clips=[source.entries[i].clip_id for i in indices],
        count=lambda i: reader.lengths(indices[i]),
    )


def _check_lengths(reader: Reader, source: ShardSource, indices: Sequence[int]) -> None:
    """Refuses rows that do not fit before the run starts, not in the middle of it.

    A text never has more tokens than bytes, so the index tells which rows fit for
    sure; only the others are counted.
    """
    config, entries = reader.config, source.entries
    surely = config.max_length - reader.overhead()
    unsure = [i for i in indices if entries[i].text > surely]
    if not unsure:
        return
    long = {
        entries[i].clip_id: int(lengths.max())
        for i, lengths in zip(unsure, _lengths(reader, source, unsure), strict=True)
        if lengths.max() > config.max_length
    }
    if long:
        raise ConfigError(too_long(long, config))
