"""Who takes consent back is out of the data, and the runs that saw them are known."""

import json

import pytest

from deemo_jax.config import ConfigError
from deemo_jax.data import integrity, tfds
from deemo_jax.data.pack import read_salt
from deemo_jax.data.record import pseudonym
from deemo_jax.data.shards import (
    Index,
    index_path,
    read_index,
    shard_name,
    write_index,
    write_shard,
)
from deemo_jax.data.source import ShardSource
from deemo_jax.data.splits import assign_splits
from deemo_jax.data.withdraw import purge, runs_that_saw, withdraw
from tests.data.conftest import clip

SALT = bytes(range(32))


@pytest.fixture
def names(format):
    return [shard_name("tiny", "train", number, 2, format) for number in range(2)]


@pytest.fixture
def packed(tmp_path, make_record, pack_records, format):
    """Clips of subjects named "anna", "bert" and "cleo" by their owner."""
    names = ("anna", "bert", "cleo")
    rows = [
        make_record(i, subject=pseudonym(SALT, "subject", names[i % 3]))
        for i in range(12)
    ]
    (tmp_path / "packed").mkdir()
    return pack_records(tmp_path / "packed", rows, format=format), rows


def of(name):
    return pseudonym(SALT, "subject", name)


def test_a_subject_is_left_out_and_no_shard_is_touched(packed, names):
    folder, rows = packed
    before = {name: (folder / name).read_bytes() for name in names}
    manifest = ShardSource(folder, "train").manifest
    assert withdraw(folder, "bert", salt=SALT) == 4
    source = ShardSource(folder, "train")
    assert list(source) == [row for row in rows if row.subject != of("bert")]
    assert source.manifest != manifest  # no run goes on as if nothing had happened
    assert {name: (folder / name).read_bytes() for name in names} == before
    assert b"bert" not in (folder / "withdrawn.json").read_bytes()
    assert integrity.check(folder) == []
    assert withdraw(folder, "bert", salt=SALT) == 0
    assert withdraw(folder, "cleo", salt=SALT) == 4
    assert {row.subject for row in ShardSource(folder, "train")} == {of("anna")}


@pytest.mark.parametrize(("subject", "salt"), [("dora", SALT), ("bert", SALT[::-1])])
def test_a_subject_that_is_not_there_is_refused(packed, subject, salt):
    folder, _ = packed
    with pytest.raises(
        ValueError, match=f"no clip of subject '{subject}' is in .*salt"
    ):
        withdraw(folder, subject, salt=salt)
    assert not (folder / "withdrawn.json").exists()


def test_an_interrupted_withdrawal_lets_nobody_read(packed, names):
    folder, _ = packed
    index = read_index(folder / names[1])
    withdraw(folder, "bert", salt=SALT)
    write_index(folder / names[1], index)  # as if it had not come that far
    with pytest.raises(ValueError, match="still lists a subject .*--withdraw"):
        ShardSource(folder, "train")
    withdraw(folder, "bert", salt=SALT)
    assert len(ShardSource(folder, "train")) == 8


def test_purged_their_bytes_are_gone(packed, names):
    folder, rows = packed
    gone = [row for row in rows if row.subject == of("bert")]
    assert any(gone[0].frames[0] in (folder / name).read_bytes() for name in names)
    with pytest.raises(ValueError, match="nobody has withdrawn"):
        purge(folder)
    withdraw(folder, "bert", salt=SALT)
    assert purge(folder) == 4
    for row in gone:
        for part in (*row.frames, row.audio, row.clip_id.encode()):
            assert not any(part in p.read_bytes() for p in folder.iterdir())
    source = ShardSource(folder, "train")
    assert list(source) == [row for row in rows if row.subject != of("bert")]
    assert integrity.check(folder) == []
    info = json.loads((folder / "dataset_info.json").read_text())
    assert info["fileFormat"] == names[0].split(".")[1].split("-")[0]
    assert info["description"] == "made by a test"
    assert info["splits"][0]["shardLengths"] == ["4", "4"]
    assert "| train | 8 | 2 | 8 | 8 |" in (folder / "README.md").read_text()


def test_what_a_purge_leaves_in_it_leaves_as_it_is(packed, names, make_record, format):
    """Records of an earlier form, too: `features.json` goes on to describe them."""
    folder, _ = packed
    only = shard_name("tiny", "test", 0, 1, format)
    write_shard(folder / only, [make_record(20, subject=of("dora"))])
    counts, sizes = {"train": [6, 6], "test": [1]}, {"train": 1, "test": 1}
    tfds.write_metadata(folder, "tiny", counts, sizes, "", format=format)
    described = (folder / "features.json").read_text().replace("\n", " \n")
    (folder / "features.json").write_text(described)
    before = ShardSource(folder, "test").manifest
    withdraw(folder, "bert", salt=SALT)
    purge(folder)
    assert ShardSource(folder, "test").manifest == before
    assert (folder / "features.json").read_text() == described


def test_a_split_of_which_nothing_is_left_is_none(packed, make_record, format):
    folder, _ = packed
    only = shard_name("tiny", "test", 0, 1, format)
    write_shard(folder / only, [make_record(20, subject=of("dora"))])
    counts, sizes = {"train": [6, 6], "test": [1]}, {"train": 1, "test": 1}
    tfds.write_metadata(folder, "tiny", counts, sizes, "", format=format)
    withdraw(folder, "dora", salt=SALT)
    assert purge(folder) == 1
    with pytest.raises(ValueError, match="has no split 'test', it has train"):
        ShardSource(folder, "test")
    assert not any(folder.glob("tiny-test*"))
    assert len(ShardSource(folder, "train")) == 12
    assert integrity.check(folder) == []


def test_an_interrupted_purge_is_finished(packed, names, monkeypatch):
    folder, rows = packed
    withdraw(folder, "bert", salt=SALT)
    from deemo_jax.data import withdraw as module

    write, written = module.write_encoded, []

    def interrupted(path, encoded):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        entries = write(path, encoded)
        index_path(path).unlink()
        return entries

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_encoded", interrupted)
        with pytest.raises(KeyboardInterrupt):
            purge(folder)
    with pytest.raises(ValueError, match="is missing"):
        ShardSource(folder, "train")
    with pytest.raises(ValueError, match="holds 4 .*--purge --output=.*packed` again"):
        integrity.reindex(folder)
    assert any("deemo pack --purge" in line for line in integrity.check(folder))
    shard = folder / names[0]
    kept = [found.entry for found in integrity.walk(shard) if found.entry]
    write_index(shard, Index(kept, shard.stat().st_size))  # interrupted a bit later
    with pytest.raises(ValueError, match="holds 4 .*a purge was interrupted"):
        ShardSource(folder, "train")
    assert purge(folder) == 2
    assert list(ShardSource(folder, "train")) == [
        row for row in rows if row.subject != of("bert")
    ]


def test_packed_again_they_stay_out(tmp_path):
    clips = [clip("a1", "anna"), clip("b1", "bert")]
    splits, refused = assign_splits(clips, SALT, withdrawn=frozenset({of("bert")}))
    assert [c.annotation.clip_id for each in splits.values() for c in each] == ["a1"]
    assert [(r.clip_id, r.reason) for r in refused] == [
        ("b1", "the consent is withdrawn")
    ]


def run(folder, name, subjects=(), steps=4, init_from="", checkpoints=(2, 4)):
    workdir = folder / name
    workdir.mkdir(parents=True)
    for step in checkpoints:
        (workdir / "checkpoints" / str(step)).mkdir(parents=True)
    (workdir / "run_id").write_text("1\n")
    (workdir / "config.json").write_text(json.dumps({"init_from": init_from}))
    entry = {"data": {}, "subjects": list(subjects), "steps": [1, steps]}
    (workdir / "ledger.jsonl").write_text(json.dumps(entry) + "\n")
    return workdir


def test_runs_that_saw_a_subject_are_found_and_those_that_began_with_them(tmp_path):
    align = run(tmp_path, "align", [of("anna"), of("bert")])
    other = run(tmp_path, "deep/other", [of("anna")], checkpoints=())
    tune = run(tmp_path, "0_tune", [of("cleo")], init_from=str(align))
    run(tmp_path, "cleos", [of("cleo")], init_from=str(other))
    full = run(tmp_path, "0_full", [of("cleo")], init_from=str(tune))
    found = {each.workdir: each for each in runs_that_saw(of("bert"), tmp_path)}
    assert set(found) == {align, tune, full}
    assert found[align].describe() == f"{align} in steps 1 to 4; checkpoints: 2, 4"
    assert found[full].began_with == tune
    assert [each.workdir for each in runs_that_saw(of("anna"), tmp_path)][:1] == [align]
    assert runs_that_saw(of("dora"), tmp_path) == []


def test_a_path_counts_from_wherever_the_run_was_started(tmp_path, monkeypatch):
    align = run(tmp_path, "runs/align", [of("anna")])
    tune = run(tmp_path, "runs/deep/tune", [of("cleo")], init_from="runs/align")
    for here in (tmp_path, tmp_path / "runs" / "deep"):
        monkeypatch.chdir(here)
        found = {each.workdir for each in runs_that_saw(of("anna"), tmp_path / "runs")}
        assert found == {align, tune}
    lost = run(tmp_path, "runs/lost", [of("cleo")], init_from="gone/align")
    after = run(tmp_path, "runs/after", [of("cleo")], init_from=str(lost))
    found = {
        each.workdir: each for each in runs_that_saw(of("dora"), tmp_path / "runs")
    }
    assert set(found) == {lost, after}
    assert found[lost].describe() == (
        f"{lost}, perhaps (it began with gone/align, which is not to be found); "
        "checkpoints: 2, 4"
    )


def test_of_a_damaged_ledger_the_worst_is_assumed(tmp_path):
    torn = run(tmp_path, "torn", [of("cleo")])
    began = run(tmp_path, "began", [of("cleo")], init_from=str(torn))
    ledger = torn / "ledger.jsonl"
    ledger.write_text(ledger.read_text() + '{"data": {}, "subj')
    found = {each.workdir: each for each in runs_that_saw(of("anna"), tmp_path)}
    assert set(found) == {torn, began}
    assert "torn, perhaps (its ledger is torn)" in found[torn].describe()
    found = {each.workdir: each for each in runs_that_saw(of("cleo"), tmp_path)}
    assert "torn in steps 1 to 4" in found[torn].describe()
    (began / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json, which says .* is damaged"):
        runs_that_saw(of("anna"), tmp_path)
    with pytest.raises(ConfigError, match="--runs is .*nowhere, where no folder is"):
        runs_that_saw(of("anna"), tmp_path / "nowhere")


def test_what_a_run_writes_is_what_is_looked_for(tmp_path, folder):
    """The ledger of a run has the pseudonyms of the records' subjects."""
    from deemo_jax.train.log import Ledger

    source = ShardSource(folder, "train")
    subjects = sorted({entry.subject for entry in source.entries})
    data = {"name": "tiny", "split": "train", "manifest": source.manifest, "records": 9}
    Ledger(tmp_path, data=data, subjects=subjects, start=0).enter(3)
    [seen] = runs_that_saw("subject1", tmp_path)
    assert (seen.workdir, seen.steps, seen.checkpoints) == (tmp_path, 3, ())


def test_the_salt_is_that_of_the_owner(tmp_path):
    salt = read_salt(tmp_path / "salt.txt")
    assert pseudonym(salt, "subject", "anna") != of("anna")
