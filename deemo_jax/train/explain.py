"""How a run lies on its devices: every parameter and activation, bytes and copies."""

from collections.abc import Iterable
import dataclasses
import math
from typing import Any

from flax import nnx
import jax
from jax.sharding import Mesh, PartitionSpec
import numpy as np

from deemo_jax.config import LAYOUTS, Config, ConfigError
from deemo_jax.sharding import layout_of, path_of, pinned
from deemo_jax.train.step import (
    TrainState,
    abstract_batch,
    abstract_state,
    split_model,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lying:
    """One array on a mesh: `copies` devices hold each piece, of `device_bytes`."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    spec: PartitionSpec
    device_bytes: int
    copies: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """What lies on the mesh whose `sizes` are given, by axis.

    `optimizer_bytes` and `batch_bytes` are a device's. `unsplit` is the share of the
    parameters' bytes that lie on more devices than their layout says.
    """

    sizes: dict[str, int]
    parameters: tuple[Lying, ...]
    activations: tuple[Lying, ...]
    optimizer_bytes: int
    batch_bytes: int
    unsplit: float
    tolerance: float

    def describe(self) -> str:
        """A table of each, and what they come to."""
        mesh = ", ".join(f"{axis}={n}" for axis, n in self.sizes.items() if n > 1)
        total = sum(x.device_bytes for x in self.parameters)
        held = (
            f"a device holds {_size(total)} of parameters, "
            f"{_size(self.optimizer_bytes)} of optimizer state and "
            f"{_size(self.batch_bytes)} of the batch"
        )
        copied = (
            f"{self.unsplit:.2%} of the parameters' bytes lie on more devices than "
            f"config.layout says; config.layout.tolerance is {self.tolerance:.2%}"
        )
        return "\n".join(
            [
                f"mesh: {math.prod(self.sizes.values())} devices, {mesh or 'one each'}",
                "",
                *_table("parameter", self.parameters),
                "",
                *_table("activation", self.activations),
                "",
                held,
                copied,
            ]
        )


def explain(config: Config, mesh: Mesh) -> Explanation:
    """How the run of `config` lies on `mesh`; nothing is computed or placed."""
    state = abstract_state(config, mesh)
    parameters = _parameters(state)
    batch = abstract_batch(config, mesh)
    graphdef, _ = split_model(config)
    with jax.set_mesh(mesh), pinned() as found:
        jax.eval_shape(
            lambda params, batch: nnx.merge(graphdef, params)(batch),
            state.params,
            batch,
        )
    sizes = dict(mesh.shape)
    activations = dict.fromkeys(
        _lying(
            f"{x.part}: {', '.join(name or '.' for name in x.names)}",
            x.shape,
            x.dtype,
            x.spec,
            sizes,
        )
        for x in found
    )
    return Explanation(
        sizes=sizes,
        parameters=parameters,
        activations=tuple(activations),
        optimizer_bytes=device_bytes(state.opt_state),
        batch_bytes=device_bytes(batch),
        unsplit=_unsplit(parameters, config, sizes),
        tolerance=config.layout.tolerance,
    )


def check_replication(config: Config, mesh: Mesh) -> None:
    """Refuses a mesh on which too much lies on more devices than the layout says.

    Raises:
      ConfigError: naming the largest of these parameters.
    """
    sizes, tolerance = dict(mesh.shape), config.layout.tolerance
    parameters = _parameters(abstract_state(config, mesh))
    unsplit = _unsplit(parameters, config, sizes)
    if unsplit <= tolerance:
        return
    largest = max(
        (x for x in parameters if _is_unsplit(x, config, sizes)),
        key=lambda x: math.prod(x.shape),
    )
    raise ConfigError(
        f"{unsplit:.1%} of the parameters' bytes would lie on more devices than "
        f"config.layout says, more than config.layout.tolerance, {tolerance:.1%}:"
        f" the axes do not divide {largest.name} {largest.shape}, say; choose sizes of "
        f"config.mesh that divide it, another config.layout, or a larger tolerance "
        f"(--explain_sharding shows all)"
    )


def _parameters(state: TrainState) -> tuple[Lying, ...]:
    found = jax.tree_util.tree_leaves_with_path(state.params)
    return tuple(
        _lying(
            path_of(keys),
            leaf.shape,
            str(leaf.dtype),
            leaf.sharding.spec,
            dict(leaf.sharding.mesh.shape),
        )
        for keys, leaf in found
    )


def device_bytes(tree: Any) -> int:
    """What a device holds of arrays given as shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _lying(
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    spec: PartitionSpec,
    sizes: dict[str, int],
) -> Lying:
    pieces = _pieces(spec, sizes)
    whole = math.prod(shape) * np.dtype(dtype).itemsize
    return Lying(
        name=name,
        shape=shape,
        dtype=dtype,
        spec=spec,
        device_bytes=whole // pieces,
        copies=math.prod(sizes.values()) // pieces,
    )


def _pieces(spec: PartitionSpec, sizes: dict[str, int]) -> int:
    return math.prod(sizes[axis] for axes in spec for axis in _tuple(axes))


def _tuple(axes: Any) -> tuple[str, ...]:
    return (axes,) if isinstance(axes, str) else axes or ()


def _unsplit(
    parameters: Iterable[Lying], config: Config, sizes: dict[str, int]
) -> float:
    held = {x: math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in parameters}
    copied = sum(n for x, n in held.items() if _is_unsplit(x, config, sizes))
    return copied / sum(held.values())


def _is_unsplit(x: Lying, config: Config, sizes: dict[str, int]) -> bool:
    axes = LAYOUTS[layout_of(x.name, config.layout)]
    return _pieces(x.spec, sizes) < math.prod(sizes[axis] for axis in axes)


def _table(kind: str, rows: tuple[Lying, ...]) -> list[str]:
    cells = [(kind, "shape", "dtype", "split over", "a device", "copies")]
    cells += [
        (
            x.name,
            "x".join(map(str, x.shape)),
            x.dtype,
            ", ".join("+".join(_tuple(axes)) or "." for axes in x.spec),
            _size(x.device_bytes),
            str(x.copies),
        )
        for x in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if at > 3 else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]


def _size(count: float | int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"
