"""Weights & Biases, where its own variable `WANDB_PROJECT` asks for it."""

from collections.abc import Mapping
import importlib.util
import json
import os
import sys

from deemo_jax.config import ConfigError
from deemo_jax.storage import AnyPath, in_bucket
from deemo_jax.train.local_checkpoints import RUN_ID

PROJECT = "WANDB_PROJECT"


def wandb_is_asked_for() -> bool:
    """Whether a run is to be shown there.

    Raises:
      ConfigError: if it is, and what shows it is not installed.
    """
    if not os.environ.get(PROJECT):
        return False
    if importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            f"{PROJECT} is set, and wandb is not installed: pip install "
            "'deemo-jax[wandb]', or unset it"
        )
    return True


class WandbBoard:
    """A run of Weights & Biases, gone on with under the name in the workdir's `run_id`.

    What a killed run had shown of steps that are run again is shown twice, and is
    the same: points are placed by their `step`, not in the order of their coming.
    Without a key, or a network, the run goes on and is not shown there; it is said.
    """

    def __init__(self, workdir: AnyPath):
        import wandb

        self._run = None
        try:
            self._run = wandb.init(
                dir=None if in_bucket(workdir) else workdir,
                id=(workdir / RUN_ID).read_text().strip(),
                name=workdir.name,
                config=json.loads((workdir / "config.json").read_text()),
                resume="allow",
                settings=wandb.Settings(
                    console="off",  # `train.log` has it
                    finish_timeout=60,  # seconds that the end may wait for a network
                ),
            )
        except wandb.Error as error:
            said = " ".join(str(error).split())
            print(f"not shown in Weights & Biases: {said}", file=sys.stderr)
            return
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        """Shows each number under its name."""
        if self._run is not None:
            self._run.log({**values, "step": step})

    def close(self, exit_code: int) -> None:
        """Sends what was not sent yet, and with what exit code the run ends."""
        if self._run is not None:
            self._run.finish(exit_code)
