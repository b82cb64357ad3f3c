"""Which records a split or a fold has, and that no subject is on both sides."""

from collections import Counter

import pytest

from deemo_jax.data import tfds
from deemo_jax.data.shards import shard_name, write_shard
from deemo_jax.data.source import ShardSource

SUBJECTS = [f"subject{i}" for i in range(5)]


@pytest.fixture
def packed(tmp_path, make_record, pack_records):
    """Clips of five subjects, three in split "train" and two in "test"."""
    rows = [make_record(i, subject=SUBJECTS[i % 5]) for i in range(15)]
    train = [row for row in rows if row.subject in SUBJECTS[:3]]
    test = [row for row in rows if row.subject in SUBJECTS[3:]]
    folder = pack_records(tmp_path, train)
    write_shard(folder / shard_name("tiny", "test", 0, 1), test)
    tfds.write_metadata(
        folder, "tiny", {"train": [4, 5], "test": [6]}, {"train": 1, "test": 1}, ""
    )
    return folder, rows


def subjects(source):
    return {row.subject for row in source}


def test_without_folds_it_is_the_packed_split(packed):
    folder, _ = packed
    assert subjects(ShardSource(folder, "train")) == set(SUBJECTS[:3])
    assert subjects(ShardSource(folder, "test")) == set(SUBJECTS[3:])


@pytest.mark.parametrize(("folds", "count"), [(2, 2), (3, 3), (5, 5), (-1, 5)])
def test_every_clip_is_tested_once_and_never_by_whom_it_trained(packed, folds, count):
    folder, rows = packed
    tested, manifests = Counter(), set()
    for fold in range(count):
        train = ShardSource(folder, "train", folds=folds, fold=fold)
        test = ShardSource(folder, "test", folds=folds, fold=fold)
        assert subjects(train) | subjects(test) == set(SUBJECTS)
        assert subjects(train).isdisjoint(subjects(test))
        assert len(train) + len(test) == len(rows)
        for source in (train, test):
            manifests.add(source.manifest)
            for i, entry in enumerate(source.entries):
                assert source[i].clip_id == entry.clip_id
        tested += Counter(row.clip_id for row in test)
    assert tested == Counter(row.clip_id for row in rows)
    assert len(manifests) == 2 * count  # a run does not go on with another fold
    if folds == -1:
        assert len(subjects(ShardSource(folder, "test", folds=-1, fold=4))) == 1


@pytest.mark.parametrize(
    ("folds", "fold", "message"),
    [
        (1, 0, "has 5 subjects, for config.data.folds=1: give 2"),
        (6, 0, "has 5 subjects, for config.data.folds=6"),
        (-2, 0, "for config.data.folds=-2"),
        (5, 5, "config.data.fold is 5: of 5 folds, give 0 to 4"),
        (-1, 7, "config.data.fold is 7: of 5 folds"),
    ],
)
def test_folds_that_cannot_be_are_refused(packed, folds, fold, message):
    with pytest.raises(ValueError, match=message):
        ShardSource(packed[0], "train", folds=folds, fold=fold)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_subject_in_two_splits_is_refused(packed, make_record, split):
    folder, _ = packed
    rows = [make_record(i, subject=SUBJECTS[2 + i % 3]) for i in range(6)]
    write_shard(folder / shard_name("tiny", "test", 0, 1), rows)
    with pytest.raises(ValueError, match="subject subject2 stands in train, too: put"):
        ShardSource(folder, split)
