"""Whether all processes of a run mean the same run: its settings and its workdir."""

import hashlib
import json
import time

import jax

from deemo_jax.config import Config, ConfigError, to_dict
from deemo_jax.data.tokenizer import Tokenizer
from deemo_jax.distributed import broadcast, is_first
from deemo_jax.storage import SEEN_SECONDS, AnyPath
from deemo_jax.train.local_checkpoints import RUN_ID

# What hosts may call by names of their own.
OWN = (("train", "local_folder"), ("data", "path"))


def check_agreement(config: Config, workdir: AnyPath) -> None:
    """Compares with process 0, which has written the `run_id` of the workdir.

    Raises:
      ConfigError: if this process was given other settings, or sees another workdir.
    """
    settings = to_dict(config)
    for group, name in OWN:
        settings[group].pop(name)
    mine = _digest(json.dumps(settings, sort_keys=True))
    path = workdir / RUN_ID
    # All processes come through both of these, whatever they find.
    firsts = broadcast(mine)
    run_id = broadcast(_digest(path.read_text()) if is_first() else 0)
    if firsts != mine:
        raise ConfigError(
            f"the settings of process {jax.process_index()} are not those of process "
            f"0; give all processes the same --config and the same overrides"
        )
    until = time.monotonic() + SEEN_SECONDS
    while not path.exists() or _digest(path.read_text()) != run_id:
        if time.monotonic() > until:
            raise ConfigError(
                f"--workdir={workdir} of process {jax.process_index()} is not the "
                f"folder that process 0 writes to; put it where all hosts see it, on a "
                f"shared file system or in gs://"
            )
        time.sleep(0.5)


def check_same_data(manifest: str, tokenizer: Tokenizer) -> None:
    """Compares records and tokenizer with those of process 0, in all processes.

    Each may have a copy of its own, and then it must be the same.

    Raises:
      ConfigError: if this process would read others.
    """
    words = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    for what, text, key in (
        ("records", manifest, "data.path"),
        ("tokenizer", f"{words}{tokenizer.chat_template}", "data.tokenizer"),
    ):
        mine = _digest(text)
        if broadcast(mine) != mine:
            raise ConfigError(
                f"the {what} of process {jax.process_index()} are not those of process "
                f"0; give all hosts the same config.{key}, or copies of the same folder"
            )


def _digest(text: str) -> int:
    """31 bits, which processes can tell each other."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1
