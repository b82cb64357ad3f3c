"""Every verb declares what its function takes, and says what it does."""

import inspect
import json

import pytest

from deemo_jax import cli, verbs


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


def test_an_unknown_task_is_refused_before_anything_is_read(capsys):
    words = ["generate", "--workdir=none", "--input=none", "--task=singing"]
    assert cli.main(words) == 2
    assert "'singing'; it must be one of recognition" in capsys.readouterr().err
