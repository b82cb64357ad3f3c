"""What a model answers when it is asked about clips that are in no packed folder."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp

from deemo_jax.clip import DeidentifiedClip
from deemo_jax.config import ConfigError
from deemo_jax.config_data import MODALITIES
from deemo_jax.data import loader, record
from deemo_jax.data.packable import packable_clips
from deemo_jax.data.reader import Loose, Reader, Row
from deemo_jax.data.windows import Windowing
from deemo_jax.generate import generate
from deemo_jax.refusals import Refusal, Rejection, reject, write_lines, write_rejections
from deemo_jax.workdir import Run


def ask(
    run: Run,
    folder: Path,
    task: str,
    label: str = "",
    windowing: Windowing | None = None,
) -> tuple[dict[str, str], list[Rejection]]:
    """The model's answer for every clip of a de-identified folder, by clip id.

    Of people whose consent is withdrawn, and of clips that failed their audit, nothing
    is asked.

    `task` is one of `TASKS`, or any question in words; `label` is the class of body
    language that `nfbl_when` asks for. With `windowing`, long clips are asked about in
    windows, each by its own id.

    Answers and what was refused are also written to `generate/STEP/` of the workdir,
    `answers.jsonl` and `rejected.jsonl`.

    Raises:
        ValueError: the folder holds no de-identified clip.
    """
    clips, rejected = packable_clips(folder, allow_unaudited=True)
    if not clips:
        why = "; ".join(sorted({each.reason for each in rejected})) or "it lists none"
        raise ValueError(
            f"{folder} holds no de-identified clip that may be asked about ({why}): "
            "write it with `deemo deidentify`"
        )
    if windowing is not None:
        clips = list(windowing.cut(clips))
    size = min(run.config.evaluate.batch_size, len(clips))
    answers: dict[str, str] = {}
    for first in range(0, len(clips), size):
        ids, rows = [], []
        for clip in clips[first : first + size]:
            clip_id = clip.annotation.clip_id
            try:
                rows.append(_question(run, clip, task, label))
                ids.append(clip_id)
            except Refusal as refusal:
                rejected.append(reject(refusal, clip_id=clip_id))
        answers |= zip(ids, _answers(run, rows, size), strict=True)
    output = run.workdir / "generate" / str(run.step)
    output.mkdir(parents=True, exist_ok=True)
    asked = {"task": task} | ({"label": label} if label else {})
    lines = [{"clip_id": i, **asked, "answer": a} for i, a in answers.items()]
    write_lines(output / "answers.jsonl", lines)
    write_rejections(output / "rejected.jsonl", rejected)
    return answers, rejected


def _question(run: Run, clip: DeidentifiedClip, task: str, label: str) -> Row:
    """The prompt of one clip; `Refusal` if it cannot be read or does not fit."""
    # It is not kept, so it goes by its own name.
    asked = dataclasses.replace(
        record.from_clip(clip, salt=b""), clip_id=clip.annotation.clip_id
    )
    reader = _reader(run, Loose(records=(asked,), taxonomy=run.taxonomy))
    try:
        return reader.evaluation_row(0, task, None, MODALITIES, label)
    except ConfigError as error:
        raise Refusal(str(error), "shorten its transcript") from error


def _answers(run: Run, rows: list[Row], size: int) -> list[str]:
    """What the model writes after each row; `size` rows go through it at a time."""
    if not rows:
        return []
    reader = _reader(run, Loose(records=(), taxonomy=run.taxonomy))
    batch = loader.stack(rows + [reader.filler()] * (size - len(rows)))
    tokens = generate(
        run.model,
        jax.tree.map(jnp.asarray, batch),
        max_new_tokens=run.config.evaluate.max_new_tokens,
        eos_token_id=run.tokenizer.eos_token_id,
        pad_token_id=run.tokenizer.pad_token_id,
    )
    texts = run.tokenizer.batch_decode(jax.device_get(tokens), skip_special_tokens=True)
    return [text.strip() for text in texts[: len(rows)]]


def _reader(run: Run, source: Loose) -> Reader:
    return Reader(
        source=source,
        config=run.config.data,
        tokenizer=run.tokenizer,
        spans=run.spans,
    )
