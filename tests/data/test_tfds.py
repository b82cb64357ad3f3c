import importlib.util
import io
import json
import subprocess
import sys
from typing import Any

import numpy as np
from PIL import Image
import pytest

from deemo_jax.data import tfds
from deemo_jax.data.builders import DeemoMer
from deemo_jax.data.consent import write_withdrawn
from deemo_jax.data.record import pseudonym
from deemo_jax.data.source import ShardSource
from deemo_jax.data.withdraw import purge, withdraw

SALT = bytes(range(32))


def test_tensorflow_datasets_reads_the_metadata(folder, source):
    import tensorflow_datasets

    info = tensorflow_datasets.builder_from_directory(str(folder)).info
    assert info.name == "tiny"
    assert info.splits["train"].num_examples == len(source)
    assert info.splits["train"].shard_lengths == [6, 7]
    names = [path.name for path in info.splits["train"].filepaths]
    assert names == [f"tiny-train.tfrecord-0000{k}-of-00002" for k in range(2)]
    assert str(info.features) == str(tfds.features())
    assert info.description == "made by a test"
    assert "tensorflow" not in sys.modules


def test_tensorflow_datasets_reads_array_records(tmp_path, rows, pack_records):
    import tensorflow_datasets

    pack_records(tmp_path, rows, format="array_record")
    builder = tensorflow_datasets.builder_from_directory(str(tmp_path))
    read: Any = builder.as_data_source("train")  # pyright: ignore[reportCallIssue]
    assert len(read) == len(rows)
    for found, row in zip(read, rows, strict=True):
        assert found["clip_id"].decode() == row.clip_id
        assert found["audio"] == (row.audio or b"")
        assert found["transcript"].decode() == (row.transcript or "")
        shown = row.nfbl or ()
        assert list(found["nfbl"]["label"]) == [n.label.encode() for n in shown]
        assert np.array(found["nfbl"]["end"]).tolist() == [n.end for n in shown]
        annotated = "" if row.nfbl is None else "yes"
        assert found["nfbl_annotated"].decode() == annotated
        assert len(found["frames"]) == len(row.frames)
        for pixels, jpeg in zip(found["frames"], row.frames, strict=True):
            np.testing.assert_array_equal(pixels, Image.open(io.BytesIO(jpeg)))
    assert "tensorflow" not in sys.modules


def test_the_two_files_are_all_that_is_left(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "dataset_info.json",
        "features.json",
        "taxonomy.json",
        "tiny-train.tfrecord-00000-of-00002",
        "tiny-train.tfrecord-00000-of-00002.index",
        "tiny-train.tfrecord-00001-of-00002",
        "tiny-train.tfrecord-00001-of-00002.index",
        "withdrawn.json",
    ]


def test_the_name_is_read_back(tmp_path, folder):
    assert tfds.dataset_name(folder) == "tiny"
    assert tfds.dataset_name(tmp_path) is None
    (tmp_path / "dataset_info.json").write_text("{}")
    assert tfds.dataset_name(tmp_path) is None


def test_the_files_depend_on_nothing_but_their_content(tmp_path, folder):
    tfds.write_metadata(
        tmp_path, "tiny", {"train": [6, 7]}, {"train": 1}, "made by a test"
    )
    for name in ("features.json", "dataset_info.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
        assert str(tmp_path) not in json.dumps((tmp_path / name).read_text())


def test_our_own_reader_agrees(folder):
    assert len(ShardSource(folder, "train")) == 13


def test_the_builder_reads_nobody_who_withdrew(tmp_path, make_record, pack_records):
    """TFDS reads shards whole, past the indexes."""
    rows = [make_record(0, subject=pseudonym(SALT, "subject", "anna")), make_record(1)]
    pack_records(tmp_path, rows, name="deemo_mer", format="array_record")
    assert len(DeemoMer(tmp_path).as_data_source("train")) == 2
    withdraw(tmp_path, "anna", salt=SALT)
    builder = DeemoMer(tmp_path)
    for read in (builder.as_data_source, builder.as_dataset):
        with pytest.raises(ValueError, match="of subjects who withdrew: .*--purge"):
            read("train")
    assert list(builder.records("train")) == rows[1:]
    write_withdrawn(tmp_path, {row.subject for row in rows})  # no index knows it yet
    with pytest.raises(ValueError, match="still lists a subject"):
        builder.as_data_source("train")
    write_withdrawn(tmp_path, {rows[0].subject})
    purge(tmp_path)
    assert len(DeemoMer(tmp_path).as_data_source("train")) == 1


def test_what_a_killed_call_left_is_removed(tmp_path):
    (tmp_path / ".metadata1234").mkdir()
    tfds.write_metadata(tmp_path, "tiny", {"train": [6]}, {"train": 1}, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "dataset_info.json", "features.json",
    ]  # fmt: skip


READER = """
import sys
import tensorflow_datasets as tfds
builder = tfds.builder_from_directory(sys.argv[1])
rows = list(builder.as_dataset(split="train").as_numpy_iterator())
for row in rows:
    intervals, frames = len(row["nfbl"]["label"]), len(row["frames"])
    print(row["clip_id"].decode(), intervals, frames, len(row["audio"]))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None,
    reason="needs TensorFlow: pip install '.[tf]'",
)
def test_tensorflow_reads_the_records(folder, source):
    """In a process of its own: it is heavy, and stays out of the others."""
    done = subprocess.run(
        [sys.executable, "-c", READER, str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    read = sorted(line.split() for line in done.stdout.splitlines())
    assert read == sorted(
        [
            row.clip_id,
            str(len(row.nfbl or ())),
            str(len(row.frames)),
            str(len(row.audio or b"")),
        ]
        for row in source
    )
    assert {"0"} < {intervals for _, intervals, _, _ in read}
    assert {"0"} < {frames for _, _, frames, _ in read}
