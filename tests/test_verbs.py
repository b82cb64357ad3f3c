"""Every verb declares what its function takes, and says what it does."""

import inspect
import json

import pytest

from deemo_jax import cli, verbs
from deemo_jax.export.parity import ExportError


@pytest.mark.parametrize(("name", "verb"), verbs.VERBS.items())
def test_the_function_takes_exactly_the_flags(name, verb):
    taken = set(inspect.signature(verb.act).parameters)
    declared = {flag.name for flag in verb.flags}
    assert taken == declared | ({"config"} if verb.config != "none" else set())
    assert verb.example.startswith(f"deemo {name} ")


def test_refused_inputs_exit_3_and_are_listed(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "annotations.jsonl").write_text("not json\n")
    words = ["deidentify", f"--input={raw}", f"--output={tmp_path / 'out'}"]
    assert cli.main(words) == 3
    out = capsys.readouterr().out
    assert "1 refused" in out
    listed = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert json.loads(listed[0])["line"] == 1


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


def test_an_unknown_task_is_refused_before_anything_is_read(capsys):
    words = ["generate", "--workdir=none", "--input=none", "--task=singing"]
    assert cli.main(words) == 2
    assert "'singing'; it must be one of recognition" in capsys.readouterr().err
