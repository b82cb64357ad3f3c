"""The command line: `deemo VERB --flag=value`, also as `python -m deemo_jax VERB`.

Exit codes: 0 done, 1 failed, 2 bad usage or config, 3 done but some inputs were
refused (they are listed in `rejected.jsonl`).
"""

import os
from pathlib import Path
import sys

from absl import flags
from ml_collections import config_flags

from deemo_jax import verbs
from deemo_jax.config import ConfigError, check_key, from_config_dict

FAILED, BAD_USAGE, INTERRUPTED = 1, 2, 130


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
    except (_UsageError, ConfigError, flags.Error) as error:
        return _complain(f"deemo {name}: {error}")
    try:
        return verb.act(**values)
    except ConfigError as error:
        return _complain(f"deemo {name}: {error}")
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("DEEMO_TRACEBACK"):
            raise
        print(f"deemo {name}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"\ndeemo {name}: interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED


class _UsageError(ValueError):
    """The words of the command are off."""


def parse(name: str, verb: verbs.Verb, arguments: list[str]) -> dict:
    """The verb's keyword arguments; `config`, where it takes one, as a `Config`."""
    values = flags.FlagValues()
    for flag in verb.flags:
        if isinstance(flag.default, bool):
            flags.DEFINE_boolean(flag.name, flag.default, flag.help, flag_values=values)
        elif isinstance(flag.default, int):
            flags.DEFINE_integer(flag.name, flag.default, flag.help, flag_values=values)
        else:
            flags.DEFINE_string(flag.name, flag.default, flag.help, flag_values=values)
    if verb.config != "none":
        for word in arguments:
            if word.startswith("--config."):
                check_key(word.removeprefix("--config.").split("=")[0])
        config_flags.DEFINE_config_file(
            "config", None, "the run", flag_values=values, sys_argv=["", *arguments]
        )
    try:
        rest = values(["deemo", *arguments])
        config = values["config"].value if verb.config != "none" else None
        # A config file that does not load says so only when it is looked into.
        resolved = None if config is None else config.copy_and_resolve_references()
        found = None if resolved is None else from_config_dict(resolved)
    except OSError as error:
        raise _UsageError(str(error).strip().splitlines()[-1].strip()) from error
    if len(rest) > 1:
        raise _UsageError(f"{rest[1]!r} is not a flag; flags look like --workdir=DIR")
    arguments_of_verb = {}
    for flag in verb.flags:
        value = values[flag.name].value
        if value is None and flag.required:
            raise _UsageError(f"--{flag.name} is missing; try: {verb.example}")
        if flag.is_path and value is not None:
            value = Path(str(value))
        arguments_of_verb[flag.name] = value
    if verb.config != "none":
        if found is None and verb.config == "needed":
            raise _UsageError(f"--config is missing; try: {verb.example}")
        arguments_of_verb["config"] = found
    return arguments_of_verb


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
        shown.append(
            ("config", "configs/NAME.py[:STAGE]; --config.train.steps=100 overrides")
        )
    rows = [f"  --{flag:<14}{text}" for flag, text in shown]
    return "\n".join(
        [f"deemo {name}: {verb.summary}", "", *rows, "", f"example: {verb.example}"]
    )
