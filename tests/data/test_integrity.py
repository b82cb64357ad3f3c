"""What stands wrong in a packed folder is named; no flipped bit passes for a record."""

import json
import random
import shutil

import pytest

from deemo_jax.data import tfds
from deemo_jax.data.integrity import check, reindex, walk
from deemo_jax.data.shards import (
    crc32c,
    index_path,
    masked,
    read_index,
    shard_name,
    write_index,
    write_shard,
)
from deemo_jax.data.source import ShardSource

NAMES = [shard_name("tiny", "train", number, 2) for number in range(2)]
HEADER = 12  # bytes before a record


@pytest.fixture
def copy(tmp_path, rows, pack_records):
    return pack_records(tmp_path / "packed", rows)


@pytest.fixture
def pack_records(pack_records):
    def pack(folder, rows, **changes):
        folder.mkdir(exist_ok=True)
        return pack_records(folder, rows, **changes)

    return pack


def flip(path, byte, bit=0):
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


def test_a_sound_folder_has_no_problem(copy, rows):
    assert check(copy) == []
    found = [each for name in NAMES for each in walk(copy / name)]
    assert [each.row for each in found] == rows


@pytest.mark.parametrize("flips", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_noticed_or_changes_nothing(copy, rows, flips):
    draw = random.Random(0)
    files = [copy / name for name in NAMES]
    files += [index_path(path) for path in files]
    noticed = 0
    for _ in range(flips):
        path = draw.choice(files)
        byte, bit = draw.randrange(path.stat().st_size), draw.randrange(8)
        flip(path, byte, bit)
        said = ""
        try:
            assert list(ShardSource(copy, "train")) == rows
        except ValueError as error:
            said = str(error)
        if said:
            assert path.name.removesuffix(".index") in said, (path, byte, bit)
            assert "deemo pack" in said
            noticed += 1
        # What readers of the index pass over, readers of the framing do not.
        if path.suffix != ".index":
            assert any(each.problem for each in walk(path)), (path, byte, bit)
        flip(path, byte, bit)
    assert check(copy) == []
    assert noticed > 0.9 * flips


def test_a_damaged_record_is_named_with_its_place_and_the_others_are_read(copy, rows):
    shard = copy / NAMES[1]
    entry = read_index(shard).entries[2]
    flip(shard, entry.offset + HEADER + 5)
    [problem] = check(copy)
    assert f"{NAMES[1]}: record 2 at byte {entry.offset} is damaged" in problem
    source = ShardSource(copy, "train")
    with pytest.raises(ValueError, match=f"record 2 at byte {entry.offset} "):
        source[8]
    assert source[9] == rows[9]


def cut_short(folder):
    shard = folder / NAMES[0]
    shard.write_bytes(shard.read_bytes()[:-1])


def swap_indexes(folder):
    one, other = (index_path(folder / name) for name in NAMES)
    text = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(text)


def say_otherwise(folder):
    """An index that is sound, and of another corpus with shards of the same sizes."""
    shard = folder / NAMES[0]
    index = read_index(shard)
    first = index.entries[0]._replace(subject="somebody")
    write_index(shard, index._replace(entries=[first, *index.entries[1:]]))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (cut_short, ["bytes, not", "record 5 at byte", "is cut short"]),
        (swap_indexes, [f"is the index of {NAMES[1]}", f"is the index of {NAMES[0]}"]),
        (say_otherwise, ["its index says something else than its records"]),
        (lambda f: index_path(f / NAMES[0]).unlink(), ["index of a shard, is missing"]),
        (lambda f: (f / NAMES[0]).unlink(), [f"{NAMES[0]} is missing"]),
        (lambda f: flip(f / NAMES[0], 3), ["record 0 at byte 0 has a damaged length"]),
        (
            lambda f: (f / "taxonomy.json").write_text("{"),
            ["taxonomy.json"],
        ),
        (
            lambda f: write_shard(f / NAMES[0], []),
            ["holds 0 records, dataset_info.json says 6"],
        ),
    ],
)
def test_what_is_wrong_is_said(copy, harm, words):
    harm(copy)
    said = "\n".join(check(copy))
    for word in words:
        assert word in said


def test_a_subject_in_two_splits_and_a_clip_that_comes_twice_are_said(
    tmp_path, rows, pack_records
):
    folder = pack_records(tmp_path / "packed", rows[:4], shards=1)
    write_shard(folder / shard_name("tiny", "test", 0, 1), rows[3:5])
    tfds.write_metadata(
        folder, "tiny", {"train": [4], "test": [2]}, {"train": 1, "test": 1}, ""
    )
    said = check(folder)
    assert [line.split(": ", 1)[1] for line in said] == [
        "subject subject0 stands in train, too",
        f"clip clip003 is in {folder / shard_name('tiny', 'train', 0, 1)}, too",
        "subject subject1 stands in train, too",
    ]


@pytest.mark.parametrize(
    "harm",
    [
        lambda f: index_path(f / NAMES[0]).unlink(),
        lambda f: index_path(f / NAMES[1]).write_bytes(b"\0\n"),
        swap_indexes,
        say_otherwise,
    ],
)
def test_indexes_are_built_as_they_were(copy, folder, harm):
    harm(copy)
    assert reindex(copy) == 13
    for name in NAMES:
        before = index_path(folder / name).read_bytes()
        assert index_path(copy / name).read_bytes() == before
    assert check(copy) == []


def test_a_damaged_shard_is_not_indexed(copy):
    before = index_path(copy / NAMES[0]).read_bytes()
    flip(copy / NAMES[0], HEADER)
    with pytest.raises(ValueError, match=r"record 0 at byte 0 is damaged.*copy it"):
        reindex(copy)
    assert index_path(copy / NAMES[0]).read_bytes() == before


def test_those_who_withdrew_do_not_come_back_with_an_index(copy):
    (copy / "withdrawn.json").write_text(json.dumps({"subjects": ["subject1"]}))
    assert len(check(copy)) == 2
    assert reindex(copy) == 9
    assert {entry.subject for entry in ShardSource(copy, "train").entries} == {
        "subject0", "subject2",
    }  # fmt: skip
    assert check(copy) == []


def test_what_is_no_record_is_said(tmp_path, copy):
    shutil.copytree(copy, tmp_path / "other")
    shard = tmp_path / "other" / NAMES[0]
    data, length = b"\xff\xff", (2).to_bytes(8, "little")
    framed = length + masked(crc32c(length)) + data + masked(crc32c(data))
    shard.write_bytes(framed + shard.read_bytes())
    first, second, *_ = walk(shard)
    assert "record 0 at byte 0 is no record of ours" in first.problem
    assert second.row is not None
