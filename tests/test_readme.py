"""The README's commands parse, its tree is the repository, and its words are few."""

from pathlib import Path
import re
import shlex

import pytest

from deemo_jax import cli, verbs
from deemo_jax.annotation import load_taxonomy, read_annotations

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^deemo .*$", README, re.MULTILINE)


def tree_of(text: str) -> dict[str, str]:
    """Path -> what the README says of it, from the block under `Where things are`."""
    block = re.search(r"## Where things are\n```\n(.*?)```", text, re.DOTALL)
    assert block
    found, folders = {}, []
    for line in block[1].splitlines():
        name, _, words = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        folders = folders[:depth]
        found["/".join([*folders, name.rstrip("/")])] = words.strip()
        if name.endswith("/"):
            folders.append(name.rstrip("/"))
    return found


def test_the_tree_names_what_there_is_and_explains_it():
    told = tree_of(README)
    for path, words in told.items():
        assert (ROOT / path).exists(), path
        assert words, f"{path} is not explained"


def test_the_tree_leaves_no_module_out():
    told = tree_of(README)
    package = ROOT / "deemo_jax"
    for room in [package, *(path.parent for path in package.glob("*/__init__.py"))]:
        modules = {path.stem for path in room.glob("[!_]*.py")}
        if room == package:
            assert modules <= {Path(path).stem for path in told}
        else:
            words = told[str(room.relative_to(ROOT))]
            assert set(words.rpartition(": ")[2].split()) == modules


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_name_verbs_and_flags_that_exist(command):
    _, verb, *words = shlex.split(command)
    values = cli.parse(verb, verbs.VERBS[verb], words)
    assert values


def test_the_readme_shows_every_verb_but_the_demo():
    assert {c.split()[1] for c in COMMANDS} == set(verbs.VERBS) - {"demo"}


def test_the_annotation_shown_can_be_pasted(tmp_path):
    block = re.search(r"```json\n(.*?)```", README, re.DOTALL)
    assert block
    (tmp_path / "annotations.jsonl").write_text(block[1])
    (tmp_path / "interview.mp4").touch()
    [found], rejected = read_annotations(
        tmp_path / "annotations.jsonl", load_taxonomy()
    )
    assert rejected == []
    assert found.nfbl
    assert found.split == "train"


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_it_is_short():
    assert len(README.splitlines()) <= 125
