"""Hugging Face folders to parameters and back, by one table of names read both ways.

A tower has a table of `Row`s beside its code. Reading and writing use the same table,
every tensor of the file must have a row and every parameter a tensor: what does not
fit is named, never skipped.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import fnmatch
import json
import os
from pathlib import Path
import re
from typing import Any, Literal

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors.numpy import save_file

# An `nnx.State` of parameters; its own annotation cannot be checked at run time.
Params = Any

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
LAYER = "{layer}"

# Our axis i is PyTorch's axis AXES[transform][i].
AXES = {
    "linear": (1, 0),  # [out, in] -> [in, out]
    "conv1d": (2, 1, 0),  # [out, in, width] -> [width, in, out]
    "conv2d": (2, 3, 1, 0),  # [out, in, height, width] -> [height, width, in, out]
}


class PretrainedError(ValueError):
    """A folder that cannot be read as this model: says which file or tensor and why."""


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
        Row(name_prefix + row.name, path_prefix + row.path, row.transform)
        for row in table
    )


def read_config(folder: str | os.PathLike, name: str = "config.json") -> dict[str, Any]:
    """The folder's `config.json`, or another of its files of settings.

    Raises:
      PretrainedError: if there is none, or it is no JSON object.
    """
    return _read_json(Path(folder) / name)


def read(
    folder: str | os.PathLike,
    table: Table,
    abstract: Params,
    *,
    prefixes: Sequence[str] = ("",),
    foreign: Sequence[str] = (),
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
      shardings: a sharding for each parameter; each process then reads only the slices
        its devices hold. None reads onto the default device.

    Raises:
      PretrainedError: naming the file or the tensors, see the class.
    """
    folder = Path(folder)
    parameters = nnx.to_flat_state(abstract)
    rows = _rows_by_path(table, [path for path, _ in parameters])
    placed: list[Any] = [None] * len(parameters)
    if shardings is not None:
        placed = jax.tree.leaves(shardings)
    with contextlib.ExitStack() as opened:
        tensors = _open(folder, opened)
        rows = {path: row.as_in(tensors, prefixes) for path, row in rows.items()}
        prefix = _match(folder, rows, parameters, tensors, prefixes, foreign)
        values = []
        for (path, variable), sharding in zip(parameters, placed, strict=True):
            row = rows[path]
            files = [tensors[prefix + name] for name in row.names(variable.shape)]
            names = [prefix + name for name in row.names(variable.shape)]
            reader = _Reader(row, names, files, variable.shape, variable.dtype)
            if sharding is None:
                value = jnp.asarray(reader((slice(None),) * len(variable.shape)))
            else:
                value = jax.make_array_from_callback(variable.shape, sharding, reader)
            values.append((path, variable.replace(value)))
    return nnx.from_flat_state(values)


def write(
    folder: str | os.PathLike,
    table: Table,
    params: Params,
    config: Mapping[str, Any],
    *,
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes parameters and `config.json` as a folder that `transformers` reads.

    More than `shard_bytes` go into several files with an index. Every file is written
    beside its place and renamed; the weights of an earlier save are replaced, other
    files of the folder stay.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parameters = nnx.to_flat_state(params)
    rows = _rows_by_path(table, [path for path, _ in parameters])
    files: list[Path] = []
    shards: list[list[str]] = []
    total = 0
    for shard in _shards(rows, parameters, shard_bytes):
        files.append(folder / f".{WEIGHTS}.{len(files)}.partial")
        # PyTorch's readers ask for the format; "pt" is what they expect.
        save_file(shard, files[-1], metadata={"format": "pt"})
        shards.append(list(shard))
        total += sum(tensor.nbytes for tensor in shard.values())
    count = len(files)
    names = [WEIGHTS] if count == 1 else [
        f"model-{number:05}-of-{count:05}.safetensors"
        for number in range(1, count + 1)
    ]  # fmt: skip
    for file, name in zip(files, names, strict=True):
        file.replace(folder / name)
    for old in folder.glob("model*.safetensors"):
        if old.name not in names and re.fullmatch(
            r"model(-\d{5}-of-\d{5})?\.safetensors", old.name
        ):
            old.unlink()
    if count == 1:
        (folder / INDEX).unlink(missing_ok=True)
    else:
        places = {
            tensor: name
            for name, shard in zip(names, shards, strict=True)
            for tensor in shard
        }
        index = {"metadata": {"total_size": total}, "weight_map": places}
        write_config(folder, index, INDEX)
    write_config(folder, config)


class _Reader:
    """Reads any slice of one parameter from its tensors, turned and cast."""

    def __init__(self, row: Row, names, files, shape, dtype):
        self.axes = row.axes(len(shape))
        self.stacked = row.stacked
        self.tensors = list(zip(names, files, strict=True))
        self.dtype = dtype

    def __call__(self, index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        if not self.stacked:
            return self._one(*self.tensors[0], index)
        layers = self.tensors[index[0]]
        return np.stack([self._one(*tensor, index[1:]) for tensor in layers])

    def _one(self, name: str, file: Any, index: tuple[slice, ...]) -> np.ndarray:
        theirs = tuple(index[axis] for axis in np.argsort(self.axes))
        tensor = file.get_slice(name)[theirs].transpose(self.axes)
        return np.ascontiguousarray(tensor, dtype=self.dtype)


def _rows_by_path(table: Table, paths: list[tuple]) -> dict[tuple, Row]:
    rows = {row.path: row for row in table}
    assert len(rows) == len(table), "two rows of a table have the same path"
    found = {path: rows.get("/".join(map(str, path))) for path in paths}
    without = ["/".join(map(str, path)) for path, row in found.items() if row is None]
    if without:
        raise PretrainedError(
            f"{_some(without, 'parameter')} of the model have no row in its table of "
            f"names; add a row for each"
        )
    return {path: row for path, row in found.items() if row is not None}


def _open(folder: Path, opened: contextlib.ExitStack) -> dict[str, Any]:
    """Every tensor's name with the open file that holds it."""
    if not folder.is_dir():
        raise PretrainedError(
            f"{folder} is not a folder; give the folder that holds config.json and "
            f"model.safetensors"
        )
    if (folder / WEIGHTS).exists():
        files = [WEIGHTS]
        places = None
    elif (folder / INDEX).exists():
        places = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise PretrainedError(f"{folder / INDEX} has no weight_map; fetch it again")
        files = sorted(set(places.values()))
    else:
        raise PretrainedError(_no_weights(folder))
    tensors = {}
    for file in files:
        if not (folder / file).is_file() or Path(file).name != file:
            raise PretrainedError(
                f"shard {file!r} of {folder / INDEX} is missing; put it beside the "
                f"index or fetch the checkpoint again"
            )
        try:
            handle = safetensors.safe_open(folder / file, framework="np")
        except safetensors.SafetensorError as error:
            raise PretrainedError(
                f"{folder / file} ({(folder / file).stat().st_size} bytes) is not a "
                f"whole safetensors file: {error}; fetch it again"
            ) from error
        handle = opened.enter_context(handle)
        tensors |= dict.fromkeys(handle.keys(), handle)
    absent = [name for name in places or () if name not in tensors]
    if absent:
        raise PretrainedError(
            f"{_some(absent, 'tensor')} of {folder / INDEX} are in none of its shards; "
            f"fetch the checkpoint again"
        )
    return tensors


def _no_weights(folder: Path) -> str:
    pickles = [
        file.name
        for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
        for file in sorted(folder.glob(pattern))
    ]
    if pickles:
        return (
            f"{folder} holds only pickled weights ({', '.join(pickles)}), and a pickle "
            f"can run any code when it is opened; convert them to model.safetensors"
        )
    return (
        f"{folder} has neither {WEIGHTS} nor {INDEX}; give the folder of a checkpoint "
        f"in the safetensors format"
    )


def _match(
    folder: Path,
    rows: dict[tuple, Row],
    parameters: Any,
    tensors: dict[str, Any],
    prefixes: Sequence[str],
    foreign: Sequence[str],
) -> str:
    """The prefix that fits, once every tensor and every parameter has its partner."""
    wanted = {
        name: rows[path].tensor_shape(variable.shape)
        for path, variable in parameters
        for name in rows[path].names(variable.shape)
    }
    prefix = max(prefixes, key=lambda p: sum(p + name in tensors for name in wanted))
    missing = [prefix + name for name in wanted if prefix + name not in tensors]
    leftover = [
        name
        for name in sorted(tensors)
        if not (name.startswith(prefix) and name.removeprefix(prefix) in wanted)
        and not any(fnmatch.fnmatchcase(name, pattern) for pattern in foreign)
    ]
    faults = [_some(missing, "tensor") + " missing"] if missing else []
    if leftover:
        faults.append(_some(leftover, "tensor") + " left over")
    if faults:
        raise PretrainedError(
            f"{folder} does not hold this model: {'; '.join(faults)}; check that "
            f"config.json belongs to these weights"
        )
    for name, shape in wanted.items():
        found = tuple(tensors[prefix + name].get_slice(prefix + name).get_shape())
        if found != shape:
            raise PretrainedError(
                f"{prefix + name} in {folder} has shape {list(found)}, but config.json "
                f"makes it {list(shape)}; check that the two belong together"
            )
    return prefix


def _shards(
    rows: dict[tuple, Row], parameters: Any, limit: int
) -> Iterator[dict[str, np.ndarray]]:
    """Named tensors in runs of at most `limit` bytes (or of one tensor)."""
    shard: dict[str, np.ndarray] = {}
    for path, variable in parameters:
        row = rows[path]
        value = np.asarray(jax.device_get(variable.get_value()))
        turn = np.argsort(row.axes(value.ndim))
        layers = value if row.stacked else value[None]
        for name, layer in zip(row.names(value.shape), layers, strict=True):
            size = sum(tensor.nbytes for tensor in shard.values())
            if shard and size + layer.nbytes > limit:
                yield shard
                shard = {}
            shard[name] = np.ascontiguousarray(layer.transpose(turn))
    yield shard


def _some(names: list[str], what: str) -> str:
    """A count and the first few names: `2 tensors (a, b)`."""
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return f"{len(names)} {what}{'s' if len(names) > 1 else ''} ({shown})"


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise PretrainedError(
            f"{path} is missing; give the folder of a Hugging Face checkpoint"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PretrainedError(f"{path} is not JSON: {error}; fetch it again") from error
    if not isinstance(values, dict):
        raise PretrainedError(f"{path} holds no JSON object; fetch it again")
    return values


def write_config(
    folder: str | os.PathLike, values: Mapping[str, Any], name: str = "config.json"
) -> None:
    """The inverse of `read_config`; the file is written beside its place, renamed."""
    path = Path(folder) / name
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    beside.replace(path)
