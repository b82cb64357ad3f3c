import json
import sys

from deemo_jax.data import tfds
from deemo_jax.data.shards import ShardSource


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


def test_the_two_files_are_all_that_is_left(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "dataset_info.json",
        "features.json",
        "taxonomy.json",
        "tiny-train.tfrecord-00000-of-00002",
        "tiny-train.tfrecord-00000-of-00002.index",
        "tiny-train.tfrecord-00001-of-00002",
        "tiny-train.tfrecord-00001-of-00002.index",
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
