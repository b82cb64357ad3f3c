"""Nobody that a run was trained on, by whatever way, judges it."""

import json

import pytest

from deemo_jax.config import ConfigError
from deemo_jax.data.source import ShardSource
from deemo_jax.train.seen import check_beginning, check_unseen
from tests.small import small_config


@pytest.fixture
def held_out(corpus):
    return ShardSource(corpus, "test")


def run(folder, subjects=(), *, init_from="", manifest="of others"):
    """A workdir that was trained on subjects, as far as its lists say so."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"init_from": str(init_from)}))
    entry = {"data": {"manifest": manifest}, "subjects": list(subjects)}
    line = json.dumps(entry | {"steps": [1, 9]})
    (folder / "ledger.jsonl").write_text(line + "\n")
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


def test_runs_that_name_each_other_end(held_out, tmp_path):
    run(tmp_path / "a", init_from=tmp_path / "b")
    check_unseen(run(tmp_path / "b", init_from=tmp_path / "a"), held_out)


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
