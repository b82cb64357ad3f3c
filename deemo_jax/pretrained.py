"""Hugging Face folders to parameters and back, by one table of names read both ways.

A tower has a table of `Row`s beside its code. Reading and writing use the same table,
every tensor of the file must have a row and every parameter a tensor: what does not
fit is named, never skipped.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import fnmatch
import functools
import operator
import os
from pathlib import Path
from typing import Any, Literal

from flax import nnx
import jax
from jax.typing import DTypeLike
import numpy as np

from deemo_jax.weights import (
    SHARD_BYTES,
    PretrainedError,
    Stored,
    Unwritten,
    open_weights,
    read_json,
    some,
    write_json,
    write_weights,
)

# An `nnx.State` of parameters; its own annotation cannot be checked at run time.
Params = Any

LAYER = "{layer}"
COMPARED_ROWS = 4096  # of a tensor and its copy, on the host at a time

# Our axis i is PyTorch's axis AXES[transform][i].
AXES = {
    "linear": (1, 0),  # [out, in] -> [in, out]
    "conv1d": (2, 1, 0),  # [out, in, width] -> [width, in, out]
    "conv2d": (2, 3, 1, 0),  # [out, in, height, width] -> [height, width, in, out]
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table: Hugging Face's name, our path, and how the axes turn.

    A name with `{layer}` stands for one tensor a layer; our parameter then has a
    leading axis of layers.

        Row("model.layers.{layer}.mlp.up_proj.weight", "layers/mlp/up_proj/kernel",
            "linear")

    `older` is the tensor's name in older files of a tower alone: read where a file has
    it, never written.
    """

    name: str
    path: str
    transform: Literal["copy", "linear", "conv1d", "conv2d"] = "copy"
    older: str | None = None

    @property
    def stacked(self) -> bool:
        """Whether our parameter has a leading axis of layers."""
        return LAYER in self.name

    def names(self, shape: tuple[int, ...]) -> list[str]:
        """The tensors that make up a parameter of `shape`, one a layer."""
        if not self.stacked:
            return [self.name]
        return [self.name.replace(LAYER, str(layer)) for layer in range(shape[0])]

    def axes(self, rank: int) -> tuple[int, ...]:
        """PyTorch's axis for each of ours, the axis of layers left out."""
        return AXES.get(self.transform, tuple(range(rank - self.stacked)))

    def tensor_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the tensors of a parameter of `shape`."""
        inner = shape[self.stacked :]
        return tuple(inner[axis] for axis in np.argsort(self.axes(len(shape))))

    def as_in(self, tensors: Mapping[str, Any], prefixes: Sequence[str]) -> "Row":
        """This row, under its older name if that is the one among the `tensors`."""
        older = self.older
        if older is None or not any(prefix + older in tensors for prefix in prefixes):
            return self
        return dataclasses.replace(self, name=older)


Table = Sequence[Row]


def prefixed(table: Table, name_prefix: str, path_prefix: str) -> tuple[Row, ...]:
    """The rows of a tower that is part of a whole: `language_model.` and so on."""
    return tuple(
        dataclasses.replace(
            row,
            name=name_prefix + row.name,
            path=path_prefix + row.path,
            older=row.older and name_prefix + row.older,
        )
        for row in table
    )


def read_config(folder: str | os.PathLike, name: str = "config.json") -> dict[str, Any]:
    """The folder's `config.json`, or another of its files of settings.

    Raises:
      PretrainedError: if there is none, or it is no JSON object.
    """
    return read_json(Path(folder) / name)


def read(
    folder: str | os.PathLike,
    table: Table,
    abstract: Params,
    *,
    prefixes: Sequence[str] = ("",),
    foreign: Sequence[str] = (),
    copies: Sequence[tuple[str, str]] = (),
    shardings: Params | None = None,
) -> Params:
    """Reads the folder's safetensors into parameters like `abstract`.

    Args:
      folder: has `model.safetensors`, or `model.safetensors.index.json` and its shards.
      table: rows for every parameter; a row whose parameter `abstract` lacks (an
        optional bias, say) is left out.
      abstract: the parameters' shapes and dtypes (`nnx.eval_shape`); values are cast.
      prefixes: what may stand before every name of the table (`"vision_model."`); the
        one that fits most tensors is taken.
      foreign: shell patterns of names that belong to somebody else (`"text_model.*"`).
      copies: names that may be there beside the table's, each with the name whose
        values it must repeat (the head tied to the embedding).
      shardings: a sharding for each parameter; each process then reads only the slices
        its devices hold, one slice at a time. None reads onto the default device.

    Raises:
      PretrainedError: naming the file or the tensors, see the class.
    """
    parameters = nnx.to_flat_state(abstract)
    rows = _rows_by_path(table, [path for path, _ in parameters])
    placed: list[Any] = [None] * len(parameters)
    if shardings is not None:
        placed = jax.tree.leaves(shardings)
    with open_weights(folder) as tensors:
        rows = {path: row.as_in(tensors, prefixes) for path, row in rows.items()}
        found = match(
            folder,
            table,
            abstract,
            tensors,
            prefixes=prefixes,
            foreign=foreign,
            copies=copies,
        )
        values = []
        for (path, variable), sharding in zip(parameters, placed, strict=True):
            row, shape = rows[path], variable.shape
            stored = [found[name] for name in row.names(shape)]
            reader = _Reader(row, stored, shape, variable.dtype)
            if sharding is None:
                value = jax.device_put(reader((slice(None),) * len(shape)))
            else:
                value = _place(reader, shape, sharding)
            values.append((path, variable.replace(value)))
    return nnx.from_flat_state(values)


def match(
    folder: str | os.PathLike,
    table: Table,
    abstract: Params,
    tensors: Mapping[str, Stored],
    *,
    prefixes: Sequence[str] = ("",),
    foreign: Sequence[str] = (),
    copies: Sequence[tuple[str, str]] = (),
) -> dict[str, Stored]:
    """The stored tensor for each name of the table, nothing missing or left over.

    The arguments and the errors are those of `read`; `tensors` are the folder's.
    """
    parameters = nnx.to_flat_state(abstract)
    rows = _rows_by_path(table, [path for path, _ in parameters])
    rows = {path: row.as_in(tensors, prefixes) for path, row in rows.items()}
    wanted = {
        name: rows[path].tensor_shape(variable.shape)
        for path, variable in parameters
        for name in rows[path].names(variable.shape)
    }
    prefix = max(prefixes, key=lambda p: sum(p + name in tensors for name in wanted))
    copied = {prefix + copy: prefix + name for copy, name in copies}
    missing = [prefix + name for name in wanted if prefix + name not in tensors]
    leftover = [
        name
        for name in sorted(tensors)
        if not (name.startswith(prefix) and name.removeprefix(prefix) in wanted)
        and name not in copied
        and not any(fnmatch.fnmatchcase(name, pattern) for pattern in foreign)
    ]
    faults = [some(missing, "tensor") + " missing"] if missing else []
    if leftover:
        faults.append(some(leftover, "tensor") + " left over")
    if faults:
        raise PretrainedError(
            f"{folder} does not hold this model: {'; '.join(faults)}; check that "
            f"config.json belongs to these weights"
        )
    found = {name: tensors[prefix + name] for name in wanted}
    for name, shape in wanted.items():
        if found[name].shape != shape:
            raise PretrainedError(
                f"{prefix + name} in {folder} has shape {list(found[name].shape)}, but "
                f"config.json makes it {list(shape)}; check that the two belong "
                f"together"
            )
        _ = found[name].dtype  # refused here, before anything large is read
    for copy, name in copied.items():
        if copy in tensors and not _same(tensors[copy], tensors[name]):
            raise PretrainedError(
                f"{copy} in {folder} differs from {name}, which config.json says it "
                f"repeats (tie_word_embeddings is true); set that to false if the "
                f"weights were trained untied, or fetch them again"
            )
    return found


def write(
    folder: str | os.PathLike,
    table: Table,
    params: Params,
    config: Mapping[str, Any],
    *,
    dtype: DTypeLike | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes parameters and `config.json` as a folder that `transformers` reads.

    One tensor at a time is brought to the host, a layer of those that are stacked, cast
    to `dtype` (None: as it is) and written; `weights.write_weights` says how files are
    replaced. `config` states that dtype, if it is to be true.
    """
    parameters = nnx.to_flat_state(params)
    rows = _rows_by_path(table, [path for path, _ in parameters])
    tensors = []
    for path, variable in parameters:
        row, value = rows[path], variable.get_value()
        kind = np.dtype(value.dtype if dtype is None else dtype)
        for layer, name in enumerate(row.names(value.shape)):
            fetch = functools.partial(_fetch, row, value, layer, kind)
            shape = row.tensor_shape(value.shape)
            tensors.append(Unwritten(name, shape, kind, fetch))
    write_weights(Path(folder), tensors, shard_bytes=shard_bytes)
    write_json(Path(folder) / "config.json", config)


class _Reader:
    """Reads any slice of one parameter from its tensors, turned and cast."""

    def __init__(self, row: Row, tensors: Sequence[Stored], shape, dtype):
        self.axes = row.axes(len(shape))
        self.stacked = row.stacked
        self.tensors = tensors
        self.shape = shape
        self.dtype = dtype

    def __call__(self, index: tuple[slice, ...]) -> np.ndarray:
        ends = zip(index, self.shape, strict=True)
        shape = [len(range(*part.indices(size))) for part, size in ends]
        found = np.empty(shape, self.dtype)
        if not self.stacked:
            found[...] = self._one(self.tensors[0], index)
            return found
        for layer, tensor in enumerate(self.tensors[index[0]]):
            found[layer] = self._one(tensor, index[1:])
        return found

    def _one(self, tensor: Stored, index: tuple[slice, ...]) -> np.ndarray:
        theirs = tuple(index[axis] for axis in np.argsort(self.axes))
        return tensor.read(theirs, self.dtype).transpose(self.axes)


def _place(reader: _Reader, shape: tuple[int, ...], sharding: Any) -> jax.Array:
    """The parameter on its devices; one slice at a time is on the host.

    `jax.make_array_from_callback` would hold all slices of the parameter at once.
    """
    devices: dict[tuple, list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        parts = zip(index, shape, strict=True)
        key = tuple(part.indices(size) for part, size in parts)
        devices.setdefault(key, []).append(device)
    arrays = []
    for key, sharing in devices.items():
        value = reader(tuple(slice(*part) for part in key))
        arrays += [jax.device_put(value, device) for device in sharing]
        jax.block_until_ready(arrays[-len(sharing) :])
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def _fetch(row: Row, value: Any, layer: int, dtype: np.dtype) -> np.ndarray:
    """One tensor of a parameter, on the host, as PyTorch has it.

    Put together from its shards: `np.asarray` of the parameter would bring every layer
    and keep them all with it.
    """
    turn = tuple(np.argsort(row.axes(value.ndim)))
    if isinstance(value, np.ndarray):
        found = value[layer] if row.stacked else value
        return np.asarray(found.transpose(turn), dtype=dtype, order="C")
    assert value.is_fully_addressable, "other processes hold parts of it"
    # Turned and cast as it is put together: there is no second copy of it.
    found = np.empty(row.tensor_shape(value.shape), dtype)
    for shard in value.addressable_shards:
        index, part = shard.index, shard.data
        if row.stacked:
            layers = range(value.shape[0])[index[0]]
            if layer not in layers:
                continue
            index, part = index[1:], _layer_of(part, layer - layers.start)
        if shard.replica_id == 0:
            place = tuple(index[axis] for axis in turn)
            found[place] = np.asarray(part).transpose(turn)
    return found


# Compiled once for all layers of a shape.
_layer_of = jax.jit(operator.getitem)


def _same(left: Stored, right: Stored) -> bool:
    """Whether two tensors are equal, read `COMPARED_ROWS` rows at a time."""
    if left.shape != right.shape:
        return False
    size = left.shape[0]
    parts = [
        (slice(first, min(first + COMPARED_ROWS, size)),)
        for first in range(0, size, COMPARED_ROWS)
    ]
    return all(
        np.array_equal(left.read(part, np.float32), right.read(part, np.float32))
        for part in parts
    )


def _rows_by_path(table: Table, paths: list[tuple]) -> dict[tuple, Row]:
    rows = {row.path: row for row in table}
    assert len(rows) == len(table), "two rows of a table have the same path"
    found = {path: rows.get("/".join(map(str, path))) for path in paths}
    without = ["/".join(map(str, path)) for path, row in found.items() if row is None]
    if without:
        raise PretrainedError(
            f"{some(without, 'parameter')} of the model have no row in its table of "
            f"names; add a row for each"
        )
    return {path: row for path, row in found.items() if row is not None}
