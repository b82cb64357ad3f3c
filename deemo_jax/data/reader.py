"""One row of a batch: a record's conversation as tokens, its frames and its sound."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, cast

from jaxtyping import Bool, Int
import numpy as np

from deemo_jax.annotation import Interval, Taxonomy
from deemo_jax.config_data import MODALITIES, DataConfig
from deemo_jax.data import audio, encoded, prompt, tasks, video
from deemo_jax.data.record import Record
from deemo_jax.data.source import ShardSource
from deemo_jax.data.tokenizer import Tokenizer
from deemo_jax.data.turns import Asker, Turn
from deemo_jax.fields import ConfigError

Row = dict[str, Any]  # the fields of a Batch without the leading axis
MEDIA = ("frames", "frame_mask", "audio", "audio_length", "index")  # a clip's own
FEATURES = ("video_features", "audio_features")  # its too, where its record holds them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loose:
    """Records that are in no packed folder, with the label sets to ask them by."""

    records: tuple[Record, ...]
    taxonomy: Taxonomy
    encoding: None = None

    def __getitem__(self, i: int) -> Record:
        """Record `i`."""
        return self.records[i]

    @property
    def classes(self) -> Mapping[str, int]:
        """Those of body language: any may be asked for."""
        return dict.fromkeys(self.taxonomy.nfbl, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
    """Makes rows of records; picklable, so that worker processes can have one.

    `spans` are the connectors' tokens: (video, audio).
    """

    source: ShardSource | Loose
    config: DataConfig
    tokenizer: Tokenizer
    spans: tuple[int, int]

    def packed_row(
        self,
        indices: Sequence[int],
        rngs: Sequence[np.random.Generator],
        tasks: Sequence[str | None],
    ) -> Row:
        """Several clips' conversations one after another, their media stacked.

        Of each, the task that is asked, or None as in `training_row`.

        Raises:
            ConfigError: together they are longer than a row.
        """
        rows = [
            self.filler() if index < 0 else self.training_row(index, rng, task)
            for index, rng, task in zip(indices, rngs, tasks, strict=True)
        ]
        needed = sum(int((row["segment_ids"] > 0).sum()) for row in rows)
        if needed > self.config.max_length:
            clips = " and ".join(self.source[i].clip_id for i in indices if i >= 0)
            raise ConfigError(too_long({clips: needed}, self.config))
        joined = {}
        for name in ("tokens", "positions", "segment_ids", "loss_mask"):
            parts = [row[name][row["segment_ids"] > 0] for row in rows]
            if name == "segment_ids":
                parts = [part * number for number, part in enumerate(parts, start=1)]
            whole = np.concatenate(parts)
            padding = (0, self.config.max_length - len(whole))
            filled = self._pad if name == "tokens" else 0
            joined[name] = np.pad(whole, padding, constant_values=filled)
        names = rows[0].keys() & {*MEDIA, *FEATURES}
        stacked = {name: np.stack([row[name] for row in rows]) for name in names}
        return joined | stacked

    def training_row(
        self, index: int, rng: np.random.Generator, task: str | None = None
    ) -> Row:
        """A conversation over the configured tasks, in a random order, or over one."""
        record = self.source[index]
        turns = self.asker.draw(record, rng, task)
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
        self,
        index: int,
        task: str,
        answer: str | None,
        modalities: Sequence[str],
        label: str = "",
    ) -> Row:
        """One task, with the answer given, or open and padded on the left.

        `task` may also be a question in words; `label` is what `nfbl_when` asks for.
        """
        record = self.source[index]
        turns = [self.asker.evaluated(record, task, answer, label)]
        return self._row(index, record, turns, modalities, left=answer is None)

    def filler(self) -> Row:
        """A row that only fills a batch: index -1, everything masked."""
        row = self._media(None, ())
        tokens = np.full(self.config.max_length, self._pad, np.int32)
        nothing = np.zeros(self.config.max_length, np.int32)
        row |= {"tokens": tokens, "positions": nothing, "segment_ids": nothing}
        return row | {"loss_mask": nothing.astype(bool), "index": np.int32(-1)}

    def lengths(self, index: int) -> list[int]:
        """Tokens of the longest row that training can make of a record.

        Where one task is drawn by weight, there is a number for each of
        `config.trained_tasks`, 0 where it has no answer; else there is one.
        """
        record = self.source[index]
        if not self.config.task_weights:
            return [self._longest(record)]
        found = {
            turn.task: len(self._encode(record, [turn], MODALITIES)[0])
            for [turn] in self.asker.longest(record, self.tokenizer)
        }
        return [found.get(task, 0) for task in self.config.trained_tasks]

    def follows_from(self) -> list[object]:
        """What the lengths follow from, besides the clips: tokenizer and prompts."""
        tokenizer: Any = self.tokenizer
        config, emotions = self.config, self.source.taxonomy.emotions
        asked = [
            tasks.instruction(task, emotions, phrasing)
            for task in config.trained_tasks
            for phrasing in range(config.phrasings)
        ]
        return [
            tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, asked,
            bool(config.task_weights), config.trained_tasks, config.nfbl_cues,
            list(self.source.classes), list(self.spans), self.overhead(),
        ]  # fmt: skip

    def overhead(self) -> int:
        """Tokens that a row can have besides those of the clip's own texts."""
        bare = Record(
            clip_id="", subject="", duration=0.0, frames=(b"-",), frame_times=(),
            audio=b"-", transcript="-", emotion="-", reasoning="-",
            nfbl=(Interval(label="-", start=0.0, end=0.1),), verdict="",
            deidentification="",
        )  # fmt: skip
        return self._longest(bare)

    @property
    def asker(self) -> Asker:
        """What asks the clips."""
        return Asker(
            config=self.config,
            emotions=self.source.taxonomy.emotions,
            classes=self.source.classes,
        )

    @property
    def _pad(self) -> int:
        return cast(int, self.tokenizer.pad_token_id)

    def _longest(self, record: Record) -> int:
        return max(
            len(self._encode(record, turns, MODALITIES)[0])
            for turns in self.asker.longest(record, self.tokenizer)
        )

    def _encode(
        self, record: Record, turns: Sequence[Turn], modalities: Sequence[str]
    ) -> tuple[Int[np.ndarray, " S"], Bool[np.ndarray, " S"]]:
        messages = prompt.conversation(
            record,
            turns,
            self.tokenizer,
            self.spans,
            modalities,
            cues=self.config.nfbl_cues,
        )
        return prompt.encode(messages, self.tokenizer)

    def _row(
        self,
        index: int,
        record: Record,
        turns: Sequence[Turn],
        modalities: Sequence[str],
        *,
        left: bool,
    ) -> Row:
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
        if (encoding := self.source.encoding) is not None:
            return encoded.fit(record, modalities, self.config, encoding)
        return fit_media(record, modalities, self.config)


def fit_media(
    record: Record | None, modalities: Sequence[str], config: DataConfig
) -> Row:
    """The media's fields of a row: frames and sound as many and as long as it takes.

    Raises:
        ValueError: the record holds features in place of media.
    """
    if record and record.encoded:
        raise ValueError(
            f"clip {record.clip_id} holds features in place of media, and no "
            f"{encoded.MANIFEST} of its folder says which: copy that, too"
        )
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
