"""A small model learns from what it sees which body language is shown, and when."""

import json
import os
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "data.tasks": "('nfbl_which','nfbl_when')",
    "data.task_weights": "(1.0,1.0)",
    "data.synthetic.train_clips": "400",
    "data.synthetic.test_clips": "128",
    "train.steps": "600",
    "train.save_every": "200",
}


@pytest.mark.slow  # minutes: a model is trained, compiled as users have it
def test_it_is_learned(tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""}
    words = [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    for command in (["train", "--config=configs/tiny.py", *words], ["evaluate"]):
        subprocess.run(
            [sys.executable, "-m", "deemo_jax", *command, f"--workdir={tmp_path}"],
            cwd=ROOT, env=environment, check=True,
        )  # fmt: skip
    kept = json.loads((tmp_path / "eval" / "600" / "metrics.json").read_text())
    which, when = kept["nfbl"]["which"], kept["nfbl"]["when"]
    assert which["classes"]["micro"] > 2 * which["commonest"]["micro"]
    assert when["iou"] > when["iou_of_all"]
    assert when["never"] > 0.5
