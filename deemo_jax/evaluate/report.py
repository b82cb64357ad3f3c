"""The report of an evaluation.

It holds texts of the data set and of the model, all escaped, and no frame and no sound.
"""

import io
import json
import math
from pathlib import Path
import re
from typing import Any

from deemo_jax import page
from deemo_jax.data.tasks import write_times
from deemo_jax.evaluate.metrics import Recognition
from deemo_jax.evaluate.results import Prediction, Results
from deemo_jax.storage import AnyPath, write_whole

TEMPLATE = Path(__file__).with_name("report.html")
WAYS = {"likelihood": "by likelihood", "parsing": "by written text"}
SAMPLES = 4  # right ones shown, and as many wrong ones
SMOOTHING = 0.05  # of the steps, the width of the loss curve's running mean
# Stand-ins in the plots for what the page's own colours give, light or dark.
INK, FAINT = "#010101", "#020202"
BLUE, ORANGE = "#3b82c4", "#e07b39"


def write_report(
    path: AnyPath,
    results: Results,
    *,
    baseline: Results | None = None,
    history: AnyPath | None = None,
) -> None:
    """Writes the report, whole or not at all.

    `baseline` is what the untrained model scored. `history` is the `metrics.jsonl` of
    the training, for the loss curve; where there is none, the report has no curve.
    """
    write_whole(path, render(results, baseline=baseline, history=history))


def render(
    results: Results,
    *,
    baseline: Results | None = None,
    history: AnyPath | None = None,
) -> str:
    """The report as HTML."""
    from markupsafe import Markup

    losses = read_losses(history) if history is not None else []
    figures = results.recognition
    right, wrong = choose_samples(results.predictions)
    return page.render(
        TEMPLATE,
        {
            "percent": percent,
            "interval": interval,
            "fixed": fixed,
            "shade": shade,
            "times": write_times,
        },
        results=results,
        clips=len(results.predictions),
        headline=headline(figures),
        rows=comparison(results, baseline),
        matrices=[(WAYS[way], found) for way, found in figures.items()],
        reasoning=[
            (name, means)
            for name, means in (
                ("this model", results.reasoning),
                ("untrained", baseline.reasoning if baseline else None),
            )
            if means is not None
        ],
        which=which_rows(results, baseline),
        when=[
            (name, of.nfbl_when)
            for name, of in (("this model", results), ("untrained", baseline))
            if of is not None and of.nfbl_when is not None
        ],
        ablations=ablation_rows(results),
        ablation_plot=Markup(plot_ablations(results)) if results.ablations else None,
        losses=losses,
        loss_plot=Markup(plot_losses(losses)) if len(losses) > 1 else None,
        samples=[("Right", right), ("Wrong, the surest first", wrong)],
    )


def headline(figures: dict[str, Recognition]) -> Recognition | None:
    """The figures to lead with: by likelihood where there are any, else by parsing."""
    return figures.get("likelihood") or figures.get("parsing")


def comparison(results: Results, baseline: Results | None) -> list[dict[str, Any]]:
    """The rows of the headline table: this model, the untrained one, the majority."""
    rows = [
        _row(f"{who}, {WAYS[way]}", found, ours=who == "this model")
        for who, of in (("this model", results), ("untrained", baseline))
        if of is not None
        for way, found in of.recognition.items()
    ]
    first = headline(results.recognition)
    if first is not None:
        name = f"always “{first.majority.label}”, the commonest"
        rows.append(_row(name, first.majority, ours=False))
    return rows


def _row(name: str, found: Any, *, ours: bool) -> dict[str, Any]:
    fields = {k: getattr(found, k) for k in ("weighted_f1", "macro_f1", "uar")}
    measured = isinstance(found, Recognition)
    return fields | {
        "name": name,
        "ours": ours,
        "accuracy": found.accuracy,
        "interval": interval(found) if measured else "–",
        "unparsed": found.unparsed if measured else "–",
    }


def which_rows(results: Results, baseline: Results | None) -> list[dict[str, Any]]:
    """Which body language is shown: by this model, untrained, always the commonest."""
    rows = [
        {"name": name, "ours": name == "this model", "found": of.nfbl_which}
        for name, of in (("this model", results), ("untrained", baseline))
        if of is not None and of.nfbl_which is not None
    ]
    return [row | {"classes": row["found"].classes} for row in rows] + [
        {
            "name": f"always “{row['found'].commonest_label}”, the commonest",
            "ours": False,
            "found": None,
            "classes": row["found"].commonest,
        }
        for row in rows[:1]
        if row["found"].commonest_label
    ]


def ablation_rows(results: Results) -> list[dict[str, Any]]:
    """One row a subset of the modalities, the smallest subsets first."""
    return [
        {
            "name": name.replace("+", " + "),
            "found": found,
            "bound": results.bounds.get(name),
        }
        for name, found in results.ablated.items()
    ]


def choose_samples(
    predictions: tuple[Prediction, ...],
) -> tuple[list[Prediction], list[Prediction]]:
    """Right ones, evenly spread over the split, and the surest of the wrong ones.

    Right or wrong is the label by likelihood; where none was asked for, it is whether
    the reasoning concludes with the reference's emotion.
    """
    right = [p for p in predictions if _is_right(p)]
    wrong = [p for p in predictions if not _is_right(p)]
    step = max(1, len(right) // SAMPLES)
    wrong.sort(key=lambda p: -max((p.probabilities or {"": 0.0}).values()))
    return right[::step][:SAMPLES], wrong[:SAMPLES]


def _is_right(prediction: Prediction) -> bool:
    if prediction.by_likelihood is not None:
        return prediction.by_likelihood == prediction.emotion
    return prediction.lexical is not None and prediction.lexical.same_emotion is True


def read_losses(path: AnyPath) -> list[tuple[int, float]]:
    """(step, loss) of a `metrics.jsonl`; what is torn or not finite is passed over."""
    if not path.exists():
        return []
    losses = []
    for line in path.read_bytes().decode(errors="replace").splitlines():
        try:
            fields = json.loads(line)
            step, loss = int(fields["step"]), float(fields["loss"])
        except (ValueError, KeyError, TypeError):
            continue
        if math.isfinite(loss):
            losses.append((step, loss))
    return losses


def percent(value: float | None) -> str:
    """A fraction as a percentage with one decimal: 0.9125 is `91.2 %`."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def interval(found: Recognition) -> str:
    """The 95 % interval of the accuracy: `87.6 to 93.9 %`."""
    return f"{100 * found.accuracy_low:.1f} to {100 * found.accuracy_high:.1f} %"


def fixed(value: float | None) -> str:
    """A score with three decimals."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def shade(count: int, row: list[int]) -> int:
    """How dark a cell is: the percentage of its row's counts that it holds."""
    return round(100 * count / sum(row)) if sum(row) else 0


def plot_ablations(results: Results) -> str:
    """Bars of accuracy a subset of the modalities, the rule's bounds as ticks."""
    rows = list(reversed(ablation_rows(results)))
    figure, axes = _figure(height=0.9 + 0.38 * len(rows))
    places = range(len(rows))
    shares = [100 * row["found"].accuracy for row in rows]
    low = [100 * row["found"].accuracy_low for row in rows]
    high = [100 * row["found"].accuracy_high for row in rows]
    axes.barh(places, shares, height=0.62, color=BLUE)
    axes.hlines(places, low, high, color=INK, linewidth=1)
    chance = 100 * rows[0]["found"].majority.accuracy
    top = len(rows) - 0.45
    axes.vlines(chance, -0.6, top, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.text(chance, top, "commonest class", color=INK, ha="center", va="bottom")
    for place, row in zip(places, rows, strict=True):
        if row["bound"] is not None:
            x = 100 * row["bound"]
            axes.vlines(
                x, place - 0.4, place + 0.4, color=ORANGE, linewidth=3, clip_on=False
            )
        inside = row["found"].accuracy > 0.15
        axes.text(
            2 if inside else high[place] + 2,
            place,
            percent(row["found"].accuracy),
            va="center",
            color="white" if inside else INK,
        )
    axes.set_yticks(list(places), [row["name"] for row in rows])
    axes.set_xlim(0, 100)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("accuracy, %")
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    axes.tick_params(axis="y", length=0)
    return _svg(figure, "ablations", "Accuracy of every subset of the modalities")


def plot_losses(losses: list[tuple[int, float]]) -> str:
    """The loss of each logged step, and its running mean."""
    steps, values = zip(*losses, strict=True)
    figure, axes = _figure(height=2.6)
    axes.plot(steps, values, color=BLUE, alpha=0.35, linewidth=1)
    axes.plot(steps, running_mean(list(values)), color=BLUE, linewidth=2)
    axes.set_xlim(steps[0], steps[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats a token")
    axes.grid(color=FAINT, linewidth=0.7)
    return _svg(figure, "loss", "Loss of training, step by step")


def running_mean(values: list[float]) -> list[float]:
    """The mean of each value and as many on either side, `SMOOTHING` of all at most."""
    last, widest = len(values) - 1, round(len(values) * SMOOTHING / 2)
    means = []
    for i in range(len(values)):
        half = min(widest, i, last - i)
        window = values[i - half : i + half + 1]
        means.append(sum(window) / len(window))
    return means


def _figure(*, height: float) -> Any:
    """A figure and its axes, without a display and without touching pyplot's state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.4, height), layout="constrained")
    axes = figure.subplots()
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(colors=INK, length=3)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return figure, axes


def _svg(figure: Any, name: str, title: str) -> str:
    """The figure as an `<svg>` element in the page's own font and colours."""
    import matplotlib

    file = io.StringIO()
    # Text as text, not as outlines; ids that are the same whenever it is drawn.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Two plots in one page: each id is that of its plot.
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(INK, "currentColor").replace(FAINT, "var(--line)")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
