"""Evaluates a model on every task over one split, and writes what it found."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import itertools
from typing import Any

from flax import nnx
import jax
from jax.sharding import Mesh
from jaxtyping import Float
import numpy as np

from deemo_jax import sharding
from deemo_jax.batch import Batch
from deemo_jax.config import Config
from deemo_jax.config_data import MODALITIES
from deemo_jax.data import tasks
from deemo_jax.data.loader import evaluation_batches, evaluation_questions
from deemo_jax.data.record import Record
from deemo_jax.data.source import ShardSource
from deemo_jax.distributed import is_first
from deemo_jax.evaluate.answers import parse_label, parse_labels, parse_times
from deemo_jax.evaluate.judge import lexical
from deemo_jax.evaluate.metrics import UNPARSED, confusion
from deemo_jax.evaluate.nfbl import When, Which
from deemo_jax.evaluate.report import write_report
from deemo_jax.evaluate.results import (
    REPORT,
    Prediction,
    Results,
    subset_name,
    write_results,
)
from deemo_jax.generate import generate
from deemo_jax.loss import log_likelihood
from deemo_jax.models.deemo_llama import DeemoLlama
from deemo_jax.spool import growing
from deemo_jax.storage import AnyPath

Progress = Callable[[str, int, int | None], None]

SUBSETS = tuple(
    subset
    for size in range(1, len(MODALITIES) + 1)
    for subset in itertools.combinations(MODALITIES, size)
)


def evaluate(
    model: DeemoLlama,
    source: ShardSource,
    tokenizer: Any,
    config: Config,
    labels: tuple[str, ...],
    *,
    step: int,
    ablations: bool,
    written: bool = True,
    workdir: AnyPath | None = None,
    mesh: Mesh | None = None,
    bounds: Mapping[str, float] | None = None,
    baseline: Results | None = None,
    progress: Progress | None = None,
) -> Results:
    """Recognition, reasoning and body language, as `config.data.tasks` names them.

    Recognition chooses the label whose tokens, end token included, are the likeliest
    answer, without regard to their number; and, apart from that, parses the text that
    the model writes. Reasoning is written and scored against the reference by words;
    which body language is shown, and when, is written and parsed.
    A clip is encoded once for all labels and subsets of modalities: one that is left
    out has no places among the tokens.

    Args:
      model: is left as it is, also where its parameters are spread over `mesh`.
      source: the records of a split; those without an answer are passed over.
      tokenizer: that of the model's training.
      labels: the label set.
      step: of training; names the folder and stands in the report.
      ablations: whether recognition by likelihood is repeated for every subset of the
        modalities.
      written: whether texts are written at all; likelihoods alone are far cheaper.
      workdir: where `eval/STEP/` is written, by the first process of several, the loss
        curve read from its `metrics.jsonl`; None writes nothing.
      bounds: the best accuracy that a subset of the modalities allows, by
        `subset_name`, for the report.
      baseline: what the untrained model scored, for the report.
      progress: told (description, batches done, batches in all).

    Raises:
      ValueError: the split has nothing to evaluate, or an emotion outside `labels`.
      ConfigError: the batch does not divide over the mesh.
    """
    run = _prepare(model, source, tokenizer, config, labels, mesh, progress)
    subsets = SUBSETS if ablations else (MODALITIES,)
    predictions: dict[int, Prediction] = {}
    confusions: dict[str, np.ndarray] = {}
    by_subset: dict[str, np.ndarray] = {}
    with jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext():
        if "recognition" in run.tasks:
            by_subset, by_parsing = _recognise(run, predictions, subsets, written)
            confusions["likelihood"] = by_subset[subset_name(MODALITIES)]
            if written:
                confusions["parsing"] = by_parsing
        for task in run.tasks:
            if task != "recognition" and written:
                _ask(run, predictions, task)
    results = Results(
        step=step,
        dataset=source.name,
        split=source.split,
        labels=labels,
        confusions=confusions,
        ablations=by_subset if ablations else {},
        bounds={name: float(best) for name, best in (bounds or {}).items()},
        groups=source.taxonomy.nfbl_groups,
        predictions=tuple(predictions[index] for index in sorted(predictions)),
    )
    if workdir is not None and is_first():
        folder = workdir / "eval" / str(step)
        write_results(folder, results)
        write_report(
            folder / REPORT,
            results,
            baseline=baseline,
            history=growing(workdir / "metrics.jsonl"),
        )
    return results


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """What stays the same from batch to batch."""

    graphdef: Any
    params: Any
    model: DeemoLlama
    source: ShardSource
    tokenizer: Any
    config: Config
    labels: tuple[str, ...]
    tasks: tuple[str, ...]
    mesh: Mesh | None
    progress: Progress

    def batches(
        self, task: str, *, words_only: bool = False, **kwargs: Any
    ) -> Iterator[Batch]:
        """The loader's batches of a task; `words_only` spares it decoding the media."""
        data = self.config.data
        if words_only:
            data = dataclasses.replace(
                data, num_frames=0, audio_seconds=0.0, workers=0, prefetch=0
            )
        model = self.config.model
        return evaluation_batches(
            self.source,
            data,
            self.tokenizer,
            (
                model.video_connector.num_query_tokens,
                model.audio_connector.num_query_tokens,
            ),
            task=task,
            batch_size=self.size,
            rows=None
            if self.mesh is None
            else sharding.local_rows(self.mesh, self.size),
            **kwargs,
        )

    @property
    def size(self) -> int:
        """Rows of a batch, over all processes."""
        return self.config.evaluate.batch_size

    def counted(
        self, batches: Iterator, task: str
    ) -> Iterator[tuple[Any, list[tuple[int, str]]]]:
        """The batches and what they ask, while the progress is told of them.

        A batch has the rows of this process, what is asked is that of all rows.
        """
        asked = evaluation_questions(self.source, task)
        total = -(-len(asked) // self.size)
        self.progress(f"evaluating {task}", 0, total)
        for done, batch in enumerate(batches):
            yield batch, asked[done * self.size :][: self.size]
            self.progress(f"evaluating {task}", done + 1, total)

    def place(self, batch: Batch) -> Batch:
        """The batch on the mesh, or as it is."""
        if self.mesh is None:
            return batch
        return sharding.place(batch, self.mesh, rows=self.size)

    def write(self, batch: Batch) -> list[str]:
        """The texts that the model writes after the prompts of a batch."""
        end = int(self.tokenizer.eos_token_id)
        tokens = generate(
            self.model,
            batch,
            max_new_tokens=self.config.evaluate.max_new_tokens,
            eos_token_id=end,
            pad_token_id=int(self.tokenizer.pad_token_id),
        )
        rows = [list(itertools.takewhile(end.__ne__, r)) for r in tokens.tolist()]
        return [
            self.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows
        ]


def _prepare(
    model: DeemoLlama,
    source: ShardSource,
    tokenizer: Any,
    config: Config,
    labels: tuple[str, ...],
    mesh: Mesh | None,
    progress: Progress | None,
) -> _Run:
    tasks = source.answered(config.data.tasks)
    if not tasks:
        raise ValueError(
            f"{source} has no answer for {' or '.join(config.data.tasks)}: "
            "annotate some of its clips, or evaluate another split"
        )
    graphdef, params = nnx.split(model)
    if mesh is not None:
        sharding.check_rows(config.evaluate.batch_size, mesh, key="evaluate.batch_size")
        placed = sharding.parameter_shardings(params, mesh, config.layout)
        params = jax.device_put(params, placed)
    return _Run(
        graphdef=graphdef,
        params=params,
        model=nnx.merge(graphdef, params),
        source=source,
        tokenizer=tokenizer,
        config=config,
        labels=labels,
        tasks=tasks,
        mesh=mesh,
        progress=progress or (lambda description, done, total: None),
    )


def _recognise(
    run: _Run,
    predictions: dict[int, Prediction],
    subsets: Sequence[Sequence[str]],
    written: bool,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Adds predictions; returns the matrices of each subset, and that of parsing."""
    classes = len(run.labels)
    by_parsing = np.zeros((classes, classes + 1), np.int64)
    by_subset = {subset_name(subset): np.zeros_like(by_parsing) for subset in subsets}
    scored = [
        run.batches("recognition", words_only=True, modalities=subset, answer=label)
        for subset in subsets
        for label in run.labels
    ]
    opened = run.batches("recognition")
    batches = zip(opened, *scored, strict=True)
    for (batch, *candidates), asked in run.counted(batches, "recognition"):
        placed = run.place(batch)
        # All are dispatched before the first is waited for.
        media = _encode(run.graphdef, run.params, placed)
        scores = [
            _score(run.graphdef, run.params, run.place(candidate), media)
            for candidate in candidates
        ]
        texts = run.write(placed) if written else None
        likelihoods = np.stack([np.asarray(score) for score in scores], axis=1)
        likelihoods = likelihoods.reshape(-1, len(subsets), classes)
        records = [run.source[index] for index, _ in asked]
        truth = np.array([_class_of(run, record) for record in records], np.int64)
        kept = likelihoods[: len(asked)]  # the rows after these fill the batch
        _check_finite(kept, records)
        for s, subset in enumerate(subsets):
            chosen = kept[:, s].argmax(axis=1)
            by_subset[subset_name(subset)] += confusion(truth, chosen, classes)
        whole = kept[:, list(subsets).index(MODALITIES)]
        parsed = []
        for row, ((index, _), record) in enumerate(zip(asked, records, strict=True)):
            answer, values = None if texts is None else texts[row], whole[row]
            label = parse_label(answer, run.labels) if answer is not None else None
            parsed.append(UNPARSED if label is None else run.labels.index(label))
            predictions[index] = dataclasses.replace(
                _blank(index, record),
                probabilities=_probabilities(values, run.labels),
                by_likelihood=run.labels[int(values.argmax())],
                answer=answer,
                by_parsing=label,
            )
        by_parsing += confusion(truth, np.array(parsed, np.int64), classes)
    return by_subset, by_parsing


def _ask(run: _Run, predictions: dict[int, Prediction], task: str) -> None:
    """Adds what the model writes when it is asked for a task to the predictions."""
    for batch, asked in run.counted(run.batches(task), task):
        texts = run.write(run.place(batch))
        for row, (index, label) in enumerate(asked):
            record = run.source[index]
            before = predictions.get(index) or _blank(index, record)
            found = _scored(run, before, record, task, label, texts[row])
            predictions[index] = dataclasses.replace(before, **found)


def _scored(
    run: _Run, before: Prediction, record: Record, task: str, label: str, text: str
) -> dict[str, Any]:
    """What a text adds to the prediction of its clip."""
    if task == "reasoning":
        score = lexical(text, record.reasoning or "", run.labels, record.emotion)
        return {"reasoning": text, "lexical": score}
    if task == "nfbl_which":
        named = parse_labels(text, run.source.taxonomy.nfbl)
        which = Which(expected=tasks.classes(record), text=text, named=named)
        return {"nfbl_which": which}
    one = When(
        label=label,
        seconds=round(record.duration, 1),
        expected=tasks.times(record, label),
        text=text,
        named=parse_times(text),
    )
    return {"nfbl_when": (*before.nfbl_when, one)}


@functools.partial(jax.jit, static_argnums=0)
def _encode(graphdef, params, batch):
    return nnx.merge(graphdef, params).encode(batch)


@functools.partial(jax.jit, static_argnums=0)
def _score(graphdef, params, batch, media):
    """Log-likelihood of each row's answer; the clip is in `media`, not in `batch`."""
    model = nnx.merge(graphdef, params)
    logits = model.language_model(
        embeddings=model.embed_batch(batch, media),
        positions=batch.positions,
        segment_ids=batch.segment_ids,
    )
    found = log_likelihood(logits, batch.tokens, batch.loss_mask)
    return sharding.constrain(found, (None,))  # all of it in every process


def _blank(index: int, record: Record) -> Prediction:
    return Prediction(
        index=index,
        clip_id=record.clip_id,
        transcript=record.transcript,
        emotion=record.emotion,
        reference=record.reasoning,
    )


def _class_of(run: _Run, record: Record) -> int:
    if record.emotion not in run.labels:
        raise ValueError(
            f"clip {record.clip_id} has the emotion {record.emotion!r}, which is none "
            f"of the labels {', '.join(run.labels)}: evaluate with the taxonomy that "
            "the data set was packed with"
        )
    return run.labels.index(record.emotion)


def _check_finite(likelihoods: np.ndarray, records: list[Record]) -> None:
    bad = ~np.isfinite(likelihoods).all(axis=(1, 2))
    if bad.any():
        record = records[int(bad.argmax())]
        raise ValueError(
            f"the likelihoods of clip {record.clip_id} are not finite: the parameters "
            "are broken; evaluate an earlier checkpoint"
        )


def _probabilities(
    likelihoods: Float[np.ndarray, " C"], labels: tuple[str, ...]
) -> dict[str, float]:
    """Of the labels, as if there were no other answers."""
    weights = np.exp(likelihoods.astype(np.float64) - likelihoods.max())
    values = (weights / weights.sum()).tolist()
    return dict(zip(labels, values, strict=True))
