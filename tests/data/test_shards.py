import json
import pickle
import random
import threading

from hypothesis import HealthCheck, given, settings, strategies
import pytest

from deemo_jax.data import record as records
from deemo_jax.data import shards
from deemo_jax.data.shards import (
    Entry,
    Index,
    index_path,
    read_index,
    shard_name,
    write_index,
)
from deemo_jax.data.source import ShardSource


@pytest.fixture
def copy(tmp_path, rows, pack_records, format):
    return pack_records(tmp_path, rows, format=format)


def damaged(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_records_come_in_any_order(copy, rows):
    source = ShardSource(copy, "train")
    order = random.Random(0).sample(range(len(rows)), len(rows))
    assert [source[i] for i in order] == [rows[i] for i in order]
    assert list(source) == rows
    assert len(source) == 13


COUNTS = strategies.integers(0, 2**40)
TEXT = strategies.text(strategies.characters(exclude_categories=["Cs"]), max_size=20)
TEXTS = strategies.lists(TEXT, max_size=3).map(tuple)
GONE = strategies.dictionaries(TEXT, COUNTS, max_size=3)
ENTRIES = strategies.builds(
    Entry, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, TEXTS, TEXTS, TEXT, TEXT
)


@settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(strategies.lists(ENTRIES, max_size=5), GONE, strategies.binary(max_size=50))
def test_any_index_comes_back(tmp_path, entries, withdrawn, data):
    (tmp_path / "shard").write_bytes(data)
    index = Index(entries, len(data), withdrawn)
    write_index(tmp_path / "shard", index)
    assert read_index(tmp_path / "shard") == index


def test_the_index_says_what_is_in_a_record(source, rows):
    for entry, row in zip(source.entries, rows, strict=True):
        assert entry.clip_id == row.clip_id
        assert entry.subject == row.subject
        assert entry.frames == len(row.frames)
        assert entry.samples == (8000 if row.audio else 0)
        shown = [interval.label for interval in row.nfbl or ()]
        none = [] if row.nfbl is None or shown else ["none"]
        texts = (row.transcript, row.emotion, row.reasoning, *(shown or none))
        seen = [f"{label} 0.5 to 1.2" for label in shown] or none
        assert entry.text == sum(len(text or "") for text in (*texts, *seen))
        assert entry.nfbl == tuple(shown)
        answered = {"recognition": True, "reasoning": bool(row.reasoning)}
        answered |= {"nfbl_which": row.nfbl is not None, "nfbl_when": bool(shown)}
        assert entry.tasks == tuple(task for task, there in answered.items() if there)


def test_every_damaged_byte_of_a_record_is_noticed(copy, rows, format):
    path = copy / shard_name("tiny", "train", 1, 2, format)
    entry = read_index(path).entries[2]  # record 8 of all: 6 stand in the shard before
    start = path.read_bytes().index(records.to_bytes(rows[8]))
    for offset in (0, 1, entry.length // 2, entry.length - 1):
        damaged(path, start + offset)
        source = ShardSource(copy, "train")
        with pytest.raises(ValueError, match=r"00001-of-00002: record 2 at byte .*008"):
            source[8]
        assert [source[i] for i in (0, 7, 9)] == [rows[i] for i in (0, 7, 9)]
        damaged(path, start + offset)
    assert ShardSource(copy, "train")[8] == rows[8]


def test_a_pickled_source_reads_on(copy, rows):
    source = ShardSource(copy, "train")
    source[0]
    again = pickle.loads(pickle.dumps(source))
    assert again[1] == rows[1]
    assert again.manifest == source.manifest


def test_threads_may_share_a_source(copy, rows):
    source, wrong = ShardSource(copy, "train"), []

    def read():
        wrong.extend(i for i in range(13) for _ in range(20) if source[i] != rows[i])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_manifest_depends_on_every_record(
    tmp_path, rows, source, make_record, pack_records
):
    changed = [*rows[:-1], make_record(12, emotion="positive", transcript="Other.")]
    other = ShardSource(pack_records(tmp_path, changed), "train")
    assert other.manifest != source.manifest


def edit_index(path, change):
    head, *lines = index_path(path).read_text().splitlines()
    index_path(path).write_text("\n".join(change(head, lines)) + "\n")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda p: index_path(p).unlink(), "the index of a shard, is missing"),
        (lambda p: p.unlink(), "00000-of-00002 is missing"),
        (lambda p: edit_index(p, lambda h, r: [h, *r[:-1]]), "damaged or cut short"),
        (
            lambda p: edit_index(
                p, lambda h, r: [h.replace('"records": 6', '"records": 7'), *r]
            ),
            "lists 6 of 7 records",
        ),
        (lambda p: index_path(p).write_bytes(b""), "damaged or of old"),
        (
            lambda p: index_path(p).write_bytes(index_path(p).read_bytes()[:-9]),
            "damaged or cut short",
        ),
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "bytes, not"),
        (
            lambda p: edit_index(p, lambda h, r: [h.replace("x/4", "x/9"), *r]),
            "has format 'deemo-index/9', not 'deemo-index/4'",
        ),
        (
            lambda p: edit_index(p, lambda h, r: [h, *r[:-1], "[999999" + r[-1][1:]]),
            "damaged or cut short",
        ),
    ],
)  # fmt: skip
def test_a_missing_or_short_file_is_named(copy, harm, message, format):
    harm(copy / shard_name("tiny", "train", 0, 2, format))
    with pytest.raises(ValueError, match=message) as caught:
        ShardSource(copy, "train")
    assert f"tiny-train.{format}-00000-of-00002" in str(caught.value)
    assert "deemo pack" in str(caught.value)


def test_a_folder_without_data_set_is_refused(tmp_path, copy):
    with pytest.raises(ValueError, match="holds no data set"):
        ShardSource(tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match="has no split 'test', it has train: .*split"):
        ShardSource(copy, "test")
    (copy / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        ShardSource(copy, "train")


def test_a_folder_of_another_format_is_refused(copy):
    text = (copy / "dataset_info.json").read_text()
    info = json.loads(text) | {"fileFormat": "riegeli"}
    (copy / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="holds riegeli, not tfrecord or array_record"):
        ShardSource(copy, "train")


def test_an_index_of_another_packing_is_refused(copy):
    info = json.loads((copy / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["6", "9"]
    (copy / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="holds 7 records, dataset_info.json says 9"):
        ShardSource(copy, "train")


def test_positions_outside_are_refused(source):
    for i in (-1, 13):
        with pytest.raises(IndexError):
            source[i]


def test_a_shard_appears_whole_or_not_at_all(tmp_path, rows, format):
    def interrupted():
        yield rows[0]
        raise KeyboardInterrupt

    path = tmp_path / shard_name("tiny", "train", 0, 1, format)
    with pytest.raises(KeyboardInterrupt):
        shards.write_shard(path, interrupted())
    assert not path.exists()
    assert not index_path(path).exists()
