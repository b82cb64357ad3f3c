"""What an evaluation found, and the files it is kept in."""

from collections.abc import Iterable, Mapping
import dataclasses
import json
import math
from typing import Any

from jaxtyping import Int
import numpy as np

from deemo_jax.annotation import write_lines
from deemo_jax.config import MODALITIES
from deemo_jax.evaluate.judge import Lexical, LexicalMeans, average
from deemo_jax.evaluate.metrics import Recognition, recognition
from deemo_jax.storage import AnyPath, write_whole

METRICS, PREDICTIONS, REPORT = "metrics.json", "predictions.jsonl", "report.html"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """What was said of one clip; None for what was not asked, or is not annotated.

    Attributes:
        index: of the record in its split.
        clip_id: its pseudonym.
        emotion, reference: the annotated emotion and reasoning.
        probabilities: of each label, from the likelihoods of the labels alone.
        by_likelihood: the likeliest label.
        answer: the text that was written when asked for the emotion.
        by_parsing: the label in that text; None if it names none.
        reasoning: the text that was written when asked for the clues.
        lexical: how that text compares with the reference.
    """

    index: int
    clip_id: str
    transcript: str | None
    emotion: str | None
    reference: str | None
    probabilities: dict[str, float] | None = None
    by_likelihood: str | None = None
    answer: str | None = None
    by_parsing: str | None = None
    reasoning: str | None = None
    lexical: Lexical | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """An evaluation of one split at one step.

    Attributes:
        dataset, split: what was evaluated.
        labels: the label set; rows of every confusion matrix.
        confusions: of `likelihood` and `parsing`, where they were asked for.
        ablations: by likelihood, of each subset of the modalities: see `subset_name`.
        bounds: the best accuracy that a subset allows, where the corpus states it.
        predictions: one a clip, in order.
    """

    step: int
    dataset: str
    split: str
    labels: tuple[str, ...]
    confusions: dict[str, Int[np.ndarray, "C C_and_one"]]
    ablations: dict[str, Int[np.ndarray, "C C_and_one"]]
    bounds: dict[str, float]
    predictions: tuple[Prediction, ...]

    @property
    def recognition(self) -> dict[str, Recognition]:
        """The figures of each way to choose a label: `likelihood`, `parsing`."""
        return {
            way: recognition(counts, self.labels)
            for way, counts in self.confusions.items()
        }

    @property
    def ablated(self) -> dict[str, Recognition]:
        """The figures of each subset of the modalities, by likelihood."""
        return {
            name: recognition(counts, self.labels)
            for name, counts in self.ablations.items()
        }

    @property
    def reasoning(self) -> LexicalMeans | None:
        """The lexical scorer's means; None if no reasoning was asked for."""
        scores = [p.lexical for p in self.predictions if p.lexical is not None]
        return average(scores) if scores else None


def subset_name(modalities: Iterable[str]) -> str:
    """Names a subset of the modalities: {"text", "video"} is `video+text`."""
    chosen = set(modalities)
    return "+".join(name for name in MODALITIES if name in chosen)


def write_results(folder: AnyPath, results: Results) -> None:
    """Writes `predictions.jsonl`, then `metrics.json`; each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(
        folder / PREDICTIONS, [dataclasses.asdict(p) for p in results.predictions]
    )
    write_whole(folder / METRICS, json.dumps(to_json(results), indent=1) + "\n")


def to_json(results: Results) -> dict[str, Any]:
    """The object of `metrics.json`; figures that are not numbers are null."""
    return _without_nan(
        {
            "step": results.step,
            "dataset": results.dataset,
            "split": results.split,
            "labels": list(results.labels),
            "recognition": _figures(results.recognition),
            "reasoning": {"lexical": dataclasses.asdict(results.reasoning)}
            if results.reasoning
            else {},
            "ablations": _figures(results.ablated),
            "bounds": results.bounds,
        }
    )


def read_results(folder: AnyPath) -> Results:
    """Reads what `write_results` wrote.

    Raises:
        ValueError: the files are not there, or not whole.
    """
    try:
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        lines = (folder / PREDICTIONS).read_text(encoding="utf-8").split("\n")
        return Results(
            step=metrics["step"],
            dataset=metrics["dataset"],
            split=metrics["split"],
            labels=tuple(metrics["labels"]),
            confusions=_matrices(metrics["recognition"]),
            ablations=_matrices(metrics["ablations"]),
            bounds=metrics["bounds"],
            predictions=tuple(_prediction(json.loads(line)) for line in lines if line),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} holds no whole evaluation ({error!r}): evaluate again"
        ) from error


def _prediction(fields: dict[str, Any]) -> Prediction:
    if fields["lexical"] is not None:
        fields = fields | {"lexical": Lexical(**fields["lexical"])}
    return Prediction(**fields)


def _figures(of: Mapping[str, Recognition]) -> dict[str, Any]:
    return {name: dataclasses.asdict(figures) for name, figures in of.items()}


def _matrices(figures: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(f["confusion"], np.int64) for name, f in figures.items()}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
