"""The command line: what it says, and the code it exits with."""

import copy
import dataclasses
import errno
import json
import os
import subprocess
import sys

import pytest

from configs import tiny
from deemo_jax import cli, verbs
from deemo_jax.config import from_config_dict, to_dict
from deemo_jax.deidentify.settings import Mask, Settings

TRAIN = ["train", "--workdir=x", "--config=configs/tiny.py"]


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_help_lists_every_verb(words, capsys):
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name}" in out for name in verbs.VERBS)


@pytest.mark.parametrize("name", verbs.VERBS)
def test_help_of_a_verb_shows_its_flags_and_an_example_that_parses(name, capsys):
    assert cli.main([name, "--help"]) == 0
    out = capsys.readouterr().out
    example = out.strip().splitlines()[-1].removeprefix("example: deemo ").split()
    assert example[0] == name
    assert cli.parse(name, verbs.VERBS[name], example[1:])
    assert all(f"--{flag.name} " in out for flag in verbs.VERBS[name].flags)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage: deemo VERB"),
        (["tran"], "there is no verb 'tran'; choose one of"),
        (["train", "--config=configs/tiny.py"], "--workdir is missing; try: deemo"),
        (["train", "--workdir=x"], "--config is missing; try: deemo train"),
        ([*TRAIN, "--wrokdir=y"], "'wrokdir'. Did you mean: workdir"),
        ([*TRAIN, "oops"], "'oops' is not a flag"),
        (["pack", "--check", "--output="], "--output is empty; name a folder"),
        (
            ["pack", "--withdraw=", "--input=.", "--output=x", "--name=y"],
            "--withdraw is empty; leave it out",
        ),
        ([*TRAIN, "--config.train.stpes=3"], "did you mean config.train.steps?"),
        ([*TRAIN, "--config.train.steps=three"], "--config.train.steps=three"),
        ([*TRAIN, "--config.train.steps=0"], "config.train.steps is 0; it must be"),
        (["train", "--workdir=x", "--config=configs/none.py"], "configs/none.py"),
        ([*TRAIN[:2], "--config=configs/tiny.py:nap"], "config.train.stage is 'nap'"),
    ],
)
def test_bad_usage_is_one_line_and_exits_2(words, message, capsys):
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    if not words:
        assert message in captured.out
        return
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        ValueError("RESOURCE_EXHAUSTED: No space left on device [os_error_code='28']"),
    ],
)
def test_a_full_disk_is_told_with_its_remedy(error, monkeypatch, capsys):
    def fail(**_):
        raise error

    verb = dataclasses.replace(verbs.VERBS["train"], act=fail)
    monkeypatch.setitem(verbs.VERBS, "train", verb)
    assert cli.main(TRAIN) == 1
    assert capsys.readouterr().err.endswith(": make room, the same command goes on\n")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def get_config(:", "SyntaxError"),
        ("import ml_collectionz", "ModuleNotFoundError: No module named"),
        ("def get_config(): return undefined", "NameError"),
    ],
)
def test_a_broken_config_file_is_one_line_and_exits_2(
    source, message, tmp_path, capsys
):
    (tmp_path / "broken.py").write_text(source)
    words = ["train", "--workdir=x", f"--config={tmp_path / 'broken.py'}"]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1


def test_a_missing_package_names_its_extra(monkeypatch, capsys, tmp_path):
    def act(**_):
        raise ModuleNotFoundError("No module named 'onnx'", name="onnx")

    verb = dataclasses.replace(verbs.VERBS["deidentify"], act=act)
    monkeypatch.setitem(verbs.VERBS, "deidentify", verb)
    assert cli.main(["deidentify", f"--input={tmp_path}", "--output=b"]) == 1
    said = capsys.readouterr().err
    assert said.strip().endswith("'onnx': pip install 'deemo-jax[deidentify]'")


@pytest.mark.parametrize("dashes", ["-", "--"])
def test_keys_alone_override_what_the_workdir_was_trained_with(tmp_path, dashes):
    stored = to_dict(from_config_dict(tiny.get_config()))
    (tmp_path / "config.json").write_text(json.dumps(stored))
    words = [f"--workdir={tmp_path}", f"{dashes}config.evaluate.batch_size=8"]
    found = cli.parse("evaluate", verbs.VERBS["evaluate"], words)["config"]
    expected = copy.deepcopy(stored)
    expected["evaluate"]["batch_size"] = 8
    assert to_dict(found) == expected


def test_keys_alone_override_how_clips_are_deidentified_by_default():
    words = ["--input=a", "--output=b", "--config.mask.method=solid"]
    found = cli.parse("deidentify", verbs.VERBS["deidentify"], words)["config"]
    assert found == Settings(mask=Mask(method="solid"))
    bare = cli.parse("deidentify", verbs.VERBS["deidentify"], words[:2])
    assert bare["config"] is None


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--config.mask.methods=solid", "did you mean config.mask.method?"),
        ("--config.mask.method=pixels", "one of blur, mosaic, solid"),
        ("--config.voice.coefficients=(0.9, 0.5)", "the smaller one first"),
    ],
)
def test_settings_of_deidentification_that_cannot_stand_exit_2(word, said, capsys):
    assert cli.main(["deidentify", "--input=a", "--output=b", word]) == 2
    assert said in capsys.readouterr().err


def test_keys_alone_without_a_run_are_refused(tmp_path, capsys):
    words = ["evaluate", f"--workdir={tmp_path}", "--config.evaluate.batch_size=8"]
    assert cli.main(words) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_failure_is_one_line_and_exits_1(tmp_path, capsys):
    words = ["pack", f"--input={tmp_path}", "--output=x", "--name=y"]
    assert cli.main(words) == 1
    said = capsys.readouterr().err
    assert said.startswith("deemo pack: ")
    assert str(tmp_path) in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("verb", "flag", "wanted"),
    [
        (name, flag.name, flag.help.partition(";")[0])
        for name, verb in verbs.VERBS.items()
        for flag in verb.flags
        if flag.is_read
    ],
)
def test_a_path_where_nothing_is_exits_2(verb, flag, wanted, tmp_path, capsys):
    others = [
        f"--{other.name}={tmp_path if other.is_path else 'x'}"
        for other in verbs.VERBS[verb].flags
        if other.name != flag and other.required and other.default is None
    ]
    if verb == "generate":
        others[0] += "/run"
    assert cli.main([verb, f"--{flag}={tmp_path / 'none'}", *others]) == 2
    said = capsys.readouterr().err
    assert said == (
        f"deemo {verb}: --{flag} is {tmp_path / 'none'}, where nothing is; "
        f"give the {wanted}\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_is_meant_is_told_in_words(tmp_path, capsys):
    (tmp_path / "annotations.jsonl").write_text("{}\n")
    (tmp_path.parent / "file").touch()
    words = [f"--input={tmp_path}", f"--output={tmp_path.parent / 'file'}"]
    assert cli.main(["deidentify", *words]) == 1
    said = capsys.readouterr().err
    assert "file" in said
    assert said.endswith(
        ": name a folder where one is asked for, and a file where that is\n"
    )


def test_module_and_console_script_are_the_same():
    done = subprocess.run(
        [sys.executable, "-m", "deemo_jax", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "usage: deemo VERB" in done.stdout


@pytest.mark.parametrize(
    ("words", "apart"), [([], False), (["--adapter=true"], True), (["--adapter"], True)]
)
def test_flags_that_are_true_or_false(words, apart):
    words = ["--workdir=x", "--output=y", *words]
    assert cli.parse("export", verbs.VERBS["export"], words)["adapter"] is apart


def test_lora_is_set_by_flags():
    words = ["--workdir=x", "--config=configs/tiny.py:tune", "--config.lora.rank=4"]
    targets = "('vision_tower/.*', 'language_model/layers/mlp/.*')"
    words.append(f"--config.lora.targets={targets}")
    lora = cli.parse("train", verbs.VERBS["train"], words)["config"].lora
    assert lora.rank == 4
    assert lora.targets == ("vision_tower/.*", "language_model/layers/mlp/.*")
