"""What stands wrong in a packed folder is named; no flipped bit passes for a record."""

import random

import pytest

from deemo_jax.annotation import Interval
from deemo_jax.data import record as records
from deemo_jax.data import tfds
from deemo_jax.data.consent import write_withdrawn
from deemo_jax.data.integrity import check, reindex, walk
from deemo_jax.data.loader import Batches
from deemo_jax.data.shards import (
    FORMATS,
    index_path,
    read_index,
    shard_name,
    write_index,
    write_shard,
)
from deemo_jax.data.source import ShardSource


@pytest.fixture
def copy(tmp_path, rows, pack_records, format):
    return pack_records(tmp_path / "packed", rows, format=format)


def shards(folder):
    found = folder.glob("tiny-train.*-of-00002")
    return sorted(found, key=lambda path: path.name)


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
    found = [each for shard in shards(copy) for each in walk(shard)]
    assert [each.row for each in found] == rows


def test_seconds_that_float32_rounds_are_listed_as_they_are_read(
    tmp_path, make_record, pack_records
):
    shown = (Interval(label="crossing fingers", start=0.5, end=9.95),)
    row = make_record(0, duration=12.0, nfbl=shown)
    folder = pack_records(tmp_path / "packed", [row], shards=1)
    assert check(folder) == []


@pytest.mark.parametrize(
    ("format", "flips"),
    [
        ("tfrecord", 1000),
        ("array_record", 300),
        pytest.param("tfrecord", 10_000, marks=pytest.mark.slow),
        pytest.param("array_record", 10_000, marks=pytest.mark.slow),
    ],
)
def test_every_flipped_bit_is_noticed_or_changes_nothing(copy, rows, flips, format):
    draw = random.Random(0)
    files = shards(copy)
    files += [index_path(path) for path in files]
    parts = dict(zip(files, (rows[:6], rows[6:]), strict=False))
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
        # What readers of the index pass over, others are told of; unless it lies
        # between records, where ArrayRecord's own reader passes over it, too.
        if path.suffix != ".index":
            found = list(walk(path))
            if not any(each.problem for each in found):
                assert format == "array_record", (path, byte, bit)
                assert not said, (path, byte, bit)
                assert [each.row for each in found] == parts[path], (path, byte, bit)
        flip(path, byte, bit)
    assert check(copy) == []
    print(f"\n{format}: {noticed} of {flips} flips are noticed, others change nothing")
    assert noticed > {"tfrecord": 0.9, "array_record": 0.7}[format] * flips


def test_a_damaged_record_is_named_with_its_place_and_the_others_are_read(copy, rows):
    shard = shards(copy)[1]
    entry = read_index(shard).entries[2]
    flip(shard, entry.offset + 100)
    [problem] = check(copy)
    assert f"{shard.name}: record 2 at byte {entry.offset} is damaged" in problem
    source = ShardSource(copy, "train")
    with pytest.raises(ValueError, match=f"record 2 at byte {entry.offset} "):
        source[8]
    assert source[9] == rows[9]


def cut_short(folder):
    shard = shards(folder)[0]
    shard.write_bytes(shard.read_bytes()[:-1])


def swap_indexes(folder):
    one, other = map(index_path, shards(folder))
    text = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(text)


def say_otherwise(folder):
    """An index that is sound, and of another corpus with shards of the same sizes."""
    shard = shards(folder)[0]
    index = read_index(shard)
    first = index.entries[0]._replace(subject="somebody")
    write_index(shard, index._replace(entries=[first, *index.entries[1:]]))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (cut_short, ["bytes, not", "record {last} at byte"]),
        (swap_indexes, ["is the index of {second}", "is the index of {first}"]),
        (say_otherwise, ["its index says something else than its records"]),
        (lambda f: index_path(shards(f)[0]).unlink(), ["index of a shard, is missing"]),
        (lambda f: shards(f)[0].unlink(), ["{first} is missing"]),
        (
            lambda f: (f / "taxonomy.json").write_text("{"),
            ["taxonomy.json"],
        ),
        (
            lambda f: write_shard(shards(f)[0], []),
            ["holds 0 records, dataset_info.json says 6"],
        ),
    ],
)
def test_what_is_wrong_is_said(copy, harm, words, format):
    first, second = (shard.name for shard in shards(copy))
    harm(copy)
    said = "\n".join(check(copy))
    # ArrayRecord finds its records from the file's end.
    last = {"tfrecord": 5, "array_record": 0}[format]
    for word in words:
        assert word.format(first=first, second=second, last=last) in said


@pytest.mark.parametrize("content", [None, b"{"])
def test_what_tfds_reads_is_missed(copy, content):
    path = copy / "features.json"
    path.unlink() if content is None else path.write_bytes(content)
    [problem] = check(copy)
    assert problem.startswith(f"{path}, which TFDS reads, is missing or damaged: ")


def test_shards_of_no_split_are_told(copy, format):
    """Their bytes are handed on with the others, and nobody who withdrew is purged."""
    stray = copy / shard_name("tiny", "train", 7, 9, format)
    stray.write_bytes(shards(copy)[0].read_bytes())
    index_path(stray).write_bytes(b"")
    assert check(copy) == [
        f"{path} is of no split of dataset_info.json, and no --purge "
        "rewrites it: delete it, or copy that file again, if it is an old one"
        for path in (stray, index_path(stray))
    ]


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
    folder = pack_records(tmp_path / "again", [*rows[:3], rows[2]], shards=1)
    assert [line.split(": ", 1)[1] for line in check(folder)] == [
        "clip clip002 is twice"
    ]


@pytest.mark.parametrize(
    "harm",
    [
        lambda f: index_path(shards(f)[0]).unlink(),
        lambda f: index_path(shards(f)[1]).write_bytes(b"\0\n"),
        swap_indexes,
        say_otherwise,
    ],
)
def test_indexes_are_built_as_they_were(copy, harm):
    before = [index_path(shard).read_bytes() for shard in shards(copy)]
    harm(copy)
    assert reindex(copy) == 13
    assert [index_path(shard).read_bytes() for shard in shards(copy)] == before
    assert check(copy) == []


def test_a_damaged_shard_is_not_indexed(copy):
    shard = shards(copy)[0]
    before = index_path(shard).read_bytes()
    first = read_index(shard).entries[0].offset
    flip(shard, first + 100)
    with pytest.raises(ValueError, match=rf"0 at byte {first} is damaged.*copy it"):
        reindex(copy)
    assert index_path(shard).read_bytes() == before


def test_those_who_withdrew_do_not_come_back_with_an_index(copy):
    write_withdrawn(copy, {"subject1"})
    assert len(check(copy)) == 2
    assert reindex(copy) == 9
    assert {entry.subject for entry in ShardSource(copy, "train").entries} == {
        "subject0", "subject2",
    }  # fmt: skip
    assert check(copy) == []


def test_labels_that_the_taxonomy_lacks_are_said(
    tmp_path, make_record, pack_records, config, tokenizer
):
    shown = (Interval(label="crossing fingers", start=0.5, end=1.0),)
    rows = [make_record(0, nfbl=shown), make_record(1)]
    folder = pack_records(tmp_path / "packed", rows, shards=1)
    path = folder / "taxonomy.json"
    text = path.read_text()
    path.write_text(text.replace("positive", "positiv").replace("negative", "negativ"))
    told = {label for row in rows if (label := row.emotion)}
    assert [problem.partition(": ")[2].split()[0] for problem in check(folder)] == [
        repr(label) for label in sorted(told)
    ]
    source = ShardSource(folder, "train")
    batches = Batches(source, config, tokenizer, (2, 2), seed=0, batch_size=2).iterate()
    with pytest.raises(ValueError, match=r"none of taxonomy.json \(positiv, negativ\)"):
        next(batches)
    path.write_text(text.replace("crossing fingers", "crossed fingers"))
    [problem] = check(folder)
    assert "'crossing fingers' is no label of taxonomy.json" in problem
    with pytest.raises(ValueError, match="no body language 'crossing fingers'"):
        ShardSource(folder, "train")


def test_what_is_no_record_is_said(tmp_path, rows, format):
    shard = tmp_path / shard_name("tiny", "train", 0, 1, format)
    with FORMATS[format].writing(shard) as write:
        offset = write(b"\xff\xff")
        write(records.to_bytes(rows[0]))
    first, second = walk(shard)
    assert f"record 0 at byte {offset} is no record of ours" in first.problem
    assert second.row == rows[0]
