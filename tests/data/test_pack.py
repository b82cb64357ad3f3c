import dataclasses
import itertools
import json
from pathlib import Path
import shutil
import stat

import pytest

from deemo_jax.annotation import load_taxonomy
from deemo_jax.clip import MEASURE, append_deidentified, file_digest, read_deidentified
from deemo_jax.config import ConfigError
from deemo_jax.data import integrity, record
from deemo_jax.data.pack import Summary, pack_folder, read_salt
from deemo_jax.data.record import pseudonym
from deemo_jax.data.shards import index_path
from deemo_jax.data.source import ShardSource
from deemo_jax.data.withdraw import purge, withdraw
from tests.data.conftest import clip, contents


def test_a_folder_is_packed_and_read(tmp_path, input):
    output, steps = tmp_path / "packed", []
    summary = pack_folder(
        input, output, name="mer", shards=2, description="Cues decide.",
        progress=lambda *step: steps.append(step),
    )  # fmt: skip
    assert summary.records == {"train": 9, "test": 3}
    assert summary.subjects == {"train": 3, "test": 1}
    assert summary.rejected == 0
    assert "mer: 9 train (3 subjects), 3 test (1 subjects)" in summary.describe()
    assert steps == [("packing clips", k, 12) for k in range(1, 13)]
    train, test = (ShardSource(output, split) for split in ("train", "test"))
    assert sorted(len(row.frames) for row in train) == [0] * 7 + [5, 5]
    assert {row.emotion for row in test} == {"positive"}
    card = (output / "README.md").read_text()
    assert "Cues decide." in card
    assert "| train | 9 | 3 | 2 | 9 |" in card
    assert "| verdict | generated | 12 |" in card
    assert train.taxonomy == load_taxonomy()


def test_a_new_salt_is_told_of_once(tmp_path, input):
    salt = tmp_path / "kept" / "salt.txt"
    said = [
        pack_folder(input, tmp_path / "packed", name="mer", salt_file=salt).describe()
        for _ in range(2)
    ]
    assert f"keep their salt, {salt}, where packed records do not go" in said[0]
    assert "salt" not in said[1]


@pytest.mark.parametrize("name", ["README.md", "taxonomy.json"])
def test_files_of_another_folder_are_not_written_over(tmp_path, input, name):
    output = tmp_path / "project"
    output.mkdir()
    (output / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name} would be written over"):
        pack_folder(input, output, name="mer")
    assert contents(output) == {name: b"mine"}
    (output / name).unlink()
    (output / "dataset_info.json").write_text("[]")  # of a data set, perhaps
    with pytest.raises(ValueError, match="who withdrew cannot be told"):
        pack_folder(input, output, name="mer")
    assert contents(output) == {"dataset_info.json": b"[]"}


def test_the_clips_do_not_lie_in_the_packed_folder(tmp_path, input):
    for output in (input, input.parent):
        salt = {"salt_file": tmp_path.parent / "elsewhere" / "salt.txt"}
        with pytest.raises(ValueError, match="would lie in the packed folder"):
            pack_folder(input, output, name="mer", **salt)
        assert not (output / "dataset_info.json").exists()


def test_packing_again_gives_the_same_bytes(tmp_path, input):
    for name in ("one", "two"):
        pack_folder(input, tmp_path / name, name="mer", shards=2)
    lines = (input / "deidentified.jsonl").read_text().splitlines()
    (input / "deidentified.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    pack_folder(input, tmp_path / "one", name="mer", shards=3)
    pack_folder(input, tmp_path / "one", name="mer", shards=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_packed_in_another_format_the_records_are_the_same(tmp_path, input):
    output, rows = tmp_path / "packed", {}
    for format in ("tfrecord", "array_record", "tfrecord"):
        pack_folder(input, output, name="mer", shards=2, format=format)
        assert integrity.check(output) == []
        rows[format] = list(ShardSource(output, "train"))
        names = [path.name for path in output.glob("*-of-*")]
        assert len(names) == 2 * 4
        assert all(f".{format}-" in name for name in names)
    assert rows["tfrecord"] == rows["array_record"]
    with pytest.raises(ConfigError, match="'riegeli': give tfrecord or array_record"):
        pack_folder(input, output, name="mer", format="riegeli")


def test_names_and_salt_stay_with_the_owner(tmp_path, input):
    output = tmp_path / "packed"
    pack_folder(input, output, name="mer")
    packed = b"".join(contents(output).values())
    salt = read_salt(input / "salt.txt")
    assert stat.S_IMODE((input / "salt.txt").stat().st_mode) == 0o600
    for secret in (b"subject0", b"clip0", salt, salt.hex().encode()):
        assert secret not in packed
    assert pseudonym(salt, "clip", "clip0").encode() in packed
    with pytest.raises(ValueError, match="would lie in the packed folder"):
        pack_folder(input, output, name="mer", salt_file=output / "salt")
    with pytest.raises(ValueError, match="would lie in the packed folder"):
        pack_folder(input, input, name="mer")
    assert not (output / "salt").exists()


def test_another_salt_gives_other_pseudonyms(tmp_path, input):
    names = []
    for name in ("one", "two"):
        pack_folder(
            input, tmp_path / name, name="mer", salt_file=tmp_path / f"{name}.s"
        )
        source = ShardSource(tmp_path / name, "train")
        names.append({entry.clip_id for entry in source.entries})
    assert not names[0] & names[1]


@pytest.mark.parametrize("text", ["", "zz" * 32, "ab" * 31])
def test_what_is_no_salt_is_refused(tmp_path, text):
    (tmp_path / "salt").write_text(text)
    with pytest.raises(ValueError, match="holds no salt"):
        read_salt(tmp_path / "salt")
    assert (tmp_path / "salt").read_text() == text


def test_a_changed_file_is_refused_by_name(tmp_path, input):
    (input / "media" / "clip5.flac").write_bytes(b"something else")
    (input / "media" / "clip6.flac").unlink()
    summary = pack_folder(input, tmp_path / "packed", name="mer")
    assert (summary.rejected, sum(summary.records.values())) == (2, 10)
    lines = (input / "rejected_by_pack.jsonl").read_text().splitlines()
    assert [json.loads(line)["clip_id"] for line in lines] == ["clip5", "clip6"]


def test_who_passed_by_looser_thresholds_is_told(input, tmp_path):
    clips, _ = read_deidentified(input)
    for one, looser in zip(clips, ([], ["alike"]), strict=False):
        audit = {"looser": looser, "measure": MEASURE}
        changed = dataclasses.replace(one, verdict="passed", audit=audit)
        append_deidentified(input, changed)
    said = pack_folder(input, tmp_path / "packed", name="mer").describe()
    assert "1 clips passed an audit of looser thresholds than the defaults" in said


def test_where_nothing_can_be_written_beside_the_clips_nothing_is_packed(
    input, tmp_path
):
    (input / "rejected_by_pack.jsonl").mkdir()
    with pytest.raises(ValueError, match="make .* writable, or pack a copy"):
        pack_folder(input, tmp_path / "packed", name="mer")
    assert not (tmp_path / "packed").exists()


def test_what_is_written_to_while_it_is_packed_is_refused(input, tmp_path, monkeypatch):
    clips, _ = read_deidentified(input)
    [path] = [clip.video for clip in clips if clip.annotation.clip_id == "clip0"]
    read = record.media.iter_frames

    def writing(file, *within):
        yield from read(file, *within)
        if file == path:
            with open(file, "ab") as changed:
                changed.write(b"more")

    monkeypatch.setattr(record.media, "iter_frames", writing)
    summary = pack_folder(input, tmp_path / "packed", name="mer")
    assert (summary.rejected, sum(summary.records.values())) == (1, 11)
    [line] = (input / "rejected_by_pack.jsonl").read_text().splitlines()
    assert "clip0.mp4 was changed while it was packed" in line


@pytest.mark.parametrize(("part", "name"), [("video", "b.mp4"), ("audio", "b.flac")])
def test_an_unreadable_clip_does_not_stop_the_others(tmp_path, input, part, name):
    bad = input / "media" / name
    bad.write_bytes(b"no media")
    append_deidentified(
        input, clip("bad", sha256={part: file_digest(bad)}, **{part: bad})
    )
    summary = pack_folder(input, tmp_path / "packed", name="mer")
    assert (summary.rejected, sum(summary.records.values())) == (1, 12)
    (line,) = (input / "rejected_by_pack.jsonl").read_text().splitlines()
    assert json.loads(line)["clip_id"] == "bad"
    assert json.loads(line)["remedy"]


def test_an_interrupted_packing_is_no_data_set(tmp_path, input):
    output = tmp_path / "packed"
    pack_folder(input, output, name="mer", shards=2)
    whole = contents(output)

    def interrupt(description, done, total):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_folder(input, output, name="mer", shards=2, progress=interrupt)
    with pytest.raises(ValueError, match="again if it was interrupted"):
        ShardSource(output, "train")
    pack_folder(input, output, name="mer", shards=2)
    assert contents(output) == whole


def test_a_folder_of_another_data_set_is_left_alone(tmp_path, input):
    output = tmp_path / "packed"
    pack_folder(input, output, name="mer")
    before = contents(output)
    with pytest.raises(ValueError, match="holds the data set mer"):
        pack_folder(input, output, name="nfbl")
    for name in ("Mer", "deemo-mer", ""):
        for there in (output, tmp_path / "new"):
            with pytest.raises(ConfigError, match="is no name for a data set"):
                pack_folder(input, there, name=name, salt_file=tmp_path / "salt.txt")
    with pytest.raises(ConfigError, match="--shards is 0: give 1 or more"):
        pack_folder(input, output, name="mer", shards=0)
    assert contents(output) == before
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "salt.txt").exists()


def test_where_nothing_is_left_what_was_packed_stays(tmp_path, input):
    output = tmp_path / "packed"
    pack_folder(input, output, name="mer")
    before = contents(output)
    clips, _ = read_deidentified(input)
    for one in clips:
        append_deidentified(input, dataclasses.replace(one, verdict="failed"))
    with pytest.raises(ValueError, match="nothing is left to pack, 12 clips"):
        pack_folder(input, output, name="mer")
    assert contents(output) == before


def test_a_folder_of_features_is_left_alone(tmp_path, input):
    output = tmp_path / "packed"
    pack_folder(input, output, name="mer")
    (output / "towers.json").write_text("{}")
    before = contents(output)
    with pytest.raises(ValueError, match="holds features, not media: choose another"):
        pack_folder(input, output, name="mer")
    assert contents(output) == before


def test_no_name_of_the_owner_is_in_the_packed_folder(tmp_path, input):
    (input / "media" / "clip5.flac").unlink()
    pack_folder(input, tmp_path / "packed", name="mer")
    names = [b"clip5"]
    for line in (input / "deidentified.jsonl").read_text().splitlines():
        about = json.loads(line)["annotation"]
        names += [about["clip_id"].encode(), about["subject"].encode()]
    for file in (tmp_path / "packed").iterdir():
        for name in names:
            assert name not in file.read_bytes(), file.name


def test_a_split_that_a_run_will_miss_is_told():
    told = Summary(
        name="mer", records={"val": 3}, subjects={"val": 1}, bytes=7, rejected=0
    ).describe()
    assert 'no clip is in train: put some subjects there, "split": "train"' in told
    assert "no clip is in test" in told
    both = {"train": 3, "test": 2}
    whole = Summary(name="mer", records=both, subjects=both, bytes=7, rejected=0)
    assert len(whole.describe().splitlines()) == 1


def test_nothing_to_pack_is_an_error(tmp_path):
    for name in ("deidentified.jsonl", "annotations.jsonl"):
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match="nothing is left to pack"):
        pack_folder(tmp_path, tmp_path / "packed", name="mer")
    with pytest.raises(ValueError, match=r"deemo deidentify"):
        pack_folder(tmp_path / "nowhere", tmp_path / "packed", name="mer")


def test_packed_again_with_another_salt_nobody_comes_back(tmp_path, input):
    output = tmp_path / "packed"
    pack_folder(input, output, name="mer", shards=2)
    salt = read_salt(input / "salt.txt")
    withdraw(output, "subject0", salt=salt)
    purge(output)
    before = contents(output)
    (input / "salt.txt").rename(tmp_path / "salt.txt")  # as of a folder made anew
    with pytest.raises(ValueError, match="is not there, and by a new salt.*give the"):
        pack_folder(input, output, name="mer", shards=2)
    assert not (input / "salt.txt").exists()
    read_salt(input / "salt.txt")
    with pytest.raises(ValueError, match="with another salt.*give the --salt_file"):
        pack_folder(input, output, name="mer", shards=2)
    assert contents(output) == before
    again = {"salt_file": tmp_path / "salt.txt"}
    summary = pack_folder(input, output, name="mer", shards=2, **again)
    assert sum(summary.subjects.values()) == 3
    # Built from the indexes, it does not tell the salt, until somebody gives it.
    withdraw(output, "subject1", salt=salt)
    (output / "withdrawn.json").unlink()
    assert integrity.reindex(output)
    with pytest.raises(ValueError, match="does not tell it.*--withdraw=SUBJECT"):
        pack_folder(input, output, name="mer", shards=2, **again)
    withdraw(output, "subject1", salt=salt)
    summary = pack_folder(input, output, name="mer", shards=2, **again)
    assert sum(summary.subjects.values()) == 2


def test_packed_again_without_the_file_nobody_comes_back(input, tmp_path):
    output = tmp_path / "packed"
    pack_folder(input, output, name="mer", shards=2)
    withdraw(output, "subject0", salt=read_salt(input / "salt.txt"))
    (output / "withdrawn.json").unlink()
    with pytest.raises(ValueError, match="missing: .*--reindex"):
        pack_folder(input, output, name="mer", shards=2)
    index_path(next(output.glob("mer-*-00000-of-00002"))).unlink()
    with pytest.raises(ValueError, match="who withdrew cannot be told"):
        pack_folder(input, output, name="mer", shards=2)


def test_beside_shards_of_another_name_nothing_is_packed(input, tmp_path):
    output = tmp_path / "packed"
    pack_folder(input, output, name="mer", shards=2)
    (output / "dataset_info.json").unlink()  # as an interrupted packing leaves it
    with pytest.raises(ValueError, match="holds the data set mer, or part of it"):
        pack_folder(input, output, name="nfbl", shards=1)
    assert not any(output.glob("nfbl*"))


def test_stopped_at_any_file_it_goes_on_and_nobody_comes_back(
    input, tmp_path, monkeypatch
):
    """At each file that is renamed or removed while a folder is packed anew."""
    output, before = tmp_path / "packed", tmp_path / "before"
    pack_folder(input, before, name="mer", shards=2)
    salt = read_salt(input / "salt.txt")
    withdraw(before, "subject0", salt=salt)
    gone = pseudonym(salt, "subject", "subject0")
    for place in itertools.count():
        left = itertools.count(place, -1)

        def stopping(change, left=left):
            def changed(*arguments, **options):
                if next(left) <= 0:
                    raise KeyboardInterrupt
                return change(*arguments, **options)

            return changed

        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(before, output)
        with monkeypatch.context() as patch:
            for name in ("rename", "replace", "unlink"):
                patch.setattr(Path, name, stopping(getattr(Path, name)))
            try:
                pack_folder(input, output, name="mer", shards=1)
                break
            except KeyboardInterrupt:
                pass
        pack_folder(input, output, name="mer", shards=1)
        assert integrity.check(output) == []
        held = {entry.subject for entry in ShardSource(output, "train").entries}
        assert held
        assert gone not in held
    assert place > 10
