"""Nobody that a run was trained on, by whatever way, judges it."""

import errno
import os
import shutil

import pytest

from deemo_jax.config import ConfigError
from deemo_jax.data.source import ShardSource
from deemo_jax.export.folder import CODE
from deemo_jax.storage import locate
from deemo_jax.train.ledger import LEDGER, Ledger, handed_on, to_lines
from deemo_jax.train.seen import EXPORTED, check_beginning, check_unseen, who_saw
from tests.small import small_config


def test_the_mark_of_an_exported_folder_is_in_every_one():
    assert EXPORTED in CODE


@pytest.fixture
def held_out(corpus):
    return ShardSource(corpus, "test")


def run(folder, subjects=(), *, init_from=None, manifest="of others", checkpoints=()):
    """A workdir that was trained on subjects, as far as its lists say so."""
    for step in checkpoints:
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
        (folder / "checkpoints" / str(step) / "state").write_text("")
    folder.mkdir(parents=True, exist_ok=True)
    Ledger(
        folder,
        data={"manifest": manifest},
        subjects=subjects,
        start=0,
        began_with=init_from,
    ).enter(9)
    return folder


def names(source):
    return sorted({entry.subject for entry in source.entries})


def test_who_has_seen_nobody_of_it_passes(held_out, corpus, tmp_path):
    others = names(ShardSource(corpus, "train"))
    check_unseen(run(tmp_path / "a", others), held_out)
    check_unseen(tmp_path / "nothing", held_out)


def test_a_run_that_has_seen_one_is_refused(held_out, tmp_path):
    first = names(held_out)[0]
    with pytest.raises(ConfigError, match=rf"1 of \d+ .*'test'.*{first}.*evaluate on"):
        check_unseen(run(tmp_path / "a", [first, "somebody"]), held_out)


def test_whom_an_earlier_run_saw_are_seen(held_out, tmp_path):
    first = run(tmp_path / "first", names(held_out))
    second = run(tmp_path / "second", ["somebody"], init_from=first)
    third = run(tmp_path / "third", init_from=second)
    with pytest.raises(ConfigError, match=f"people that {first} was trained on"):
        check_unseen(third, held_out)


def test_whom_an_exported_folder_was_trained_on_are_seen(held_out, tmp_path):
    first = run(tmp_path / "first", names(held_out))
    exported = tmp_path / "exported"
    exported.mkdir()
    (exported / LEDGER).write_text(to_lines(handed_on(first)))
    shutil.rmtree(first)
    tuned = run(tmp_path / "tuned", ["somebody"], init_from=exported)
    with pytest.raises(ConfigError, match=f"people that {first} was trained on"):
        check_unseen(tuned, held_out)


def test_the_very_records_that_a_run_was_trained_on_may_be_asked_for(
    held_out, tmp_path
):
    own = run(tmp_path / "own", names(held_out), manifest=held_out.manifest)
    check_unseen(own, held_out)
    with pytest.raises(ConfigError):  # what another run learned is no own record
        check_unseen(run(tmp_path / "later", init_from=own), held_out)


def test_a_run_is_not_begun_that_could_not_be_evaluated(corpus, held_out, tmp_path):
    first = run(tmp_path / "first", names(held_out))

    def config(**changes):
        return small_config(init_from=str(first), **changes)

    with pytest.raises(ConfigError, match="config.data.fold"):
        check_beginning(config(), corpus)
    check_beginning(config(evaluate__split="elsewhere"), corpus)  # of other data, say
    check_beginning(small_config(), corpus)
    folds = {"data__folds": -1, "data__path": str(corpus)}
    refused = 0
    for fold in range(len(names(held_out)) + len(names(ShardSource(corpus, "train")))):
        try:
            check_beginning(config(data__fold=fold, **folds), corpus)
        except ConfigError:
            refused += 1
    assert refused == len(names(held_out))


def test_a_run_is_not_begun_that_would_be_judged_by_what_the_first_was_trained_on(
    corpus, held_out, tmp_path
):
    """These may be asked for of the run itself, and of no later one."""
    own = run(tmp_path / "own", names(held_out), manifest=held_out.manifest)
    check_unseen(own, held_out)
    with pytest.raises(ConfigError, match=f"people that {own} was trained on"):
        check_beginning(small_config(init_from=str(own)), corpus)


def test_who_saw_a_subject_is_found_and_what_began_with_it(tmp_path):
    align = run(tmp_path / "align", ["anna", "bert"], checkpoints=(2, 4))
    other = run(tmp_path / "deep" / "other", ["anna"])
    tune = run(tmp_path / "0_tune", ["cleo"], init_from=align, checkpoints=(9,))
    run(tmp_path / "cleos", ["cleo"], init_from=other)
    full = run(tmp_path / "0_full", ["bert"], init_from=tune)
    found = {each.folder: each.describe() for each in who_saw("bert", tmp_path)}
    assert found == {
        align: f"{align} in steps 1 to 9; checkpoints: 2, 4",
        tune: f"{tune}, whose parameters go back to {align}; checkpoints: 9",
        full: f"{full} in steps 1 to 9; checkpoints: none is here",
    }
    assert {each.folder for each in who_saw("anna", tmp_path)} == {
        full, tune, align, tmp_path / "cleos", other,
    }  # fmt: skip
    assert who_saw("dora", tmp_path) == []
    with pytest.raises(ConfigError, match="--runs is .*nowhere, where no folder is"):
        who_saw("anna", tmp_path / "nowhere")


def test_of_a_damaged_ledger_the_worst_is_assumed(tmp_path):
    torn = run(tmp_path / "torn", ["cleo"], checkpoints=(4,))
    began = run(tmp_path / "began", ["dora"], init_from=torn)
    (torn / LEDGER).write_text((torn / LEDGER).read_text()[:-9])
    [seen] = who_saw("anna", tmp_path)
    assert seen.describe() == (
        f"{torn}, perhaps (its ledger is missing or damaged); checkpoints: 4"
    )
    assert {each.folder for each in who_saw("cleo", tmp_path)} == {torn, began}


@pytest.mark.parametrize("left", [None, "", "of the first"])
def test_checkpoints_without_a_ledger_of_their_own_are_no_strangers(
    left, held_out, corpus, tmp_path
):
    """Nobody judges them, nothing begins with them, and perhaps they saw everybody."""
    first = run(tmp_path / "first", ["cleo"])
    tuned = run(tmp_path / "tuned", ["dora"], init_from=first, checkpoints=(4,))
    kept = to_lines(handed_on(first)) if left else left
    (tuned / LEDGER).unlink() if kept is None else (tuned / LEDGER).write_text(kept)
    with pytest.raises(ConfigError, match=r"does not say who .*restore it"):
        check_unseen(tuned, held_out)
    with pytest.raises(ConfigError, match=r"does not say who .*restore it"):
        check_beginning(small_config(init_from=str(tuned)), corpus)
    [seen] = who_saw("anna", tmp_path)
    assert (seen.folder, seen.trained, seen.checkpoints) == (tuned, None, (4,))


def test_an_export_without_a_ledger_perhaps_saw_everybody(tmp_path):
    (tmp_path / EXPORTED).touch()
    [seen] = who_saw("anna", tmp_path)
    assert seen.describe() == f"{tmp_path}, perhaps (its ledger is missing or damaged)"


def test_runs_behind_links_are_found(tmp_path):
    there, runs = tmp_path / "there", tmp_path / "runs"
    runs.mkdir()
    run(there, ["anna"], checkpoints=(2,))
    (runs / "linked").symlink_to(there)
    (there / "back").symlink_to(runs)
    [seen] = who_saw("anna", runs)
    assert (seen.folder, seen.checkpoints) == (runs / "linked", (2,))


def test_what_cannot_be_looked_into_is_no_empty_folder(tmp_path, monkeypatch):
    def scandir(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ConfigError, match=r"cannot be looked into \(Permission denied"):
        who_saw("anna", tmp_path)


def test_runs_in_a_bucket_are_looked_through(bucket, tmp_path):
    top = locate(f"{bucket}/{tmp_path.name}")
    align = run(top / "align", ["anna"], checkpoints=(2, 10))
    run(top / "others", ["bert"])
    [seen] = who_saw("anna", top)
    assert seen.describe() == f"{align} in steps 1 to 9; checkpoints: 2, 10"


def test_what_a_run_writes_is_what_is_looked_for(corpus, tmp_path):
    """The ledger of a run has the pseudonyms of the records' subjects."""
    source = ShardSource(corpus, "train")
    subject = names(source)[0]
    run(tmp_path / "run", names(source), manifest=source.manifest)
    [seen] = who_saw(subject, tmp_path)
    assert seen.folder == tmp_path / "run"
