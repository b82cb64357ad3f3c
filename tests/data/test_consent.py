"""Nobody who took consent back is read again, whatever of the folder is lost or old."""

import re

import pytest

from deemo_jax.data.consent import (
    mark_of,
    read_withdrawn,
    who_withdrew,
    write_withdrawn,
)
from deemo_jax.data.integrity import check, reindex
from deemo_jax.data.record import pseudonym
from deemo_jax.data.shards import PACKING, index_path
from deemo_jax.data.source import ShardSource
from deemo_jax.data.withdraw import purge, withdraw

SALT = bytes(range(32))


@pytest.fixture
def copy(tmp_path, rows, pack_records, format):
    (tmp_path / "packed").mkdir()
    return pack_records(tmp_path / "packed", rows, format=format)


def of_long_ago(folder):
    write_withdrawn(folder, {"subject2"})


def without_a_digit(folder):
    path = folder / "withdrawn.json"
    path.write_text(path.read_text().replace("subject1", "subject0"))


def written_by_hand(folder):
    (folder / "withdrawn.json").write_text('{"subjects": ["anna"]}')


def lost(folder):
    (folder / "withdrawn.json").unlink()


@pytest.mark.parametrize("harm", [lost, of_long_ago, without_a_digit, written_by_hand])
def test_those_who_withdrew_do_not_come_back_where_they_are_forgotten(copy, harm):
    write_withdrawn(copy, {"subject1", "subject2"})
    reindex(copy)
    assert check(copy) == []
    named = (copy / "withdrawn.json").read_bytes()
    harm(copy)
    words = r"withdrawn\.json.* (missing|damaged|not name 1 of those).*--reindex"
    said = check(copy)
    assert said
    assert all(re.search(words, line) for line in said)
    with pytest.raises(ValueError, match=words):
        ShardSource(copy, "train")
    assert reindex(copy) == 5
    assert {e.subject for e in ShardSource(copy, "train").entries} == {"subject0"}
    assert (copy / "withdrawn.json").read_bytes() == named
    assert check(copy) == []


def test_where_an_index_is_lost_too_nobody_is_listed(copy):
    index = index_path(next(copy.glob("tiny-train.*-00000-of-00002")))
    write_withdrawn(copy, {"subject1"})
    reindex(copy)
    lost(copy)
    index.unlink()
    for read in (reindex, purge):
        with pytest.raises(ValueError, match="who withdrew cannot be told.*--withdraw"):
            read(copy)
    assert not index.exists()


def test_an_index_is_as_good_as_another(copy):
    """Each names all who withdrew, those of whom its shard has nothing, too."""
    write_withdrawn(copy, frozenset(), mark_of(SALT))
    withdraw(copy, "dora", salt=SALT, is_known=True)
    for kept in copy.glob("*.index"):
        write_withdrawn(copy, frozenset(), mark_of(SALT))  # of long ago
        held = {path: path.read_bytes() for path in copy.glob("*.index")}
        for path in held.keys() - {kept}:
            path.unlink()
        reindex(copy)
        assert read_withdrawn(copy) == {pseudonym(SALT, "subject", "dora")}
        assert {path: path.read_bytes() for path in copy.glob("*.index")} == held


@pytest.mark.parametrize("harm", ["other", "short", "gone"])
def test_an_index_names_them_whatever_became_of_its_shard(copy, harm):
    """As where a backup without indexes is copied over what was purged."""
    old = (copy / "withdrawn.json").read_bytes()
    for who in ("subject1", "subject2"):
        write_withdrawn(copy, {*read_withdrawn(copy), who}, mark_of(SALT))
    reindex(copy)
    (copy / "withdrawn.json").write_bytes(old)
    for index in copy.glob("*.index"):
        shard = index.with_suffix("")
        data = shard.read_bytes()
        shard.write_bytes(data + data if harm == "other" else data[:-9])
        if harm == "gone":
            shard.unlink()
    assert who_withdrew(copy) == {"subject1", "subject2"}
    lost(copy)
    with pytest.raises(ValueError, match=r"withdrawn\.json.* is missing: copy it"):
        who_withdrew(copy, SALT)


def test_where_all_but_the_metadata_is_lost_it_cannot_be_told(copy):
    lost(copy)
    for path in copy.glob("*-of-*"):
        path.unlink()
    for index in copy.glob("*.index"):
        index.unlink()
    with pytest.raises(ValueError, match="nor is any index .* cannot be told"):
        who_withdrew(copy, SALT)


def test_where_a_packing_was_interrupted_the_file_is_needed(copy):
    lost(copy)
    (copy / PACKING).write_text("{}")
    with pytest.raises(ValueError, match="a packing was interrupted: who withdrew"):
        who_withdrew(copy)


def test_a_file_of_before_does_not_tell_the_salt(copy):
    """It may have been another one, under which they would come back."""
    write_withdrawn(copy, {"subject1"})
    reindex(copy)
    write_withdrawn(copy, frozenset(), mark_of(SALT[::-1]))  # of long ago
    for salt in (SALT, SALT[::-1]):
        with pytest.raises(ValueError, match="does not tell its salt"):
            who_withdrew(copy, salt)
    reindex(copy)
    for salt in (SALT, SALT[::-1]):
        with pytest.raises(ValueError, match="does not tell its salt.*--withdraw"):
            who_withdrew(copy, salt)


def test_a_folder_that_was_never_packed_to_needs_no_file(tmp_path):
    (tmp_path / "minutes-of-meeting.txt").touch()
    assert who_withdrew(tmp_path, SALT) == frozenset()
    written_by_hand(tmp_path)
    with pytest.raises(ValueError, match="damaged"):
        who_withdrew(tmp_path, SALT)
