"""Folders of safetensors: opened by tensor's name, written one tensor at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import os
from pathlib import Path
import re
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000  # what a file holds at most, as on the hub

# Names of the format for what weights are kept in; anything else is quantised.
FLOATS = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_NAMES = {dtype: name for name, dtype in FLOATS.items()}


class PretrainedError(ValueError):
    """A folder that cannot be read as this model: says which file or tensor and why."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in an open file, of which slices can be read."""

    name: str
    folder: Path
    handle: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """As the file's header states it."""
        return tuple(self.handle.get_slice(self.name).get_shape())

    @property
    def dtype(self) -> np.dtype:
        """That of the file.

        Raises:
          PretrainedError: if the tensor is not of floating point.
        """
        kind = self.handle.get_slice(self.name).get_dtype()
        if kind not in FLOATS:
            raise PretrainedError(
                f"{self.name} in {self.folder} is of type {kind}; supported: "
                f"{', '.join(FLOATS)}. A quantised checkpoint is not read: fetch the "
                f"one it was made from"
            )
        return FLOATS[kind]

    def read(self, index: tuple[slice, ...], dtype: Any) -> np.ndarray:
        """A slice of it, cast; the file's own dtype never fills more than the slice.

        Raises:
          PretrainedError: if a value of the slice is no finite number of `dtype`.
        """
        with np.errstate(over="ignore"):  # named below
            found = self.handle.get_slice(self.name)[index]
            found = found.astype(dtype, copy=False)
        # Both ends are NaN where any value is: no mask of the tensor's size is made.
        ends = np.array([found.min(), found.max()]) if found.size else np.zeros(1)
        if not np.isfinite(ends.astype(np.float64)).all():
            raise PretrainedError(
                f"{self.name} in {self.folder} holds NaN or infinity (as "
                f"{np.dtype(dtype).name}); the checkpoint is broken, fetch it again"
            )
        return found


@dataclasses.dataclass(frozen=True)
class Unwritten:
    """A tensor to be written: `read` is called once, when its turn has come."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes it takes in a file."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@contextlib.contextmanager
def open_weights(folder: str | os.PathLike) -> Iterator[dict[str, Stored]]:
    """Every tensor of a folder by its name, read when asked for.

    Raises:
      PretrainedError: naming the file that is missing, truncated or no safetensors.
    """
    folder = Path(folder)
    files, promised = _files(folder)
    tensors: dict[str, Stored] = {}
    with contextlib.ExitStack() as opened:
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
                    f"{folder / file} ({(folder / file).stat().st_size} bytes) is not "
                    f"a whole safetensors file: {error}; fetch it again"
                ) from error
            handle = opened.enter_context(handle)
            for name in handle.keys():  # noqa: SIM118  # it is no dict
                tensors[name] = Stored(name, folder, handle)
        absent = [name for name in promised if name not in tensors]
        if absent:
            raise PretrainedError(
                f"{some(absent, 'tensor')} of {folder / INDEX} are in none of its "
                f"shards; fetch the checkpoint again"
            )
        yield tensors


def write_weights(
    folder: Path, tensors: Sequence[Unwritten], *, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes tensors one after another, so that one at a time is in memory.

    More than `shard_bytes` go into several files with an index. Every file is written
    beside its place and renamed once all are there; the weights of an earlier save are
    replaced, other files of the folder stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(tensors, shard_bytes)
    count = len(shards)
    names = [WEIGHTS] if count == 1 else [
        f"model-{number:05}-of-{count:05}.safetensors"
        for number in range(1, count + 1)
    ]  # fmt: skip
    beside = [folder / f".{name}.partial" for name in names]
    try:
        for path, shard in zip(beside, shards, strict=True):
            _write_file(path, shard)
        for path, name in zip(beside, names, strict=True):
            path.replace(folder / name)
    finally:
        for path in beside:
            path.unlink(missing_ok=True)
    for old in folder.glob("model*.safetensors"):
        if old.name not in names and re.fullmatch(
            r"model(-\d{5}-of-\d{5})?\.safetensors", old.name
        ):
            old.unlink()
    if count == 1:
        (folder / INDEX).unlink(missing_ok=True)
        return
    total = sum(tensor.nbytes for tensor in tensors)
    places = {
        tensor.name: name
        for name, shard in zip(names, shards, strict=True)
        for tensor in shard
    }
    index = {"metadata": {"total_size": total}, "weight_map": places}
    write_json(folder / INDEX, index)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint.

    Raises:
      PretrainedError: if the file is missing or holds something else.
    """
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


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes beside `path`, then renames."""
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    beside.replace(path)


def some(names: Sequence[str], what: str) -> str:
    """A count and the first few names: `2 tensors (a, b)`."""
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return f"{len(names)} {what}{'s' if len(names) > 1 else ''} ({shown})"


def _files(folder: Path) -> tuple[list[str], Sequence[str]]:
    """The folder's files of weights, and the tensors that its index promises."""
    if not folder.is_dir():
        raise PretrainedError(
            f"{folder} is not a folder; give the folder that holds config.json and "
            f"model.safetensors"
        )
    if (folder / WEIGHTS).exists():
        return [WEIGHTS], ()
    if not (folder / INDEX).exists():
        raise PretrainedError(_no_weights(folder))
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise PretrainedError(f"{folder / INDEX} has no weight_map; fetch it again")
    return sorted(set(places.values())), list(places)


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


def _shards(tensors: Sequence[Unwritten], limit: int) -> list[list[Unwritten]]:
    """Tensors in runs of at most `limit` bytes (or of one tensor)."""
    shards: list[list[Unwritten]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def _write_file(path: Path, tensors: Sequence[Unwritten]) -> None:
    """One file: the length of the header in eight bytes, the header, the values.

    The format: https://huggingface.co/docs/safetensors. Its own writer wants every
    tensor of a file in memory.
    """
    # PyTorch's readers ask for the format; "pt" is what they expect.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        first, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [first, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the values begin at a multiple of 8
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in tensors:
            value = np.asarray(tensor.read(), dtype=tensor.dtype, order="C")
            assert value.shape == tensor.shape, tensor.name
            file.write(value.reshape(-1).view(np.uint8).data)
            del value  # before the next one is read
