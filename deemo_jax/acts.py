"""What each verb of the command line does; the rooms do the work."""

from pathlib import Path

from deemo_jax.config import Config, ConfigError
from deemo_jax.config_data import TASKS
from deemo_jax.deidentify.settings import Settings
from deemo_jax.exits import DONE, FAILED, PREEMPTED, SOME_REFUSED
from deemo_jax.progress import bars
from deemo_jax.storage import AnyPath


def annotate(
    *,
    format: str,
    input: str,
    media: Path,
    output: Path | None,
    taxonomy: Path | None,
    transcripts: Path | None,
    subjects: Path | None,
    subject_pattern: str,
    subject_per_clip: bool,
    fps: str,
    language: str,
) -> int:
    """Writes `annotations.jsonl` from the files of another data set."""
    from deemo_jax.annotate.folder import annotate_folder
    from deemo_jax.annotate.who import read_who

    with bars() as progress:
        summary = annotate_folder(
            [Path(name) for name in input.split(",")],
            media,
            output,
            format=format,
            who=read_who(subject_pattern, subjects, subject_per_clip),
            taxonomy=taxonomy,
            transcripts=transcripts,
            fps=_number("fps", fps),
            language=language,
            progress=progress,
        )
    print(summary.describe())
    return _code(summary.rejected, summary.output / "rejected.jsonl")


def deidentify(
    *, input: Path, output: Path, workers: int, config: Settings | None
) -> int:
    """Masks faces and changes voices of every clip in a folder."""
    from deemo_jax.deidentify.folder import deidentify_folder

    with bars() as progress:
        summary = deidentify_folder(
            input, output, settings=config, workers=workers, progress=progress
        )
    print(summary.describe())
    code = _code(summary.rejected, output / "rejected.jsonl")
    return SOME_REFUSED if summary.failed else code


def audit(
    *,
    input: Path,
    output: Path,
    workers: int,
    show_originals: bool,
    config: Settings | None,
) -> int:
    """Measures what de-identification left of faces and voices, clip by clip."""
    from deemo_jax.deidentify.audit_folder import FOLDER, audit_folder

    with bars() as progress:
        summary = audit_folder(
            input,
            output,
            settings=config,
            workers=workers,
            show_originals=show_originals,
            progress=progress,
        )
    print(summary.describe())
    print(f"report: {output / FOLDER / 'report.html'}")
    code = _code(summary.rejected, output / FOLDER / "rejected.jsonl")
    return SOME_REFUSED if summary.failed else code


def pack(
    *,
    input: Path | None,
    output: Path,
    name: str,
    salt_file: Path | None,
    shards: int,
    format: str,
    stratify: bool,
    window: int,
    hop: int,
    allow_unaudited: bool,
    check: bool,
    reindex: bool,
    withdraw: str,
    runs: Path | None,
    purge: bool,
    features: bool,
    dtype: str,
    config: Config | None,
) -> int:
    """Packs a de-identified folder into shards of records, or sees to a packed one."""
    asked = [check, reindex, bool(withdraw), purge, features]
    if sum(asked) > 1:
        raise ConfigError(
            "give --check, --reindex, --withdraw, --purge, --features one after another"
        )
    if check:
        return _check(output)
    if withdraw:
        salt_file = salt_file or (input / "salt.txt" if input else None)
        return _withdraw(output, withdraw, salt_file, runs or Path("runs"))
    # While this is imported, the thread that draws the bars cannot import.
    import tensorflow_datasets  # noqa: F401

    if reindex:
        from deemo_jax.data import integrity

        with bars() as progress:
            listed = integrity.reindex(output, progress=progress)
        print(f"{listed} records are listed in the indexes of {output}")
        return DONE
    if purge:
        from deemo_jax.data import withdraw as consent

        with bars() as progress:
            gone = consent.purge(output, progress=progress)
        print(f"{gone} clips are gone from the shards of {output}, and from no copy")
        return DONE
    if input is None or not (config if features else name):
        missing = "--input" if input is None else "--config" if features else "--name"
        raise ConfigError(f"{missing} is missing; see `deemo pack --help`")
    if features:
        from deemo_jax.features import answer

        print(answer(config, input, output, dtype=dtype, shards=shards))
        return DONE
    from deemo_jax.data.pack import REJECTED, pack_folder
    from deemo_jax.data.windows import windowing_of

    with bars() as progress:
        summary = pack_folder(
            input,
            output,
            name=name,
            salt_file=salt_file,
            shards=shards,
            format=format,
            stratify=stratify,
            windowing=windowing_of(name, window, hop),
            allow_unaudited=allow_unaudited,
            progress=progress,
        )
    print(summary.describe())
    return _code(summary.rejected, input / REJECTED)


def _check(folder: Path) -> int:
    from deemo_jax.data import integrity

    with bars() as progress:
        problems = integrity.check(folder, progress=progress)
    for problem in problems:
        print(problem)
    print(f"{folder}: {len(problems) or 'no'} problem{'s' * (len(problems) != 1)}")
    return FAILED if problems else DONE


def _withdraw(folder: Path, subject: str, salt_file: Path | None, runs: Path) -> int:
    from deemo_jax.data import withdraw as consent
    from deemo_jax.data.pack import read_salt
    from deemo_jax.data.record import pseudonym

    if salt_file is None or not salt_file.exists():
        raise ConfigError(
            f"the salt that tells {subject!r} by its pseudonym is not "
            f"{'given' if salt_file is None else f'at {salt_file}'}: give "
            "--salt_file=FOLDER/salt.txt of the folder that was packed"
        )
    salt = read_salt(salt_file)
    clips = consent.withdraw(folder, subject, salt=salt)
    print(
        f"{clips} clips of {subject} are left out of {folder}; their bytes are in its "
        f"shards until --purge rewrites them. Where the clips came from, write "
        f'"consent": "withdrawn" into the annotations.'
    )
    seen = consent.runs_that_saw(pseudonym(salt, "subject", subject), runs)
    for run in seen:
        print(f"seen by {run.describe()}")
    if not seen:
        print(f"no run in {runs} has seen them")
    return DONE


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
        from deemo_jax.train.loop import train as run
        from deemo_jax.train.preemption import Preempted
        from deemo_jax.train.profile import read_steps
        from deemo_jax.workdir import evaluator

        steps = read_steps(profile_steps)
        ask = evaluator(config, workdir)
        try:
            run(config, workdir, evaluate=ask, profile_steps=steps)
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
    config: Config | None,
) -> int:
    """Asks the newest model of a workdir about every clip of a de-identified folder."""
    from deemo_jax.workdir import ask, open_run

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
    answers, rejected = ask(run, input, question or task, label)
    for clip_id, text in answers.items():
        print(f"{clip_id}: {text}")
    return _code(len(rejected), workdir / "generate" / str(run.step) / "rejected.jsonl")


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


def _number(name: str, text: str) -> float | None:
    """A flag that is a positive number, or None where it is not given."""
    try:
        number = float(text) if text else 1.0
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ConfigError(f"--{name} is {text!r}; give a number above 0")
    return number if text else None


def _check_dtype(dtype: str, known: tuple[str, ...]) -> None:
    if dtype not in known:
        raise ConfigError(f"--dtype is {dtype!r}; it must be one of {', '.join(known)}")


def _code(rejected: int, listed: AnyPath) -> int:
    if rejected:
        print(f"{rejected} refused, see {listed}")
    return SOME_REFUSED if rejected else DONE
