"""What an evaluation found, and the files it is kept in."""

from collections.abc import Iterable, Mapping
import dataclasses
import json
import math
from typing import Any

from jaxtyping import Int
import numpy as np

from deemo_jax.config_data import MODALITIES
from deemo_jax.evaluate.answers import parse_labels
from deemo_jax.evaluate.judge import Lexical, LexicalMeans, average
from deemo_jax.evaluate.metrics import Recognition, recognition
from deemo_jax.evaluate.nfbl import (
    When,
    WhenFigures,
    Which,
    WhichFigures,
    when_figures,
    which_figures,
)
from deemo_jax.refusals import write_lines
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
        nfbl_which: what was written when asked which body language is shown.
        nfbl_when: and when, one a question.
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
    nfbl_which: Which | None = None
    nfbl_when: tuple[When, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """An evaluation of one split at one step.

    Attributes:
        dataset, split: what was evaluated.
        labels: the label set; rows of every confusion matrix.
        confusions: of `likelihood` and `parsing`, where they were asked for.
        ablations: by likelihood, of each subset of the modalities: see `subset_name`.
        bounds: the best accuracy that a subset allows, where the corpus states it.
        groups: the classes of each group of body language.
        predictions: one a clip, in order.
    """

    step: int
    dataset: str
    split: str
    labels: tuple[str, ...]
    confusions: dict[str, Int[np.ndarray, "C C_and_one"]]
    ablations: dict[str, Int[np.ndarray, "C C_and_one"]]
    bounds: dict[str, float]
    groups: dict[str, tuple[str, ...]]
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

    @property
    def nfbl_which(self) -> WhichFigures | None:
        """Which body language is shown; None if that was not asked for."""
        answers = [p.nfbl_which for p in self.predictions if p.nfbl_which is not None]
        return which_figures(answers, self.groups) if answers else None

    @property
    def nfbl_when(self) -> WhenFigures | None:
        """When it is shown; None if that was not asked for."""
        answers = [answer for p in self.predictions for answer in p.nfbl_when]
        return when_figures(answers) if answers else None

    def describe(self) -> list[str]:
        """The figures in words, a line for each task and way to answer it."""
        lines = [
            f"recognition by {way}: accuracy {found.accuracy:.3f}, weighted F1 "
            f"{found.weighted_f1:.3f}, macro F1 {found.macro_f1:.3f}, UAR "
            f"{found.uar:.3f}"
            for way, found in self.recognition.items()
        ]
        if (means := self.reasoning) is not None:
            lines.append(
                f"reasoning, lexical scorer: word F1 {means.word_f1:.3f}, ROUGE-L "
                f"{means.rouge_l:.3f}, same emotion {means.same_emotion:.3f}"
            )
        if (which := self.nfbl_which) is not None:
            commonest = f"always {which.commonest_label!r}: {which.commonest.micro:.3f}"
            none = f"none {which.none:.3f} of {which.without}, "
            lines.append(
                f"body language, which: micro F1 {which.classes.micro:.3f} ("
                f"{commonest if which.commonest_label else 'none is shown'}), macro F1 "
                f"{which.classes.macro:.3f}, of groups {which.groups.micro:.3f} and "
                f"{which.groups.macro:.3f}, exact {which.exact:.3f}, "
                f"{none if which.without else ''}{which.unparsed} unparsed"
            )
        if (when := self.nfbl_when) is not None:
            lines.append(
                f"body language, when: IoU {when.iou:.3f} (whole clip "
                f"{when.iou_of_all:.3f}), recall {when.recall:.3f}, never "
                f"{when.never:.3f}, {when.unparsed} unparsed"
            )
        return lines


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
            "nfbl": {
                task: dataclasses.asdict(figures)
                for task, figures in (
                    ("which", results.nfbl_which),
                    ("when", results.nfbl_when),
                )
                if figures is not None
            },
            "ablations": _figures(results.ablated),
            "bounds": results.bounds,
            "groups": {g: list(labels) for g, labels in results.groups.items()},
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
            groups={g: tuple(labels) for g, labels in metrics["groups"].items()},
            predictions=tuple(_prediction(json.loads(line)) for line in lines if line),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} holds no whole evaluation ({error!r}): evaluate again"
        ) from error


def _prediction(fields: dict[str, Any]) -> Prediction:
    if fields["lexical"] is not None:
        fields = fields | {"lexical": Lexical(**fields["lexical"])}
    which, when = fields["nfbl_which"], fields["nfbl_when"]
    if which is not None:
        which = Which(**{key: _tuples(value) for key, value in which.items()})
        if not which.named:  # of old, () where the text is unparsed
            which = dataclasses.replace(which, named=parse_labels(which.text, ()))
    asked = [{key: _tuples(value) for key, value in one.items()} for one in when]
    when = tuple(When(**one) for one in asked)
    return Prediction(**fields | {"nfbl_which": which, "nfbl_when": when})


def _tuples(value: Any) -> Any:
    """Lists of JSON as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


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
