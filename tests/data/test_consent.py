"""Nobody who took consent back is read again, whatever of the folder is lost or old."""

import re

import pytest

from deemo_jax.data.consent import write_withdrawn
from deemo_jax.data.integrity import check, reindex
from deemo_jax.data.shards import index_path
from deemo_jax.data.source import ShardSource
from deemo_jax.data.withdraw import purge


@pytest.fixture
def copy(tmp_path, rows, pack_records, format):
    (tmp_path / "packed").mkdir()
    return pack_records(tmp_path / "packed", rows, format=format)


def of_long_ago(folder):
    write_withdrawn(folder, ["subject2"])


def without_a_digit(folder):
    path = folder / "withdrawn.json"
    path.write_text(path.read_text().replace("subject1", "subject0"))


def written_by_hand(folder):
    (folder / "withdrawn.json").write_text('{"subjects": ["anna"]}')


def lost(folder):
    (folder / "withdrawn.json").unlink()


@pytest.mark.parametrize("harm", [lost, of_long_ago, without_a_digit, written_by_hand])
def test_those_who_withdrew_do_not_come_back_where_they_are_forgotten(copy, harm):
    write_withdrawn(copy, ["subject1", "subject2"])
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
    if "damaged" in said[0]:
        for read in (reindex, purge):
            with pytest.raises(ValueError, match="damaged: copy it again, or remove"):
                read(copy)
        lost(copy)
    assert reindex(copy) == 5
    assert {e.subject for e in ShardSource(copy, "train").entries} == {"subject0"}
    assert (copy / "withdrawn.json").read_bytes() == named
    assert check(copy) == []


def test_where_an_index_is_lost_too_nobody_is_listed(copy):
    index = index_path(next(copy.glob("tiny-train.*-00000-of-00002")))
    write_withdrawn(copy, ["subject1"])
    reindex(copy)
    lost(copy)
    index.unlink()
    for read in (reindex, purge):
        with pytest.raises(ValueError, match="who withdrew cannot be told"):
            read(copy)
    assert not index.exists()
