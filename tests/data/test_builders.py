"""Both subsets by the names that TensorFlow Datasets knows, over what was packed."""

import pickle
import sys
from typing import Any

import pytest
import tensorflow_datasets

from deemo_jax.annotation import load_taxonomy
from deemo_jax.data import tfds
from deemo_jax.data.builders import DeemoMer, DeemoNfbl
from deemo_jax.data.pack import pack_folder
from deemo_jax.data.source import ShardSource


@pytest.fixture(params=["deemo_mer", "deemo_nfbl"])
def packed(request, tmp_path, input):
    pack_folder(input, tmp_path / "packed", name=request.param, description="Ours.")
    return request.param, tmp_path / "packed"


def test_a_packed_folder_by_name(packed):
    name, folder = packed
    made = {"deemo_mer": DeemoMer, "deemo_nfbl": DeemoNfbl}[name](folder)
    found = tensorflow_datasets.builder(name, data_dir=str(folder))
    builders: list[Any] = [made, found, pickle.loads(pickle.dumps(made))]
    for builder in builders:
        assert type(builder) is type(made)
        assert builder.name == name
        assert builder.info.splits["train"].num_examples == 9
        assert str(builder.info.features) == str(tfds.features())
        assert "arXiv:2504.19549" in builder.info.citation
        assert builder.info.description == "Ours."
        assert builder.taxonomy == load_taxonomy()
        inputs, target = builder.info.supervised_keys
        assert target == {"deemo_mer": "emotion", "deemo_nfbl": "nfbl"}[name]
        assert ("transcript" in inputs) == (name == "deemo_mer")
        rows = list(builder.records("test"))
        assert rows == list(ShardSource(folder, "test"))
        assert len(builder.records("train", folds=2, fold=1)) in range(1, 12)
    assert "tensorflow" not in sys.modules


def test_a_folder_of_another_name_is_refused(packed, tmp_path):
    name, folder = packed
    other = DeemoNfbl if name == "deemo_mer" else DeemoMer
    with pytest.raises(ValueError, match=f"holds {name}, not {other.name}: write it"):
        other(folder)
    with pytest.raises(ValueError, match="holds no data set, not"):
        other(tmp_path)


def test_other_data_sets_are_not_said_to_be_of_the_paper(tmp_path, input):
    pack_folder(input, tmp_path / "packed", name="mine")
    info = tensorflow_datasets.builder_from_directory(str(tmp_path / "packed")).info
    assert not info.citation
    assert info.supervised_keys is None
