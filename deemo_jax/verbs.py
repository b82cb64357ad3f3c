"""What each verb of the command line takes and does; the rooms do the work."""

from collections.abc import Callable
import dataclasses
from json import dumps
from pathlib import Path
from typing import Any

from deemo_jax.config import TASKS, Config, ConfigError
from deemo_jax.progress import bars

DONE, SOME_REFUSED = 0, 3
# Packages that some verbs need, and the extra of setup.py that brings each.
EXTRAS = {"onnx": "deidentify", "onnxruntime": "deidentify", "torch": "export"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flag:
    """A flag of a verb: of its default's type, and required where there is none."""

    name: str
    help: str
    default: str | int | bool | None = None
    required: bool = True
    is_path: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verb:
    """One thing `deemo` does; `act` takes its flags as keywords, returns the exit code.

    `config` says whether it takes `--config`: "needed", "optional" or "none".
    """

    summary: str
    example: str
    flags: tuple[Flag, ...]
    act: Callable[..., int]
    config: str = "none"


def deidentify(*, input: Path, output: Path) -> int:
    """Masks faces and changes voices of every clip in a folder."""
    from deemo_jax.deidentify.folder import deidentify_folder

    with bars() as progress:
        summary = deidentify_folder(input, output, progress=progress)
    print(summary.describe())
    return _code(summary.rejected, output / "rejected.jsonl")


def pack(
    *, input: Path, output: Path, name: str, salt_file: Path | None, shards: int
) -> int:
    """Packs a de-identified folder into TFRecord shards."""
    # While this is imported, the thread that draws the bars cannot import.
    import tensorflow_datasets  # noqa: F401

    from deemo_jax.data.pack import REJECTED, pack_folder

    with bars() as progress:
        summary = pack_folder(
            input,
            output,
            name=name,
            salt_file=salt_file,
            shards=shards,
            progress=progress,
        )
    print(summary.describe())
    return _code(summary.rejected, input / REJECTED)


def train(
    *,
    workdir: Path,
    config: Config,
    coordinator: str,
    process_count: int,
    process_index: int,
    explain_sharding: bool,
) -> int:
    """Trains in a workdir, or goes on where it stopped; alone, or as one of several."""
    from deemo_jax.distributed import join

    join(
        coordinator=coordinator,
        process_count=process_count,
        process_index=process_index,
        stall_seconds=config.train.stall_seconds,
    )
    if explain_sharding:
        return _explain_sharding(config)
    from deemo_jax.train.loop import train as run
    from deemo_jax.train.preemption import PREEMPTED, Preempted
    from deemo_jax.workdir import evaluator

    try:
        run(config, workdir, evaluate=evaluator(config, workdir))
    except Preempted:
        return PREEMPTED
    return DONE


def _explain_sharding(config: Config) -> int:
    """Prints how the run would lie on the devices here, and refuses too many copies."""
    from deemo_jax.distributed import is_first
    from deemo_jax.sharding import check_rows, make_mesh
    from deemo_jax.train.explain import check_replication, explain

    mesh = make_mesh(config.mesh)
    check_rows(config.train.batch_size, mesh)
    if is_first():
        print(explain(config, mesh).describe())
    check_replication(config, mesh)
    return DONE


def evaluate(*, workdir: Path, config: Config | None) -> int:
    """Evaluates the newest checkpoint of a workdir on both tasks."""
    from deemo_jax.workdir import evaluate_run, open_run

    run = open_run(workdir, config)
    with bars() as progress:
        results = evaluate_run(run, progress=progress)
    for way, found in results.recognition.items():
        print(
            f"recognition by {way}: accuracy {found.accuracy:.3f}, "
            f"weighted F1 {found.weighted_f1:.3f}, macro F1 {found.macro_f1:.3f}, "
            f"UAR {found.uar:.3f}"
        )
    if results.reasoning is not None:
        means = results.reasoning
        print(
            f"reasoning, lexical scorer: word F1 {means.word_f1:.3f}, ROUGE-L "
            f"{means.rouge_l:.3f}, same emotion {means.same_emotion:.3f}"
        )
    print(f"report: {workdir / 'eval' / str(run.step) / 'report.html'}")
    return DONE


def generate(
    *,
    workdir: Path,
    input: Path,
    task: str,
    config: Config | None,
) -> int:
    """Asks the newest model of a workdir about every clip of a de-identified folder."""
    from deemo_jax.workdir import ask, open_run

    if task not in TASKS:
        raise ConfigError(f"--task is {task!r}; it must be one of {', '.join(TASKS)}")
    run = open_run(workdir, config)
    answers, rejected = ask(run, input, task)
    for clip_id, text in answers.items():
        print(f"{clip_id}: {text}")
    return _code(len(rejected), workdir / "generate" / str(run.step) / "rejected.jsonl")


def export(
    *,
    workdir: Path,
    output: Path,
    adapter: bool,
    dtype: str,
    verify: bool,
    config: Config | None,
) -> int:
    """Writes the newest model of a workdir as a Hugging Face folder, with proof."""
    from deemo_jax.export.folder import DTYPES
    from deemo_jax.workdir import export_run, open_run

    _check_dtype(dtype, DTYPES)
    run = open_run(workdir, config)
    measured = export_run(run, output, adapter=adapter, dtype=dtype, verify=verify)
    if measured is None:
        print(f"{output}: not compared with PyTorch, as was asked")
        return DONE
    print(
        f"{output}: PyTorch's logits differ by at most "
        f"{measured['max_abs_difference']:.2g}; the greedy text is the same"
    )
    if shorter := measured.get("computed_in_weights_dtype"):
        print(
            f"computed in {dtype}, they differ by at most "
            f"{shorter['max_abs_difference']:.2g}, and the most likely token is the "
            f"same for {shorter['top1_agreement']:.2%}"
        )
    return DONE


def convert(*, input: Path, output: Path, dtype: str) -> int:
    """Makes a folder that we and `transformers` read of a hub folder or a GGUF file."""
    from deemo_jax.export.convert import DTYPES
    from deemo_jax.export.convert import convert as run

    _check_dtype(dtype, ("keep", *DTYPES))
    done = run(input, output, dtype=None if dtype == "keep" else dtype)
    print(
        f"{output}: {done.parameters:,} parameters in {done.tensors} tensors, "
        f"{done.dtype}, {done.nbytes / 1e9:.2f} GB"
    )
    return DONE


def plan(
    *, config: Config, topology: str, largest_batch: bool, scaling: str, json: bool
) -> int:
    """Compiles the training step for hardware that is not there, and reports."""
    import jax

    from deemo_jax.plan import report, search
    from deemo_jax.plan.estimate import make_plan
    from deemo_jax.plan.topology import read_topology

    # Nothing is computed, and no device that happens to be here is taken.
    jax.config.update("jax_platforms", "cpu")
    if bool(topology) == bool(scaling):
        raise ConfigError("give either --topology or --scaling")
    found = [read_topology(name) for name in (topology or scaling).split(",")]
    if largest_batch and len(found) > 1:
        raise ConfigError("--largest_batch is looked for on one --topology")
    with bars() as progress:
        if scaling:
            plans = list(search.scaling(config, found, progress=progress))
        elif largest_batch:
            plans = [search.largest_batch(config, found[0], progress=progress)]
        else:
            plans = []
            for each in found:
                progress(f"compiling for {each.name}", 0, None)
                plans.append(make_plan(config, each))
                progress(f"compiling for {each.name}", 1, 1)
    if json:
        print(dumps([report.to_json(each) for each in plans], indent=2))
    elif len(plans) > 1:
        print(report.table(plans))
    else:
        print(report.describe(plans[0]))
    return DONE


def demo(*, workdir: Path, seed: int) -> int:
    """Runs the whole path on real and generated clips."""
    from deemo_jax.demo import demo as run

    run(workdir, seed=seed)
    return DONE


def _check_dtype(dtype: str, known: tuple[str, ...]) -> None:
    if dtype not in known:
        raise ConfigError(f"--dtype is {dtype!r}; it must be one of {', '.join(known)}")


def _code(rejected: int, listed: Path) -> int:
    if rejected:
        print(f"{rejected} refused, see {listed}")
    return SOME_REFUSED if rejected else DONE


def _folder(name: str, help: str, **kwargs: Any) -> Flag:
    return Flag(name=name, help=help, is_path=True, **kwargs)


WORKDIR = _folder(
    "workdir", "folder of the run: config, checkpoints, logs, evaluations"
)

VERBS: dict[str, Verb] = {
    "deidentify": Verb(
        summary="mask faces and change voices of every clip in a folder",
        example="deemo deidentify --input=clips --output=clips_deid",
        flags=(
            _folder("input", "folder with annotations.jsonl and the media"),
            _folder("output", "folder to write; run again, it goes on"),
        ),
        act=deidentify,
    ),
    "pack": Verb(
        summary="pack de-identified clips into TFRecord shards with an index",
        example="deemo pack --input=clips_deid --output=packed --name=deemo_mer",
        flags=(
            _folder("input", "folder that `deemo deidentify` wrote"),
            _folder("output", "folder to write, in the layout of TFDS"),
            Flag(name="name", help="of the data set: a-z, 0-9 and _"),
            _folder(
                "salt_file",
                "salt of the pseudonyms; default: INPUT/salt.txt, made if need be",
                required=False,
            ),
            Flag(name="shards", help="a split; default 8", default=8),
        ),
        act=pack,
    ),
    "train": Verb(
        summary="train, or go on where an earlier run of the workdir stopped",
        example="deemo train --config=configs/tiny.py --workdir=runs/tiny",
        flags=(
            WORKDIR,
            Flag(
                name="coordinator",
                help="HOST:PORT of process 0; found out on SLURM, MPI, TPU, GKE",
                default="",
            ),
            Flag(name="process_count", help="of the run; found out likewise",
                 default=-1),
            Flag(name="process_index", help="of this process, from 0; likewise",
                 default=-1),
            Flag(name="explain_sharding", help="true: say how every parameter and "
                 "activation would lie on the devices, and stop", default=False),
        ),
        act=train,
        config="needed",
    ),
    "evaluate": Verb(
        summary="score recognition and reasoning, write report.html",
        example="deemo evaluate --workdir=runs/tiny",
        flags=(WORKDIR,),
        act=evaluate,
        config="optional",
    ),
    "generate": Verb(
        summary="ask the model about every clip of a de-identified folder",
        example="deemo generate --workdir=runs/tiny --input=clips_deid",
        flags=(
            WORKDIR,
            _folder("input", "folder that `deemo deidentify` wrote"),
            Flag(name="task", help="recognition (default) or reasoning",
                 default="recognition"),
        ),
        act=generate,
        config="optional",
    ),
    "export": Verb(
        summary="write a Hugging Face folder for PyTorch, proved to compute the same",
        example="deemo export --workdir=runs/tiny --output=runs/tiny_pytorch",
        flags=(
            WORKDIR,
            _folder("output", "folder to write"),
            Flag(
                name="adapter",
                help="true: LoRA apart in OUTPUT/adapter, for `peft`; default: merged",
                default=False,
            ),
            Flag(name="dtype", help="of the weights: float32 (default), bfloat16, "
                 "float16", default="float32"),
            Flag(name="verify", help="false: no proof, and the card says so; default: "
                 "compare with PyTorch, exit 1 where it differs", default=True),
        ),
        act=export,
        config="optional",
    ),
    "convert": Verb(
        summary="make a folder to start from of a hub folder or a GGUF file",
        example="deemo convert --input=llama.gguf --output=llama --dtype=bfloat16",
        flags=(
            _folder("input", "Hugging Face folder of a LLaMA, ours too, or GGUF file"),
            _folder("output", "folder to write"),
            Flag(name="dtype", help="float32, bfloat16, float16; default: as it is",
                 default="keep"),
        ),
        act=convert,
    ),
    "plan": Verb(
        summary="compile the training step for hardware that is not there",
        example="deemo plan --config=configs/deemo_llama_7b.py:tune --topology=v5e-256",
        flags=(
            Flag(name="topology", help="v5e-256, v5p-512, 4xv6e-256, h100-8x8, …; of "
                 "several, by commas, a table",
                 default=""),
            Flag(name="largest_batch", help="true: look for the largest that fits",
                 default=False),
            Flag(name="scaling", help="topologies, by commas: a row for each, with as "
                 "many rows a chip as on the first", default=""),
            Flag(name="json", help="true: print JSON", default=False),
        ),
        act=plan,
        config="needed",
    ),
    "demo": Verb(
        summary="the whole path on real and generated clips, in minutes on a laptop",
        example="deemo demo --workdir=runs/demo",
        flags=(
            _folder("workdir", "folder to write", default="runs/demo"),
            Flag(name="seed", help="of corpus and training; default 0", default=0),
        ),
        act=demo,
    ),
}  # fmt: skip
