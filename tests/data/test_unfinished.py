"""A packing that was interrupted goes on; what it left and is not whole is not kept."""

import itertools
import json
import os

import pytest

from deemo_jax.clip import read_deidentified
from deemo_jax.data import pack
from deemo_jax.data.pack import pack_folder
from deemo_jax.data.record import FrameSampling, from_clip
from deemo_jax.data.shards import (
    PACKING,
    index_path,
    read_index,
    shard_name,
    write_shard,
)
from deemo_jax.data.unfinished import Unfinished
from tests.data.conftest import contents


@pytest.fixture
def shards(format):
    train = [shard_name("mer", "train", k, 4, format) for k in range(4)]
    return train + [shard_name("mer", "test", k, 3, format) for k in range(3)]


class Killed(BaseException):
    """As a process is: nothing handles it."""


@pytest.fixture
def packing(monkeypatch, tmp_path, input, format):
    """Packs the folder, killed before shard `fail`; gives the clips that were read."""
    reads = []
    read, write = pack.from_clip, pack.write_shard

    def counted(clip, *rest):
        reads.append(clip.annotation.clip_id)
        return read(clip, *rest)

    monkeypatch.setattr(pack, "from_clip", counted)

    def run(output=tmp_path / "packed", *, fail=None, **changes):
        changes = {"format": format} | changes
        reads.clear()
        number = itertools.count()

        def killed(path, rows, **options):
            if next(number) == fail:
                (path.with_name(f".{path.name}.partial")).write_bytes(b"half")
                raise Killed
            return write(path, rows, **options)

        monkeypatch.setattr(pack, "write_shard", killed)
        summary = pack_folder(input, output, name="mer", shards=4, **changes)
        return summary, sorted(reads)

    return run


@pytest.fixture
def whole(packing, tmp_path):
    summary, reads = packing(tmp_path / "whole")
    assert len(reads) == 12
    return summary, contents(tmp_path / "whole")


def test_what_is_written_anew_is_not_taken_for_what_it_was(tmp_path, input):
    """A kill between a shard and its note: the note of what stood there is gone."""
    clips, _ = read_deidentified(input)
    shard = tmp_path / shard_name("mer", "train", 0, 1)
    salt = bytes(32)

    def write(held):
        return write_shard(shard, [from_clip(one, salt) for one in held])

    entries = write(clips[:2])
    Unfinished(tmp_path, salt, None).enter(shard, clips[:2])
    assert Unfinished(tmp_path, salt, None).entries(shard, clips[:2]) == entries
    assert Unfinished(tmp_path, salt, None).entries(shard, clips[:3]) is None
    write(clips[:3])  # and no note
    assert Unfinished(tmp_path, salt, None).entries(shard, clips[:2]) is None


@pytest.mark.parametrize("fail", [0, 1, 3, 4, 6])
def test_only_what_is_missing_is_packed(packing, whole, tmp_path, shards, fail):
    output = tmp_path / "packed"
    with pytest.raises(Killed):
        packing(fail=fail)
    assert not (output / "dataset_info.json").exists()
    before = {
        path.name: os.stat(path).st_mtime_ns
        for name in shards
        for path in (output / name, index_path(output / name))
        if path.exists()
    }
    assert len(before) == 2 * fail
    summary, reads = packing()
    assert len(reads) == 12 - min(fail, 4) * 9 // 4 - max(0, fail - 4)
    assert (summary, contents(output)) == whole
    for name, time in before.items():
        assert os.stat(output / name).st_mtime_ns == time


def another_annotation(folder, output):
    lines = (folder / "deidentified.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        row["annotation"]["transcript"] = "Hm."
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "deidentified.jsonl").write_text(text)


def another_salt(folder, output):
    (folder / "salt.txt").write_text("ab" * 32 + "\n")


def flipped(folder, output):
    for shard in output.glob("*-train.*-0000[01]-of-00004"):
        data = bytearray(shard.read_bytes())
        data[read_index(shard).entries[1].offset + 100] ^= 1
        shard.write_bytes(data)


def without_index(folder, output):
    for index in output.glob("*-train.*-0000[01]-of-00004.index"):
        index.unlink()


def torn(folder, output):
    (output / PACKING).write_bytes(b'{"a": ')


@pytest.mark.parametrize(
    "harm", [another_annotation, another_salt, flipped, without_index, torn]
)
def test_what_is_of_something_else_or_damaged_is_packed_again(
    packing,
    tmp_path,
    input,
    harm,
):
    output = tmp_path / "packed"
    with pytest.raises(Killed):
        packing(fail=2)
    harm(input, output)
    _, reads = packing()
    assert len(reads) == 12
    again = contents(output)
    packing(tmp_path / "clean")
    assert again == contents(tmp_path / "clean")


def test_other_frames_are_packed_again(packing, tmp_path):
    with pytest.raises(Killed):
        packing(fail=2)
    _, reads = packing(sampling=FrameSampling(quality=50))
    assert len(reads) == 12


def test_those_that_are_refused_are_told_again(packing, tmp_path, input):
    """Its shard is whole, without it; the reason stands in the next run's list, too."""
    lines = (input / "deidentified.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    del rows[4]["annotation"]["end"]  # of unknown length
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (input / "deidentified.jsonl").write_text(text)
    with pytest.raises(Killed):
        packing(fail=5)
    summary, reads = packing()
    assert "clip4" in reads
    assert summary.rejected == 1
    assert "clip4" in (input / "rejected_by_pack.jsonl").read_text()


def test_while_it_is_packed_no_name_shows(packing, tmp_path, shards):
    with pytest.raises(Killed):
        packing(fail=4)
    text = (tmp_path / "packed" / PACKING).read_text()
    assert set(json.loads(text)) == set(shards[:4])
    assert "clip" not in text
    assert "subject" not in text
