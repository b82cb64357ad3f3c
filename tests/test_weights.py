"""Files of safetensors are written as others read them, one tensor at a time."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file

from deemo_jax.weights import INDEX, Unwritten, open_weights, some, write_weights

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


def draw(shape=(5, 3), dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def unwritten(name, value, read=None):
    return Unwritten(name, value.shape, value.dtype, read or (lambda: value))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("shape", [(5, 3), (7,), (), (0, 4), (2, 3, 4)], ids=str)
def test_what_is_written_others_read(dtype, shape, tmp_path):
    tensors = {"a.weight": draw(shape, dtype), "b": draw((3,), dtype, seed=1)}
    write_weights(tmp_path, [unwritten(*item) for item in tensors.items()])
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_slices_are_read_and_cast(dtype, tmp_path):
    value = draw((6, 4, 5), dtype)
    write_weights(tmp_path, [unwritten("a", value)])
    with open_weights(tmp_path) as tensors:
        assert tensors["a"].shape == value.shape
        assert tensors["a"].dtype == value.dtype
        for index in ((slice(2, 5),), (slice(None), slice(1, 3), slice(0, 2))):
            found = tensors["a"].read(index, np.float64)
            assert found.dtype == np.float64
            np.testing.assert_array_equal(found, value[index].astype(np.float64))


@pytest.mark.parametrize("letters", range(1, 9))
def test_the_file_says_whose_format_it_is_and_is_aligned(letters, tmp_path):
    write_weights(tmp_path, [unwritten("a" * letters, draw())])
    file = tmp_path / "model.safetensors"
    with safetensors.safe_open(file, framework="np") as opened:
        assert opened.metadata() == {"format": "pt"}
    header = int.from_bytes(file.read_bytes()[:8], "little")
    assert header % 8 == 0
    assert file.stat().st_size == 8 + header + draw().nbytes


def test_a_value_that_is_not_contiguous_is_written_as_it_reads(tmp_path):
    value = draw().T
    write_weights(tmp_path, [unwritten("a", value)])
    np.testing.assert_array_equal(load_file(tmp_path / "model.safetensors")["a"], value)


def test_each_tensor_is_made_when_its_turn_has_come(tmp_path):
    made, sizes = [], []

    def read(number):
        sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
        made.append(number)
        return draw((1000, 100), seed=number)

    tensors = [
        unwritten(f"t{n}", draw((1000, 100)), lambda n=n: read(n)) for n in range(4)
    ]
    assert made == []
    write_weights(tmp_path, tensors)
    assert made == [0, 1, 2, 3]
    # What came before is in the file by then.
    assert np.diff(sizes).min() > 390_000


def test_shards_are_cut_at_the_limit_and_indexed(tmp_path):
    values = {name: draw(seed=seed) for seed, name in enumerate("abcde")}
    limit = 2 * draw().nbytes
    tensors = [unwritten(*item) for item in values.items()]
    write_weights(tmp_path, tensors, shard_bytes=limit)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"] == {"total_size": 5 * draw().nbytes}
    names = [f"model-0000{n}-of-00003.safetensors" for n in (1, 1, 2, 2, 3)]
    assert index["weight_map"] == dict(zip("abcde", names, strict=True))
    for name, value in values.items():
        file = tmp_path / index["weight_map"][name]
        np.testing.assert_array_equal(load_file(file)[name], value)
    write_weights(tmp_path, tensors)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_tensor_larger_than_the_limit_has_a_shard_of_its_own(tmp_path):
    tensors = [unwritten(name, draw()) for name in "ab"]
    write_weights(tmp_path, tensors, shard_bytes=1)
    assert len(list(tmp_path.glob("model-*-of-00002.safetensors"))) == 2


def test_many_names_are_counted_and_a_few_shown():
    assert some(["a"], "tensor") == "1 tensor (a)"
    assert some(list("abcdefghij"), "shard") == "10 shards (a, b, c, d, e, f, g, h, …)"
