"""A run read back from its workdir: what is evaluated and exported."""

from collections.abc import Callable, Mapping
import dataclasses
from pathlib import Path, PurePath
from typing import Any

from flax import nnx
import jax
from jax.sharding import Mesh

from deemo_jax import sharding
from deemo_jax.annotation import (
    Taxonomy,
    load_taxonomy,
)
from deemo_jax.checkpoint import Checkpoints
from deemo_jax.config import (
    Config,
    ConfigError,
    MeshConfig,
    differences,
    read_stored,
    to_dict,
)
from deemo_jax.data import loader, tasks
from deemo_jax.data.synthetic import best_accuracy
from deemo_jax.distributed import broadcast
from deemo_jax.evaluate.results import (
    REPORT,
    Results,
    read_results,
    subset_name,
    to_json,
)
from deemo_jax.evaluate.runner import SUBSETS, Progress, evaluate
from deemo_jax.export.adapter import base_params
from deemo_jax.export.card import Card
from deemo_jax.export.folder import export
from deemo_jax.models.deemo_llama import DeemoLlama
from deemo_jax.models.lora import merge_lora
from deemo_jax.storage import AnyPath
from deemo_jax.train.frozen import check_towers, recognised
from deemo_jax.train.initial import bases, initial_params
from deemo_jax.train.ledger import handed_on, to_lines
from deemo_jax.train.loop import Evaluate
from deemo_jax.train.prepare import open_split, prepare_data, prepare_tokenizer
from deemo_jax.train.seen import check_unseen
from deemo_jax.train.step import abstract_state, split_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A trained run: its settings, its data, and its model after `step` steps."""

    workdir: AnyPath
    config: Config
    mesh: Mesh
    packed: AnyPath
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
        """Whether its corpus was generated here, so that its rule is known."""
        return not self.config.data.path

    @property
    def taxonomy(self) -> Taxonomy:
        """The label sets of its data."""
        return load_taxonomy(self.packed / "taxonomy.json")


def open_run(workdir: AnyPath, config: Config | None = None) -> Run:
    """Reads a workdir with its newest whole checkpoint.

    `config`, where given, may set how it is evaluated and on which mesh, and name other
    data or the same at another place; an empty `data.path` stays as it was trained.
    Where it is not, and the mesh of the training does not fit the devices here, the
    model is split over all of them. Its data may hold media where it was trained on
    features, and the other way round.

    Raises:
        ConfigError: the workdir holds no run, or `config` differs in anything else.
        ValueError: it holds no whole checkpoint.
    """
    trained = read_stored(workdir)
    if config is None:
        config, mesh = trained, _mesh_here(trained.mesh)
    else:
        config = _asked(config, trained, workdir)
        mesh = sharding.make_mesh(config.mesh)
    config = recognised(config)
    packed = prepare_data(config, workdir)
    source = open_split(config, packed, "train")
    tokenizer = prepare_tokenizer(config, workdir, source)
    with Checkpoints(workdir / "checkpoints", keep=config.train.keep) as checkpoints:
        step = checkpoints.newest()
        if step is None:
            raise ValueError(
                f"{workdir} holds no whole checkpoint: go on with `deemo train`"
            )
        abstract = abstract_state(config, mesh).params
        params = checkpoints.restore(step, {"params": abstract})["params"]
    check_towers(source.encoding, params, packed)
    return Run(
        workdir=workdir,
        config=config,
        mesh=mesh,
        packed=packed,
        tokenizer=tokenizer,
        model=nnx.merge(split_model(config)[0], params),
        step=step,
    )


def _mesh_here(trained: MeshConfig) -> Mesh:
    try:
        return sharding.make_mesh(trained)
    except ConfigError:
        return sharding.make_mesh(MeshConfig(fsdp=-1))


def _asked(config: Config, trained: Config, workdir: AnyPath) -> Config:
    """The configuration of the training with what `config` may set."""
    data = dataclasses.replace(
        trained.data,
        path=config.data.path or trained.data.path,
        max_length=config.data.max_length,  # other clips may need more
        workers=config.data.workers,
        prefetch=config.data.prefetch,
    )
    asked = dataclasses.replace(
        trained, data=data, mesh=config.mesh, evaluate=config.evaluate
    )
    allowed = r"data\.(path|features)|train\.(steps|log_every|save_every|keep)"
    if changed := differences(asked, config, allowed):
        raise ConfigError(
            f"--config describes another run than the one trained in {workdir} "
            f"({'; '.join(changed)}); leave it out, or override its keys alone, such "
            "as --config.evaluate.batch_size=8"
        )
    return asked


def untrained(run: Run) -> Run:
    """The run as it was before its first step, as a baseline."""
    with jax.set_mesh(run.mesh):
        params = initial_params(run.config, run.mesh)
    model = nnx.merge(split_model(run.config)[0], params)
    return dataclasses.replace(run, model=model, step=0)


def evaluate_run(
    run: Run,
    *,
    baseline: Results | None = None,
    written: bool = True,
    progress: Progress | None = None,
) -> Results:
    """Both tasks on `evaluate.split`; writes `eval/STEP/` in the workdir.

    Raises:
        ConfigError: the run was trained on subjects of it.
    """
    source = open_split(run.config, run.packed, run.config.evaluate.split)
    check_unseen(run.workdir, source)
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


def evaluator(config: Config, workdir: AnyPath) -> Evaluate:
    """What the training loop calls for `evaluate.every`; opens the data when called.

    What was evaluated before the run was killed is read back.
    """

    def evaluate_now(
        model: DeemoLlama, step: int, got_on: Callable[[], None]
    ) -> Mapping[str, Any]:
        folder = workdir / "eval" / str(step)
        # The report is written last. What the first process finds holds for all.
        if broadcast((folder / REPORT).exists()):
            return to_json(read_results(folder))
        packed = prepare_data(config, workdir)
        source = open_split(config, packed, "train")
        run = Run(
            workdir=workdir,
            config=config,
            mesh=sharding.make_mesh(config.mesh),
            packed=packed,
            tokenizer=prepare_tokenizer(config, workdir, source),
            model=model,
            step=step,
        )
        return to_json(evaluate_run(run, progress=lambda *_: got_on()))

    return evaluate_now


def export_run(
    run: Run,
    output: Path,
    *,
    adapter: bool = False,
    dtype: str = "float32",
    verify: bool = True,
) -> Mapping[str, Any] | None:
    """Writes the run's model for PyTorch, proved in float32 on rows of its own data.

    LoRA is merged into the weights; with `adapter`, it lies apart in `OUTPUT/adapter`,
    as `peft` has it, and what is proved are the weights without it. The weights are
    stored in `dtype`. Without `verify` nothing is proved, and None is returned.

    Raises:
        ExportError: PyTorch computes something else, or there is no LoRA to lie apart.
    """
    source = open_split(run.config, run.packed, "train")
    emotions = source.taxonomy.emotions
    batches = (
        []  # noise is proved on, where there are no media
        if not verify or source.encoding is not None
        else [
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
            for task in source.answered(run.config.data.tasks)
        ]
    )
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
    facts = {(row.verdict, row.deidentification) for row in source}
    plain = nnx.eval_shape(lambda: DeemoLlama(run.config.model, rngs=nnx.Rngs(0)))
    params = base_params(run.model) if adapter else merge_lora(run.model)
    # As in the card: runs are called by their last part, not by where they lie here.
    ledger = [
        dataclasses.replace(entry, run=PurePath(entry.run).name)
        for entry in handed_on(run.workdir)
    ]
    return export(
        nnx.merge(nnx.graphdef(plain), jax.device_get(params)),
        run.tokenizer,
        output,
        card=Card(
            name=output.name,
            data=source.name,
            about_data="Its clips are generated; no person is in them."
            if all(verdict == "generated" for verdict, _ in facts)
            else "",
            deidentification=tuple(sorted({version for _, version in facts})),
            steps=run.step,
            started_from=bases(run.config),
            config=to_dict(run.config),
            metrics=metrics,
            instructions={
                task: tasks.instruction(task, emotions)
                for task in source.answered(run.config.data.tasks)
            },
            adapter="adapter" if adapter else "",
            people=len({name for entry in ledger for name in entry.subjects}),
        ),
        taxonomy=source.taxonomy,
        batches=batches,
        dtype=dtype,
        verify=verify,
        max_new_tokens=run.config.evaluate.max_new_tokens,
        adapter=run.model if adapter else None,
        ledger=to_lines(ledger),
    )
