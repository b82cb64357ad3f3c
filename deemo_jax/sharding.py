"""The mesh, and the one table that says how every parameter lies on it.

axis     rows of a batch   parameters and optimizer state   activations
data     split             copied                           rows
fsdp     split             split, gathered where used       rows
tensor   copied            split, computed split            heads, mlp, vocab
"""

from collections.abc import Sequence
import math
import re
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
import numpy as np

from deemo_jax.batch import Batch
from deemo_jax.config import ConfigError, MeshConfig

Axis = str | tuple[str, ...] | None

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")

_WIDENING = "gate_proj|up_proj|fc1|linear_1|intermediate_query/dense"
_NARROWING = "down_proj|fc2|linear_2|output_query/dense"
# Path of a parameter -> axes of its dimensions, without the leading axis of layers that
# parameters under `layers/` have: that one is never split. First match wins. LoRA
# has no rows: it follows its kernel, whose inputs and outputs it shares.
PARAMETERS: tuple[tuple[str, tuple[Axis, ...]], ...] = (
    # What widens splits its outputs over `tensor`, what narrows its inputs, so that a
    # pair of the two needs one sum over the axis (Shoeybi et al., 2019, section 3).
    (r".*/(q_proj|k_proj|v_proj|query|key|value)/kernel", ("fsdp", "tensor")),
    (r".*/(q_proj|k_proj|v_proj|query|key|value)/bias", ("tensor",)),
    (rf".*/({_WIDENING})/kernel", ("fsdp", "tensor")),
    (rf".*/({_WIDENING})/bias", ("tensor",)),
    (r".*/(o_proj|out_proj|output/dense)/kernel", ("tensor", "fsdp")),
    (rf".*/({_NARROWING})/kernel", ("tensor", "fsdp")),
    (r".*/(o_proj|out_proj|output/dense)/bias", (None,)),
    (rf".*/({_NARROWING})/bias", (None,)),
    (r"(.*/)?embed_tokens/embedding", (("tensor", "fsdp"), None)),
    (r"(.*/)?lm_head/kernel", ("fsdp", "tensor")),
    (r"(.*/)?projection/kernel", ("fsdp", None)),
    (r"(.*/)?projection/bias", (None,)),
    (r"(.*/)?(conv1|conv2|conv)/kernel", (None, None, "fsdp")),
    (r"(.*/)?(conv1|conv2|conv)/bias", (None,)),
    (r"(.*/)?pos_conv_embed/kernel", (None, None, "fsdp")),
    (r"(.*/)?pos_conv_embed/gain", (None, None, None)),
    (r"(.*/)?(pos_conv_embed/bias|masked_spec_embed)", (None,)),
    (r"(.*/)?patch_embedding/kernel", (None, None, None, "fsdp")),
    (r"(.*/)?(embed_positions|position_embedding)/embedding", (None, None)),
    (r"(.*/)?query_tokens", (None, None)),
    (r"(.*/)?class_embedding", (None,)),
    (r"(.*/)?head/probe", (None, None, None)),
    (r"(.*/)?patch_embedding/bias", (None,)),
    (r"(.*/)?head/in_proj/kernel", ("fsdp", "tensor")),
    (r"(.*/)?head/in_proj/bias", ("tensor",)),
    (r"(.*/)?\w*(norm|layrnorm|layer_norm[12]?|LayerNorm)/(scale|bias)", (None,)),
)  # fmt: skip

# Name of an activation's dimension -> the axes it is split over.
ACTIVATIONS: dict[str, Axis] = {
    "batch": ROWS,
    "sequence": None,
    "embed": None,
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "vocab": "tensor",
}


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of axes `data`, `fsdp`, `tensor` over `devices` (all of them if None).

    A size of -1 takes what the others leave. Sizes that together divide the number of
    devices without using all of them take the first ones, in a run of one process.

    Raises:
      ConfigError: if the sizes do not divide the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [config.data, config.fsdp, config.tensor]
    stated = math.prod(size for size in sizes if size != -1)
    if len(devices) % stated:
        raise ConfigError(
            f"config.mesh is data={config.data}, fsdp={config.fsdp}, "
            f"tensor={config.tensor}: {stated} does not divide the {len(devices)} "
            f"devices here; choose sizes that do, or -1 for one of them"
        )
    sizes = [len(devices) // stated if size == -1 else size for size in sizes]
    used = devices[: math.prod(sizes)]
    if len(used) < len(devices) and jax.process_count() > 1:
        raise ConfigError(
            f"config.mesh takes {len(used)} of {len(devices)} devices, which leaves "
            f"hosts without any; use all of them, -1 for one of the sizes does"
        )
    # Auto: XLA carries shardings from the arguments and from `constrain` to the rest.
    return jax.make_mesh(
        tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=used
    )


def parameter_shardings(params: Any, mesh: Mesh) -> Any:
    """A `NamedSharding` in place of each parameter, by the table `PARAMETERS`.

    A dimension whose size the axes do not divide is copied instead of split.

    Args:
      params: an `nnx.State` or nested dict of anything with a shape.
      mesh: has the axes `data`, `fsdp`, `tensor`.

    Raises:
      ValueError: naming a parameter that no row matches, or of another rank than its
        row.
    """

    def place(keys: tuple, value: Any) -> NamedSharding:
        spec = partition_spec(path_of(keys), value.shape, dict(mesh.shape))
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, params)


def path_of(keys: tuple) -> str:
    """The path of a parameter as the tables have it: `language_model/norm/scale`.

    `keys` are those of `jax.tree_util`; the attribute by which an `nnx.Variable` holds
    its value is left out.
    """
    names = [key.key for key in keys if isinstance(key, jax.tree_util.DictKey)]
    return "/".join(map(str, names))


def partition_spec(
    path: str, shape: tuple[int, ...], sizes: dict[str, int]
) -> PartitionSpec:
    """How the parameter at `path` lies on a mesh whose axes have these sizes."""
    module, _, name = path.rpartition("/")
    follows = f"{module}/kernel" if name in ("lora_a", "lora_b") else path
    matching = (row for row in PARAMETERS if re.fullmatch(row[0], follows))
    pattern, axes = next(matching, (None, ()))
    if pattern is None:
        raise ValueError(
            f"parameter {path} of shape {shape} matches no row of "
            f"deemo_jax.sharding.PARAMETERS; add a row for it"
        )
    if name == "lora_a":
        axes = (*axes[:1], None)  # the rank is small and never split
    elif name == "lora_b":
        axes = (None, *axes[-1:])
    if "layers" in path.split("/"):
        axes = (None, *axes)
    if len(axes) != len(shape):
        raise ValueError(
            f"parameter {path} has shape {shape}, but its row of "
            f"deemo_jax.sharding.PARAMETERS, {pattern!r}, has axes for {len(axes)} "
            f"dimensions; add a row of its own above that one"
        )
    return _fitting(axes, shape, sizes)


def constrain(x: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
    """Pins `x` to the current mesh by the names of its dimensions, see `ACTIVATIONS`.

    The mesh is that of `jax.set_mesh`; without one, `x` comes back as it is. A
    dimension whose size the axes do not divide is copied instead of split.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    axes = tuple(None if name is None else ACTIVATIONS[name] for name in names)
    spec = _fitting(axes, x.shape, dict(mesh.shape))
    return jax.lax.with_sharding_constraint(x, spec)


def row_sharding(mesh: Mesh) -> NamedSharding:
    """How a batch lies: its rows over `data` and `fsdp`, copied over `tensor`."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def check_rows(rows: int, mesh: Mesh, *, key: str = "train.batch_size") -> None:
    """Refuses a global batch whose `rows` do not divide over the mesh.

    Raises:
      ConfigError: saying what `config.KEY` would do.
    """
    parts = math.prod(mesh.shape[axis] for axis in ROWS)
    if rows % parts:
        raise ConfigError(
            f"a batch of {rows} rows does not divide over the {parts} parts of the "
            f"mesh (data={mesh.shape['data']} times fsdp={mesh.shape['fsdp']}); make "
            f"config.{key} a multiple of {parts}"
        )


def local_rows(mesh: Mesh, rows: int) -> tuple[int, ...]:
    """Which of the `rows` of a global batch lie on this process's devices, in order.

    Processes whose devices differ along `tensor` alone hold the same rows.
    """
    held = row_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    return tuple(sorted({row for part in held if part for row in range(rows)[part[0]]}))


def place(batch: Batch, mesh: Mesh, *, rows: int | None = None) -> Batch:
    """Puts a batch on the devices, split by its rows.

    Args:
      rows: of the global batch, of which `batch` has the `local_rows`; None if it has
        all of them, in every process.

    Raises:
      ConfigError: if the rows of the global batch do not divide over the mesh.
    """
    count = batch.tokens.shape[0] if rows is None else rows
    check_rows(count, mesh)
    sharding = row_sharding(mesh)
    held = range(count) if rows is None else local_rows(mesh, count)
    at = {row: index for index, row in enumerate(held)}

    def put(leaf: ArrayLike) -> jax.Array:
        local = np.asarray(leaf)
        shape = (count, *local.shape[1:])
        parts = []
        for device, index in sharding.addressable_devices_indices_map(shape).items():
            assert index is not None  # it is an addressable device's
            wanted = range(count)[index[0]]
            part = local[at[wanted[0]] : at[wanted[-1]] + 1]
            parts.append(jax.device_put(part, device))
        return jax.make_array_from_single_device_arrays(shape, sharding, parts)

    return jax.tree.map(put, batch)


def _fitting(
    axes: tuple[Axis, ...], shape: tuple[int, ...], sizes: dict[str, int]
) -> PartitionSpec:
    """The axes, without those whose size does not divide their dimension."""
    fitting = []
    for axis, length in zip(axes, shape, strict=True):
        parts = (axis,) if isinstance(axis, str) else axis or ()
        divides = length % math.prod(sizes[part] for part in parts) == 0
        fitting.append(axis if divides else None)
    return PartitionSpec(*fitting)
