"""A run read back from its workdir: what is evaluated, asked and exported."""

from collections.abc import Callable, Mapping
import dataclasses
import json
from pathlib import Path
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from deemo_jax import sharding
from deemo_jax.annotation import Rejection
from deemo_jax.checkpoint import Checkpoints
from deemo_jax.clip import read_deidentified
from deemo_jax.config import Config, ConfigError, from_dict, to_dict
from deemo_jax.data import loader, prompt, record
from deemo_jax.data.shards import ShardSource
from deemo_jax.data.synthetic import best_accuracy
from deemo_jax.evaluate.results import Results, read_results, subset_name, to_json
from deemo_jax.evaluate.runner import SUBSETS, Progress, evaluate
from deemo_jax.export.adapter import base_params
from deemo_jax.export.card import Card
from deemo_jax.export.folder import export
from deemo_jax.generate import generate
from deemo_jax.models.deemo_llama import DeemoLlama
from deemo_jax.models.lora import merge_lora
from deemo_jax.train.prepare import prepare_data, prepare_tokenizer
from deemo_jax.train.step import abstract_state, init_state, split_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A trained run: its settings, its data, and its model after `step` steps."""

    workdir: Path
    config: Config
    mesh: Mesh
    packed: Path
    tokenizer: Any
    model: DeemoLlama
    step: int

    @property
    def spans(self) -> tuple[int, int]:
        """Tokens that the connectors emit: (video, audio)."""
        model = self.config.model
        return (
            model.video_connector.num_query_tokens,
            model.audio_connector.num_query_tokens,
        )

    @property
    def generated(self) -> bool:
        """Whether its corpus was generated, so that its rule is known."""
        return not self.config.data.path


def open_run(workdir: Path, config: Config | None = None) -> Run:
    """Reads a workdir with its newest whole checkpoint.

    `config`, where given, takes the place of the workdir's own; its model and its LoRA
    must be those that were trained.

    Raises:
        ValueError: the workdir holds no run, or no whole checkpoint.
        ConfigError: `config` describes another model.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise ValueError(
            f"{workdir} holds no run (no config.json): train one with `deemo train`"
        )
    trained = from_dict(json.loads(path.read_text()))
    if config is not None and (
        (config.model, config.lora) != (trained.model, trained.lora)
    ):
        raise ConfigError(
            f"--config describes another model than the one trained in {workdir}; "
            "leave it out"
        )
    config = config or trained
    packed = prepare_data(config, workdir)
    tokenizer = prepare_tokenizer(config, workdir, ShardSource(packed, "train"))
    mesh = sharding.make_mesh(config.mesh)
    with Checkpoints(workdir / "checkpoints", keep=config.train.keep) as checkpoints:
        step = checkpoints.newest()
        if step is None:
            raise ValueError(
                f"{workdir} holds no whole checkpoint: go on with `deemo train`"
            )
        abstract = abstract_state(config, mesh).params
        params = checkpoints.restore(step, {"params": abstract})["params"]
    return Run(
        workdir=workdir,
        config=config,
        mesh=mesh,
        packed=packed,
        tokenizer=tokenizer,
        model=nnx.merge(split_model(config)[0], params),
        step=step,
    )


def untrained(run: Run) -> Run:
    """The run as it was before its first step, as a baseline."""
    with jax.set_mesh(run.mesh):
        params = init_state(run.config, run.mesh).params
    model = nnx.merge(split_model(run.config)[0], params)
    return dataclasses.replace(run, model=model, step=0)


def evaluate_run(
    run: Run,
    *,
    baseline: Results | None = None,
    written: bool = True,
    progress: Progress | None = None,
) -> Results:
    """Both tasks on `evaluate.split`; writes `eval/STEP/` in the workdir."""
    source = ShardSource(run.packed, run.config.evaluate.split)
    bounds = (
        {subset_name(s): best_accuracy(s) for s in SUBSETS} if run.generated else {}
    )
    return evaluate(
        run.model,
        source,
        run.tokenizer,
        run.config,
        source.taxonomy.emotions,
        step=run.step,
        ablations=run.config.evaluate.ablations,
        written=written,
        workdir=run.workdir,
        mesh=run.mesh,
        bounds=bounds,
        baseline=baseline,
        progress=progress,
    )


def evaluator(config: Config, workdir: Path) -> Callable[[DeemoLlama, int], Any]:
    """What the training loop calls for `evaluate.every`; opens the data when called."""

    def evaluate_now(model: DeemoLlama, step: int) -> Mapping[str, Any]:
        packed = prepare_data(config, workdir)
        source = ShardSource(packed, "train")
        run = Run(
            workdir=workdir,
            config=config,
            mesh=sharding.make_mesh(config.mesh),
            packed=packed,
            tokenizer=prepare_tokenizer(config, workdir, source),
            model=model,
            step=step,
        )
        return to_json(evaluate_run(run))

    return evaluate_now


def ask(run: Run, folder: Path, task: str) -> tuple[dict[str, str], list[Rejection]]:
    """The model's answer for every clip of a de-identified folder, by clip id.

    Raises:
        ValueError: the folder holds no de-identified clip.
    """
    clips, rejected = read_deidentified(folder)
    if not clips:
        raise ValueError(
            f"{folder} holds no de-identified clip: see its rejected.jsonl, or write "
            "it with `deemo deidentify`"
        )
    labels = ShardSource(run.packed, run.config.evaluate.split).taxonomy
    batch = loader.question_batch(
        [record.from_clip(clip, salt=b"") for clip in clips],
        labels,
        run.config.data,
        run.tokenizer,
        run.spans,
        task=task,
    )
    tokens = generate(
        run.model,
        jax.tree.map(jnp.asarray, batch),
        max_new_tokens=run.config.evaluate.max_new_tokens,
        eos_token_id=run.tokenizer.eos_token_id,
        pad_token_id=run.tokenizer.pad_token_id,
    )
    texts = run.tokenizer.batch_decode(jax.device_get(tokens), skip_special_tokens=True)
    ids = [clip.annotation.clip_id for clip in clips]
    return dict(zip(ids, (text.strip() for text in texts), strict=True)), rejected


def export_run(run: Run, output: Path, *, adapter: bool = False) -> Mapping[str, Any]:
    """Writes the run's model for PyTorch, proved in float32 on rows of its own data.

    LoRA is merged into the weights; with `adapter`, it lies apart in `OUTPUT/adapter`,
    as `peft` has it, and what is proved are the weights without it.

    Raises:
        ExportError: PyTorch computes something else, or there is no LoRA to lie apart.
    """
    source = ShardSource(run.packed, run.config.evaluate.split)
    emotions = source.taxonomy.emotions
    batches = [
        next(
            iter(
                loader.evaluation_batches(
                    source,
                    run.config.data,
                    run.tokenizer,
                    run.spans,
                    task=task,
                    batch_size=4,
                    answer=emotions[0] if task == "recognition" else "",
                )
            )
        )
        for task in run.config.data.tasks
    ]
    evaluated = run.workdir / "eval" / str(run.step)
    metrics = {}
    if (evaluated / "metrics.json").exists():
        found = read_results(evaluated)
        metrics = {
            f"recognition ({way}, {found.split})": {
                "accuracy": figures.accuracy,
                "weighted F1": figures.weighted_f1,
                "macro F1": figures.macro_f1,
                "UAR": figures.uar,
            }
            for way, figures in found.recognition.items()
        }
    plain = nnx.eval_shape(lambda: DeemoLlama(run.config.model, rngs=nnx.Rngs(0)))
    params = base_params(run.model) if adapter else merge_lora(run.model)
    measured = export(
        nnx.merge(nnx.graphdef(plain), jax.device_get(params)),
        run.tokenizer,
        output,
        card=Card(
            name=output.name,
            data=source.name,
            about_data="Its clips are generated; no person is in them."
            if run.generated
            else "",
            deidentification=tuple(sorted({row.deidentification for row in source})),
            steps=run.step,
            init_from=run.config.init_from,
            config=to_dict(run.config),
            metrics=metrics,
            instructions={
                task: prompt.instruction(task, emotions)
                for task in run.config.data.tasks
            },
            adapter="adapter" if adapter else "",
        ),
        taxonomy=source.taxonomy,
        batches=batches,
        max_new_tokens=run.config.evaluate.max_new_tokens,
        adapter=run.model if adapter else None,
    )
    assert measured is not None  # it was asked to verify
    return measured
