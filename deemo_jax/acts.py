"""What the verbs do that train, evaluate and hand on; the rooms do the work."""

import functools
from pathlib import Path

from deemo_jax.acts_clips import code_of
from deemo_jax.config import Config, ConfigError
from deemo_jax.config_data import TASKS
from deemo_jax.exits import DONE, FAILED, PREEMPTED
from deemo_jax.progress import bars
from deemo_jax.storage import AnyPath


def train(
    *,
    workdir: AnyPath,
    config: Config,
    coordinator: str,
    process_count: int,
    process_index: int,
    explain_sharding: bool,
    replay: int,
    profile_steps: str,
) -> int:
    """Trains in a workdir, or goes on where it stopped; alone, or as one of several."""
    from deemo_jax.distributed import joined

    with joined(
        coordinator=coordinator,
        process_count=process_count,
        process_index=process_index,
        stall_seconds=config.train.stall_seconds,
    ):
        from deemo_jax.train.frozen import recognised

        config = recognised(config)
        if explain_sharding:
            return _explain_sharding(config)
        if replay:
            return _replay(config, workdir, replay)
        from deemo_jax.evaluate.figures import check_best
        from deemo_jax.train.loop import train as run
        from deemo_jax.train.preemption import Preempted
        from deemo_jax.train.profile import read_steps
        from deemo_jax.workdir import evaluator

        steps = read_steps(profile_steps)
        ask = evaluator(config, workdir)
        try:
            run(
                config,
                workdir,
                evaluate=ask,
                check_evaluation=functools.partial(check_best, config=config),
                profile_steps=steps,
            )
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


def _replay(config: Config, workdir: AnyPath, step: int) -> int:
    """Runs a recorded step again; 1 if it gives anything else than it gave."""
    from deemo_jax.distributed import is_first
    from deemo_jax.train.replay import replay as run

    replayed = run(config, workdir, step)
    if is_first():
        print(replayed.describe())
    return DONE if replayed.same else FAILED


def evaluate(*, workdir: AnyPath, config: Config | None) -> int:
    """Evaluates the newest checkpoint of a workdir on the tasks it was trained on."""
    from deemo_jax.workdir import evaluate_run, open_run

    run = open_run(workdir, config)
    with bars() as progress:
        results = evaluate_run(run, progress=progress)
    for line in results.describe():
        print(line)
    print(f"report: {workdir / 'eval' / str(run.step) / 'report.html'}")
    return DONE


def generate(
    *,
    workdir: AnyPath,
    input: Path,
    task: str,
    label: str,
    question: str,
    window: int,
    hop: int,
    config: Config | None,
) -> int:
    """Asks the newest model of a workdir about every clip of a de-identified folder."""
    from deemo_jax.ask import ask
    from deemo_jax.data.shards import read_splits
    from deemo_jax.data.windows import windowing_of
    from deemo_jax.workdir import open_run

    if task not in TASKS:
        raise ConfigError(f"--task is {task!r}; it must be one of {', '.join(TASKS)}")
    if question and label:
        raise ConfigError("--label is of --task=nfbl_when; leave it out, or --question")
    run = open_run(workdir, config)
    if not question and (task == "nfbl_when") != (label in run.taxonomy.nfbl):
        raise ConfigError(
            f"--label is {label!r}; with --task=nfbl_when it must be one of "
            f"{'; '.join(run.taxonomy.nfbl)}, and with another task it must be left out"
        )
    # By default it is shown as much at once as by default it was trained on.
    windowing = windowing_of(read_splits(run.packed)[0], window, hop)
    answers, rejected = ask(run, input, question or task, label, windowing)
    for clip_id, text in answers.items():
        print(f"{clip_id}: {text}")
    return code_of(
        len(rejected), workdir / "generate" / str(run.step) / "rejected.jsonl"
    )


def export(
    *,
    workdir: AnyPath,
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
    from deemo_jax.plan.answer import answer

    text = answer(
        config,
        topology=topology,
        largest_batch=largest_batch,
        scaling=scaling,
        as_json=json,
    )
    print(text)
    return DONE


def demo(*, workdir: Path, seed: int) -> int:
    """Runs the whole path on real and generated clips."""
    from deemo_jax.demo import demo as run

    run(workdir, seed=seed)
    return DONE


def _check_dtype(dtype: str, known: tuple[str, ...]) -> None:
    if dtype not in known:
        raise ConfigError(f"--dtype is {dtype!r}; it must be one of {', '.join(known)}")
