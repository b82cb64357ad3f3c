"""What verbs do with what they are given, and their exit codes."""

import numpy as np
import pytest

from deemo_jax import cli
from deemo_jax.export.parity import ExportError

FRAME = np.zeros((16, 16, 3), np.uint8)


def test_an_unknown_dtype_is_refused_before_anything_is_read(capsys):
    words = ["export", "--workdir=none", "--output=none", "--dtype=int8"]
    assert cli.main(words) == 2
    assert "'int8'; it must be one of float32, bfloat16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "asked"), [("--verify", True), ("--noverify", False),
                        ("--verify=false", False), ("--adapter", True)],
)  # fmt: skip
def test_export_proves_unless_told_not_to(word, asked, monkeypatch, capsys):
    seen = {}

    def export_run(run, output, **asked):
        seen.update(asked)
        if asked["verify"]:
            raise ExportError("PyTorch does not compute what was trained")

    monkeypatch.setattr("deemo_jax.workdir.open_run", lambda *_: None)
    monkeypatch.setattr("deemo_jax.workdir.export_run", export_run)
    code = cli.main(["export", "--workdir=w", "--output=o", word])
    assert seen["verify"] is asked
    assert code == (1 if asked else 0)
    out = capsys.readouterr()
    assert ("does not compute" in out.err) == asked
    assert ("not compared with PyTorch" in out.out) != asked


def test_an_unknown_task_is_refused_before_anything_is_read(capsys, tmp_path):
    words = ["generate", "--workdir=none", f"--input={tmp_path}", "--task=singing"]
    assert cli.main(words) == 2
    assert "'singing'; it must be one of recognition" in capsys.readouterr().err


SMALL = ["--config=configs/tiny.py", "--config.mesh.data=1"]
ALONE = "--process_count=1"  # whatever the environment says


def test_explaining_touches_nothing_and_ends(tmp_path, capsys):
    words = [
        "train",
        ALONE,
        *SMALL,
        f"--workdir={tmp_path / 'run'}",
        "--explain_sharding",
    ]
    assert cli.main([*words, "--config.mesh.fsdp=8"]) == 0
    out = capsys.readouterr().out
    assert "mesh: 8 devices, fsdp=8" in out
    assert "language_model/layers/mlp/up_proj/kernel" in out
    assert (
        cli.main([*words, "--config.mesh.fsdp=8", "--config.layout.tolerance=0"]) == 2
    )
    assert "config.layout.tolerance" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_step_of_no_run_cannot_be_run_again(tmp_path, capsys):
    words = ["train", ALONE, *SMALL, f"--workdir={tmp_path / 'run'}", "--replay=5"]
    assert cli.main(words) == 2
    assert "holds no run" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_steps_to_trace_are_read_before_anything_is_made(tmp_path, capsys):
    words = [
        "train",
        ALONE,
        *SMALL,
        f"--workdir={tmp_path / 'run'}",
        "--profile_steps=9:1",
    ]
    assert cli.main(words) == 2
    assert "FIRST:LAST" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
