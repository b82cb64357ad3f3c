"""Weights & Biases, its files read as it reads them."""

import importlib.util
import json
import os
import subprocess
import sys
import time

import pytest

from deemo_jax.config import ConfigError
from deemo_jax.train.wandb_board import PROJECT, WandbBoard, wandb_is_asked_for

BLOCK = 32768


def logged(data):
    """What a log of LevelDB's format holds after the seven bytes that W&B begins with:
    records (checksum, length, kind, part of a message), none of them over blocks."""
    at, message = 7, b""
    while at < len(data):
        if BLOCK - at % BLOCK < 7:  # no room for another
            at += BLOCK - at % BLOCK
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        message += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield message
            message = b""


def test_weights_and_biases_asked_for_and_not_there_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert not wandb_is_asked_for()
    monkeypatch.setenv(PROJECT, "deemo")
    with pytest.raises(ConfigError, match=r"deemo-jax\[wandb\]"):
        wandb_is_asked_for()


@pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="the extra wandb brings it"
)
def test_a_run_of_weights_and_biases_goes_on_under_its_name(tmp_path, monkeypatch):
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore

    monkeypatch.setenv(PROJECT, "deemo")
    monkeypatch.setenv("WANDB_MODE", "offline")
    workdir = tmp_path / "tune"
    workdir.mkdir()
    (workdir / "run_id").write_text("0123456789abcdef\n")
    (workdir / "config.json").write_text('{"seed": 3}')
    # It failed after the second step, and had kept the first.
    for steps, code in (((1, 2), 1), ((2, 3), 0)):
        board = WandbBoard(workdir)
        for step in steps:
            board.write(step, {"loss": 1 / step})
        board.close(code)
        time.sleep(1.1)  # its folders are named by the second
    points, runs, codes = [], [], []
    for path in sorted(workdir.glob("wandb/offline-run-*/*.wandb")):
        for data in logged(path.read_bytes()):
            record = Record.FromString(data)
            if record.HasField("run"):
                runs.append(record.run)
            if record.HasField("exit"):
                codes.append(record.exit.exit_code)
            if record.HasField("history"):
                items = {
                    item.key or item.nested_key[0]: json.loads(item.value_json)
                    for item in record.history.item
                }
                points.append((items["step"], items["loss"]))
    assert {(run.project, run.run_id, run.display_name) for run in runs} == {
        ("deemo", "0123456789abcdef", "tune")
    }
    assert [
        json.loads(entry.value_json)
        for entry in runs[0].config.update
        if entry.key == "seed"
    ] == [3]
    assert codes == [1, 0]
    assert points == [(1, 1.0), (2, 0.5), (2, 0.5), (3, 1 / 3)]


@pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="the extra wandb brings it"
)
def test_without_a_key_a_run_goes_on(tmp_path):
    """In a process of its own: W&B reads its environment once."""
    (tmp_path / "run_id").write_text("0123456789abcdef\n")
    (tmp_path / "config.json").write_text("{}")
    program = (
        "import pathlib, sys\n"
        "from deemo_jax.train.wandb_board import WandbBoard\n"
        "board = WandbBoard(pathlib.Path(sys.argv[1]))\n"
        "board.write(1, {'loss': 0.5})\n"
        "board.close(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=os.environ | {PROJECT: "deemo", "HOME": str(tmp_path), "NETRC": "none"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "not shown in Weights & Biases: " in done.stderr
