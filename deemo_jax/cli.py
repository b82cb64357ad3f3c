"""The command line: `deemo VERB --flag=value`, also as `python -m deemo_jax VERB`.

Exit codes: 0 done, 1 failed, 2 bad usage or config, 3 done but some inputs were
refused (they are listed in `rejected.jsonl`), 75 asked to stop and saved, 76 hung or
without the other processes; after the last two the same command goes on.
"""

from collections.abc import Mapping
import errno
import os
import re
import sys
from typing import Any

from absl import flags
import ml_collections
from ml_collections import config_flags

from deemo_jax import verbs
from deemo_jax.config import Config, read_config_dict, read_stored, to_dict
from deemo_jax.deidentify.settings import Settings
from deemo_jax.exits import BAD_USAGE, INTERRUPTED, exit_code_of
from deemo_jax.fields import check_key
from deemo_jax.storage import in_bucket, locate


def run() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(argv: list[str]) -> int:
    """Runs one verb and returns the exit code."""
    if not argv or argv[0] in ("--help", "-h", "help"):
        print(_overview())
        return 0 if argv else BAD_USAGE
    name, arguments = argv[0], argv[1:]
    verb = verbs.VERBS.get(name)
    if verb is None:
        known = ", ".join(verbs.VERBS)
        return _complain(f"deemo: there is no verb {name!r}; choose one of {known}")
    if "--help" in arguments or "-h" in arguments:
        print(_usage(name, verb))
        return 0
    try:
        values = parse(name, verb, arguments)
        _check_read(verb, values)
        return verb.act(**values)
    except flags.Error as error:
        return _complain(f"deemo {name}: {error}")
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get("DEEMO_TRACEBACK") and exit_code_of(error) != BAD_USAGE:
            raise
        print(f"deemo {name}: {error}{_remedy(error)}", file=sys.stderr)
        return exit_code_of(error)
    except KeyboardInterrupt:
        print(f"\ndeemo {name}: interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED


def _remedy(error: Exception) -> str:
    """What to install, where the package of an extra is missing; to make room."""
    # A checkpoint's own writer says it in words alone, with no error number.
    if os.strerror(errno.ENOSPC) in str(error):
        return ": make room, the same command goes on"
    if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError):
        return ": name a folder where one is asked for, and a file where that is"
    package = error.name if isinstance(error, ImportError) else None
    extra = verbs.EXTRAS.get((package or "").split(".")[0])
    return f": pip install 'deemo-jax[{extra}]'" if extra else ""


class _UsageError(ValueError):
    """The words of the command are off."""

    exit_code = BAD_USAGE


def parse(name: str, verb: verbs.Verb, arguments: list[str]) -> dict:
    """The verb's keyword arguments; `config`, where it takes one, as its settings."""
    values = flags.FlagValues()
    for flag in verb.flags:
        if isinstance(flag.default, bool):
            flags.DEFINE_boolean(flag.name, flag.default, flag.help, flag_values=values)
        elif isinstance(flag.default, int):
            flags.DEFINE_integer(flag.name, flag.default, flag.help, flag_values=values)
        else:
            flags.DEFINE_string(flag.name, flag.default, flag.help, flag_values=values)
    words = [re.sub(r"^--?(?=config\b)", "--", word) for word in arguments]
    overridden = [w for w in words if w.startswith("--config.")]
    for word in overridden:
        check_key(verb.settings, word.removeprefix("--config.").split("=")[0])
    named = any(re.match(r"--config(=|$)", word) for word in words)
    if verb.config == "optional" and overridden and not named:
        # They override what the workdir was trained with, or the defaults.
        if verb.settings is Config and "workdir" not in values:
            raise _UsageError(f"--config is missing; try: {verb.example}")
        if verb.settings is Config:
            values(["deemo", *words], known_only=True)
            stored = read_stored(locate(str(values["workdir"].value)))
        else:
            stored = Settings()
        config_flags.DEFINE_config_dict(
            "config",
            ml_collections.ConfigDict(to_dict(stored)),
            "the run",
            flag_values=values,
            sys_argv=["", *words],
        )
    elif verb.config != "none":
        config_flags.DEFINE_config_file(
            "config", None, "the run", flag_values=values, sys_argv=["", *words]
        )
    try:
        rest = values(["deemo", *words])
        config = values["config"].value if verb.config != "none" else None
        # A config file that does not load says so only when it is looked into.
        resolved = None if config is None else config.copy_and_resolve_references()
    except flags.Error:
        raise
    except Exception as error:  # a config file may hold any mistake
        last = str(error).strip().splitlines()[-1].strip() if str(error) else ""
        raise _UsageError(f"{type(error).__name__}: {last}") from error
    found = None if resolved is None else read_config_dict(resolved, verb.settings)
    if len(rest) > 1:
        raise _UsageError(f"{rest[1]!r} is not a flag; flags look like --workdir=DIR")
    for mode in filter(None, verb.modes):
        if values[mode].present and values[mode].value == "":  # of an unset variable
            raise _UsageError(f"--{mode} is empty; leave it out, or give what it takes")
    if verb.modes:
        _check_mode(
            verb,
            asked=[mode for mode in verb.modes if mode and values[mode].value],
            given={name for name in values if values[name].present},
        )
    arguments_of_verb = {}
    for flag in verb.flags:
        value = values[flag.name].value
        if value is None and flag.required:
            raise _UsageError(f"--{flag.name} is missing; try: {verb.example}")
        if flag.is_path and value == "":  # likewise
            raise _UsageError(f"--{flag.name} is empty; name a folder or a file")
        if flag.is_path and value is not None:
            value = locate(str(value))
            if in_bucket(value) and not flag.in_bucket:
                raise _UsageError(
                    f"--{flag.name} is {value}, but must be on this machine; copy it "
                    f"with `gcloud storage cp --recursive`"
                )
        arguments_of_verb[flag.name] = value
    if verb.config != "none":
        if found is None and verb.config == "needed":
            raise _UsageError(f"--config is missing; try: {verb.example}")
        arguments_of_verb["config"] = found
    return arguments_of_verb


def _check_read(verb: verbs.Verb, values: Mapping[str, Any]) -> None:
    """Refuses a path that is to be read, and where nothing is."""
    for flag in verb.flags:
        path = values[flag.name]
        if flag.is_read and path is not None and not path.exists():
            wanted = flag.help.partition(";")[0]
            raise _UsageError(
                f"--{flag.name} is {path}, where nothing is; give the {wanted}"
            )


def _check_mode(verb: verbs.Verb, *, asked: list[str], given: set[str]) -> None:
    """Refuses several modes at once, and flags that the one asked for leaves be."""
    if len(asked) > 1:
        raise _UsageError(f"give --{' and --'.join(asked)} one after another")
    mode = asked[0] if asked else ""
    others = {name for names in verb.modes.values() for name in names}
    for name in sorted(given & others - {*verb.modes[mode]}):
        beside = (
            f"with --{mode}"
            if mode
            else "without "
            + " or ".join(f"--{m}" for m, names in verb.modes.items() if name in names)
        )
        raise _UsageError(f"--{name} does nothing {beside}: leave it out")


def _complain(message: str) -> int:
    print(message, file=sys.stderr)
    return BAD_USAGE


def _overview() -> str:
    lines = [f"  {name:<12}{verb.summary}" for name, verb in verbs.VERBS.items()]
    return "\n".join(
        [
            "deemo: emotion understanding without identity, on JAX",
            "",
            "usage: deemo VERB --flag=value …",
            "",
            *lines,
            "",
            "deemo VERB --help shows the flags and an example that works.",
        ]
    )


def _usage(name: str, verb: verbs.Verb) -> str:
    shown = [(flag.name, flag.help) for flag in verb.flags]
    if verb.config != "none":
        about = "configs/NAME.py[:STAGE]; --config.train.steps=100 overrides"
        if verb.settings is not Config:
            about = "configs/deidentify.py; --config.mask.method=solid overrides"
        shown.append(("config", about))
    width = max(14, *(len(flag) + 1 for flag, _ in shown))
    rows = [f"  --{flag:<{width}}{text}" for flag, text in shown]
    return "\n".join(
        [f"deemo {name}: {verb.summary}", "", *rows, "", f"example: {verb.example}"]
    )
