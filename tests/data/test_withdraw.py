"""Who takes consent back is out of the data."""

import json

import pytest

from deemo_jax.data import integrity, tfds
from deemo_jax.data.consent import (
    mark_of,
    read_withdrawn,
    who_withdrew,
    write_withdrawn,
)
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
from deemo_jax.data.withdraw import purge, withdraw
from tests.data.conftest import clip, contents

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
    folder = pack_records(tmp_path / "packed", rows, format=format)
    write_withdrawn(folder, frozenset(), mark_of(SALT))
    return folder, rows


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
    assert not read_withdrawn(folder)


def test_who_is_known_by_a_run_alone_is_not_packed_any_more(packed):
    folder, _ = packed
    with pytest.raises(ValueError, match="no clip of subject 'dora'"):
        withdraw(folder, "dora", salt=SALT)
    assert withdraw(folder, "dora", salt=SALT, is_known=True) == 0
    assert read_withdrawn(folder) == {of("dora")}
    assert withdraw(folder, "dora", salt=SALT) == 0
    assert len(ShardSource(folder, "train").entries) == 12


def test_a_file_that_tells_no_salt_is_not_another_salt(packed):
    """It was made anew of the indexes, so that nobody knows by which they name."""
    folder, _ = packed
    (folder / "withdrawn.json").unlink()
    integrity.reindex(folder)
    with pytest.raises(ValueError, match="if this is the one, copy its withdrawn.json"):
        withdraw(folder, "dora", salt=SALT, is_known=True)
    assert withdraw(folder, "bert", salt=SALT) > 0
    assert withdraw(folder, "dora", salt=SALT, is_known=True) == 0


def test_another_salt_withdraws_nobody(packed):
    folder, _ = packed
    other = SALT[::-1]
    withdraw(folder, "bert", salt=SALT)
    for file_is_lost in (False, True):
        if file_is_lost:
            (folder / "withdrawn.json").unlink()
            integrity.reindex(folder)
        before = contents(folder)
        with pytest.raises(ValueError, match="by this salt.*give the --salt_file"):
            withdraw(folder, "cleo", salt=other, is_known=True)
        assert contents(folder) == before
    withdraw(folder, "bert", salt=SALT)  # whose name tells the salt
    assert who_withdrew(folder, SALT) == {of("bert")}
    with pytest.raises(ValueError, match="written with another salt"):
        who_withdrew(folder, other)


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
    (folder / f".{names[0]}.partial").write_bytes(gone[0].frames[0])  # of a kill
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


def test_nothing_is_purged_beside_shards_that_it_does_not_know(packed, names):
    folder, _ = packed
    withdraw(folder, "bert", salt=SALT)
    stray = folder / names[0].replace("tiny", "other")
    stray.write_bytes((folder / names[0]).read_bytes())
    with pytest.raises(ValueError, match=f"{stray.name} is of no split.*delete it"):
        purge(folder)
    assert f"{stray} is of no split" in "".join(integrity.check(folder))


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
    write_shard(folder / only, [])  # interrupted before it was removed
    index_path(folder / only).unlink()
    assert purge(folder) == 0
    assert integrity.check(folder) == []


def test_an_interrupted_purge_is_finished(packed, names, monkeypatch):
    folder, rows = packed
    withdraw(folder, "bert", salt=SALT)
    from deemo_jax.data import withdraw as module

    write, written = module.write_encoded, []

    def interrupted(path, encoded, **options):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        entries = write(path, encoded, **options)
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
    write_index(shard, Index(kept, shard.stat().st_size, {}))  # interrupted a bit later
    with pytest.raises(ValueError, match="holds 4 .*a purge was interrupted"):
        ShardSource(folder, "train")
    assert purge(folder) == 2
    assert list(ShardSource(folder, "train")) == [
        row for row in rows if row.subject != of("bert")
    ]


def test_a_withdrawal_forgets_nobody_of_before(packed):
    folder, _ = packed
    withdraw(folder, "bert", salt=SALT)
    (folder / "withdrawn.json").unlink()
    withdraw(folder, "cleo", salt=SALT)
    assert read_withdrawn(folder) == {of("bert"), of("cleo")}
    (folder / "withdrawn.json").unlink()
    assert purge(folder) == 8
    assert {row.subject for row in ShardSource(folder, "train")} == {of("anna")}


def test_packed_again_they_stay_out(tmp_path):
    clips = [clip("a1", "anna"), clip("b1", "bert")]
    splits, refused = assign_splits(clips, SALT, withdrawn=frozenset({of("bert")}))
    assert [c.annotation.clip_id for each in splits.values() for c in each] == ["a1"]
    assert [(r.clip_id, r.reason) for r in refused] == [
        ("b1", "the consent is withdrawn")
    ]


def test_the_salt_is_that_of_the_owner(tmp_path):
    salt = read_salt(tmp_path / "salt.txt")
    assert pseudonym(salt, "subject", "anna") != of("anna")
