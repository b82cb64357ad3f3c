"""Constants are read with their types; weights arrive in the shards they belong to."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from deemo_jax.models.loading import load, read_fields
from deemo_jax.pretrained import PretrainedError, Row

TABLE = (
    Row("up.weight", "up/kernel", "linear"),
    Row("up.bias", "up/bias"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
    width: int
    eps: float
    bias: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lists:
    taps: tuple[int, ...]


class Tower(nnx.Module):
    def __init__(self):
        self.up = nnx.Linear(4, 8, rngs=nnx.Rngs(0))


def test_fields_are_read_and_whole_numbers_may_be_floats():
    values = {"width": 3, "eps": 1, "else": "ignored"}
    fields = read_fields(Fields, values, {"bias": False})
    assert fields == Fields(width=3, eps=1.0, bias=False)
    assert type(fields.eps) is float


def test_null_means_absent_and_a_value_is_never_replaced():
    values = {"width": 3, "eps": 0.5, "bias": None}
    assert read_fields(Fields, values, {"bias": True}).bias
    values["bias"] = False
    assert not read_fields(Fields, values, {"bias": True}).bias


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 3, "bias": True}, "config.json has no 'eps'; add it"),
        ({"width": 3, "eps": None, "bias": True}, "config.json has no 'eps'"),
        ({"width": 3.0, "eps": 1.0, "bias": True}, "'width' .* is 3.0; .* type int"),
        ({"width": 0, "eps": 1.0, "bias": True}, "'width' .* is 0; .* 1 or more"),
        ({"width": True, "eps": 1.0, "bias": True}, "'width' .* is True; .* type int"),
        ({"width": 3, "eps": "1", "bias": True}, "'eps' .* is '1'; .* type float"),
        ({"width": 3, "eps": 1.0, "bias": 0}, "'bias' .* is 0; .* type bool"),
    ],
)
def test_what_is_missing_or_of_a_wrong_type_is_named(values, message):
    with pytest.raises(PretrainedError, match=message):
        read_fields(Fields, values, {})


def test_lists_become_tuples_and_hold_whole_numbers():
    assert read_fields(Lists, {"taps": [3, 2]}, {}) == Lists(taps=(3, 2))
    assert read_fields(Lists, {}, {"taps": (3, 2)}) == Lists(taps=(3, 2))
    for wrong in ([3, 2.0], 3, "32", [[3]]):
        with pytest.raises(PretrainedError, match=r"'taps' .* type tuple\[int, ...\]"):
            read_fields(Lists, {"taps": wrong}, {})


def test_weights_are_those_of_the_folder(tmp_path):
    weight = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    tensors = {"up.weight": weight, "up.bias": np.arange(8, dtype=np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    tower = load(Tower, tmp_path, TABLE)
    x = jax.random.normal(jax.random.key(0), (3, 4))
    expected = np.asarray(x) @ weight.T + np.arange(8)[None]
    np.testing.assert_allclose(tower.up(x), expected, atol=1e-5)
    assert isinstance(tower.up.kernel[...], jnp.ndarray)
