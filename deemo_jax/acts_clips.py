"""What the verbs do that make records of clips; the rooms do the work."""

from pathlib import Path

from deemo_jax.annotation import one_name
from deemo_jax.config import Config, ConfigError
from deemo_jax.deidentify.settings import Settings
from deemo_jax.exits import DONE, FAILED, SOME_REFUSED
from deemo_jax.progress import bars
from deemo_jax.storage import AnyPath, alone_in


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
    return code_of(summary.rejected, summary.output / "rejected.jsonl")


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
    code = code_of(summary.rejected, output / "rejected.jsonl")
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

    with bars() as progress, alone_in(output):
        summary = audit_folder(
            input,
            output,
            settings=config,
            workers=workers,
            show_originals=show_originals,
            progress=progress,
        )
    print(summary.describe())
    if summary.verdicts:
        print(f"report: {output / FOLDER / 'report.html'}")
    code = code_of(summary.rejected, output / FOLDER / "rejected.jsonl")
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
    runs: AnyPath | None,
    purge: bool,
    features: bool,
    dtype: str,
    config: Config | None,
) -> int:
    """Packs a de-identified folder into shards of records, or sees to a packed one."""
    if (check or reindex or withdraw or purge) and not output.is_dir():
        raise ConfigError(
            f"--output is {output}, where no folder is; give one that was packed"
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

        with bars() as progress, alone_in(output):
            listed = integrity.reindex(output, progress=progress)
        print(f"{listed} records are listed in the indexes of {output}")
        return DONE
    if purge:
        from deemo_jax.data import withdraw as consent

        with bars() as progress, alone_in(output):
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
    return code_of(summary.rejected, input / REJECTED)


def _check(folder: Path) -> int:
    from deemo_jax.data import integrity

    with bars() as progress:
        problems = integrity.check(folder, progress=progress)
    for problem in problems:
        print(problem)
    print(f"{folder}: {len(problems) or 'no'} problem{'s' * (len(problems) != 1)}")
    return FAILED if problems else DONE


def _withdraw(folder: Path, subject: str, salt_file: Path | None, runs: AnyPath) -> int:
    from deemo_jax.data import withdraw as consent
    from deemo_jax.data.pack import read_salt
    from deemo_jax.data.record import pseudonym
    from deemo_jax.train.seen import who_saw

    if salt_file is None or not salt_file.exists():
        raise ConfigError(
            f"the salt that tells {subject!r} by its pseudonym is not "
            f"{'given' if salt_file is None else f'at {salt_file}'}: give "
            "--salt_file=FOLDER/salt.txt of the folder that was packed"
        )
    salt, subject = read_salt(salt_file), one_name(subject)
    # First what may be wrong with the runs: to withdraw is not to be cut short by it.
    seen = who_saw(pseudonym(salt, "subject", subject), runs)
    is_known = any(each.trained for each in seen)
    with alone_in(folder):
        clips = consent.withdraw(folder, subject, salt=salt, is_known=is_known)
    print(
        f"{clips or 'no'} clips of {subject} are left out of {folder}, and none will "
        "be packed into it; bytes of theirs that are in its shards are gone once "
        f'--purge has rewritten these. Where the clips came from, write "consent": '
        '"withdrawn" into the annotations; from other folders that were packed of '
        f"them, and from features, withdraw {subject} likewise (--output)."
    )
    for each in seen:
        print(f"seen by {each.describe()}")
    if not seen:
        print(f"no run in {runs} has seen them, nor any export there")
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


def code_of(rejected: int, listed: AnyPath) -> int:
    """The exit code of a verb that refused some inputs; says where they are listed."""
    if rejected:
        print(f"{rejected} refused, see {listed}")
    return SOME_REFUSED if rejected else DONE
