"""How a tower comes out of a folder and goes into one: its constants, its weights."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
import types
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from flax import nnx
import jax
from jax.sharding import Mesh
from jax.typing import DTypeLike
import numpy as np

from deemo_jax import pretrained, sharding
from deemo_jax.models.lora import merge_lora

Config = TypeVar("Config")
Model = TypeVar("Model", bound=nnx.Module)


def read_fields(
    cls: type[Config], values: Mapping[str, Any], absent: Mapping[str, Any]
) -> Config:
    """The dataclass `cls` from the values of a `config.json` under the same names.

    `absent` says what a missing (or null) value means, for the keys that Hugging Face's
    own format lets a file leave out; all others must be there.

    Raises:
      PretrainedError: naming the key that is missing, of the wrong type, or at odds
        with the others.
    """
    assert dataclasses.is_dataclass(cls)
    hints = get_type_hints(cls)
    found = {}
    for name in (field.name for field in dataclasses.fields(cls) if field.init):
        kind, value = hints[name], values.get(name)
        if value is None:
            value = absent.get(name)
        kinds = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        if value is None and type(None) not in kinds:
            raise pretrained.PretrainedError(
                f"config.json has no {name!r}; add it, or fetch the file again"
            )
        if float in kinds and type(value) is int:
            value = float(value)
        if get_origin(kind) is tuple and isinstance(value, list | tuple):
            value = tuple(value)
            fits = all(type(item) is get_args(kind)[0] for item in value)
        else:
            fits = type(value) in kinds
        if not fits:
            raise pretrained.PretrainedError(
                f"{name!r} in config.json is {value!r}; it must be of type "
                f"{' or '.join(str(k) if get_origin(k) else k.__name__ for k in kinds)}"
            )
        if type(value) is int and value < 1:
            raise pretrained.PretrainedError(
                f"{name!r} in config.json is {value}; it must be 1 or more"
            )
        found[name] = value
    try:
        return cls(**found)
    except ValueError as error:
        raise pretrained.PretrainedError(f"config.json: {error}") from error


def load(
    make: Callable[[], Model],
    folder: str | os.PathLike,
    table: pretrained.Table,
    *,
    prefixes: Sequence[str] = ("",),
    foreign: Sequence[str] = (),
    copies: Sequence[tuple[str, str]] = (),
    mesh: Mesh | None = None,
) -> Model:
    """The model that `make` builds, with the folder's weights in it.

    The weights that `make` would draw are never computed. With a mesh, each tensor is
    read into the shards that `sharding.parameter_shardings` gives it, one tensor after
    another. The other arguments and the errors are those of `pretrained.read`.
    """
    graphdef, abstract = nnx.split(nnx.eval_shape(make))
    shardings = None
    if mesh is not None:
        shardings = sharding.parameter_shardings(abstract, mesh)
    params = pretrained.read(
        folder,
        table,
        abstract,
        prefixes=prefixes,
        foreign=foreign,
        copies=copies,
        shardings=shardings,
    )
    return nnx.merge(graphdef, params)


def save(
    model: nnx.Module,
    folder: str | os.PathLike,
    table: pretrained.Table,
    config: Mapping[str, Any],
    *,
    dtype: DTypeLike | None = None,
) -> None:
    """Writes the model's weights and `config` with their dtype: `pretrained.write`.

    LoRA is merged into the kernels; what is written has none.
    """
    params = merge_lora(model)
    kind = np.dtype(jax.tree.leaves(params)[0].dtype if dtype is None else dtype)
    stated = {**config, "dtype": kind.name}
    pretrained.write(folder, table, params, stated, dtype=dtype)
