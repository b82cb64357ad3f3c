"""The mesh, and the one table that says how every parameter lies on it.

axis       rows of a batch   parameters and optimizer state   activations
dcn_data   split             copied                           rows
dcn_fsdp   split             split, gathered where used       rows
data       split             copied                           rows
fsdp       split             split, gathered where used       rows
sequence   copied            copied                           places of the decoder
tensor     copied            split, computed split            heads, mlp, vocab

The first two cross the network between slices or hosts (DCN). The encoders' rows, which
are frames and clips, are split over `sequence` too, and over `tensor` if not used else.
"""

from collections.abc import Iterator, Sequence
import contextlib
import contextvars
import dataclasses
import itertools
import math
import re
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from deemo_jax.batch import Batch
from deemo_jax.config import LAYOUTS, ConfigError, LayoutConfig, MeshConfig

Axis = str | tuple[str, ...] | None

DCN = ("dcn_data", "dcn_fsdp")
ICI = ("data", "fsdp", "sequence", "tensor")
AXES = (*DCN, *ICI)
ROWS = ("dcn_data", "dcn_fsdp", "data", "fsdp")
FSDP = ("dcn_fsdp", "fsdp")

DECODER = "language_model"

_WIDENING = "gate_proj|up_proj|fc1|linear_1|intermediate_query/dense"
_NARROWING = "down_proj|fc2|linear_2|output_query/dense"
# Path of a parameter -> axes of its dimensions, without the leading axis of layers that
# parameters under `layers/` have: that one is never split. First match wins. LoRA
# has no rows: it follows its kernel, whose inputs and outputs it shares.
PARAMETERS: tuple[tuple[str, tuple[Axis, ...]], ...] = (
    # What widens splits its outputs over `tensor`, what narrows its inputs, so that a
    # pair of the two needs one sum over the axis (Shoeybi et al., 2019, section 3).
    (r".*/(q_proj|k_proj|v_proj|query|key|value)/kernel", (FSDP, "tensor")),
    (r".*/(q_proj|k_proj|v_proj|query|key|value)/bias", ("tensor",)),
    (rf".*/({_WIDENING})/kernel", (FSDP, "tensor")),
    (rf".*/({_WIDENING})/bias", ("tensor",)),
    (r".*/(o_proj|out_proj|output/dense)/kernel", ("tensor", FSDP)),
    (rf".*/({_NARROWING})/kernel", ("tensor", FSDP)),
    (r".*/(o_proj|out_proj|output/dense)/bias", (None,)),
    (rf".*/({_NARROWING})/bias", (None,)),
    (r"(.*/)?embed_tokens/embedding", ("tensor", FSDP)),
    (r"(.*/)?lm_head/kernel", (FSDP, "tensor")),
    (r"(.*/)?projection/kernel", (FSDP, None)),
    (r"(.*/)?projection/bias", (None,)),
    (r"(.*/)?(conv1|conv2|conv)/kernel", (None, None, FSDP)),
    (r"(.*/)?(conv1|conv2|conv)/bias", (None,)),
    (r"(.*/)?pos_conv_embed/kernel", (None, None, FSDP)),
    (r"(.*/)?pos_conv_embed/gain", (None, None, None)),
    (r"(.*/)?(pos_conv_embed/bias|masked_spec_embed)", (None,)),
    (r"(.*/)?patch_embedding/kernel", (None, None, None, FSDP)),
    (r"(.*/)?(embed_positions|position_embedding)/embedding", (None, None)),
    (r"(.*/)?query_tokens", (None, None)),
    (r"(.*/)?class_embedding", (None,)),
    (r"(.*/)?head/probe", (None, None, None)),
    (r"(.*/)?patch_embedding/bias", (None,)),
    (r"(.*/)?head/in_proj/kernel", (FSDP, "tensor")),
    (r"(.*/)?head/in_proj/bias", ("tensor",)),
    (r"(.*/)?\w*(norm|layrnorm|layer_norm[12]?|LayerNorm)/(scale|bias)", (None,)),
)  # fmt: skip

# Name of an activation's dimension -> the axes it is split over. "keys" are the places
# that every query sees: where `sequence` splits the queries, they are gathered.
ACTIVATIONS: dict[str | None, Axis] = {
    None: None,
    "batch": ROWS,
    "sequence": "sequence",
    "keys": None,
    "embed": None,
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "vocab": "tensor",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pinned:
    """An activation that `constrain` met while a function was traced."""

    part: str
    names: tuple[str | None, ...]
    shape: tuple[int, ...]
    dtype: str
    spec: PartitionSpec


# The part of the model that is being traced, with its layout; and who wants to know.
_part: contextvars.ContextVar[tuple[str, str]] = contextvars.ContextVar(
    "part", default=(DECODER, "fsdp_tensor")
)
_pinned: contextvars.ContextVar[list[Pinned] | None] = contextvars.ContextVar(
    "pinned", default=None
)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of the six axes over `devices` (all of them if None).

    A size of -1 takes what the others leave: once among `dcn_data` and `dcn_fsdp`, of
    the slices (of hosts, where devices have no slices), and once among the others, of
    the devices in each. Sizes that together divide the number of devices without using
    all of them take the first ones, in a run of one process.

    Raises:
      ConfigError: if the sizes do not divide the number of devices, or those of the
        network's axes not that of the slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    stated = {axis: getattr(config, axis) for axis in AXES}
    islands = _islands(devices)
    across = _sizes(
        stated, DCN, len(islands), "slices, or hosts, that the devices are in"
    )
    groups = math.prod(across)
    if len(islands) > 1 and len(islands) % groups:
        raise ConfigError(
            f"config.mesh has {_words(stated, DCN)}: {groups} does not divide the "
            f"{len(islands)} slices, or hosts, that the devices are in; choose sizes "
            f"that do, or 1"
        )
    if len(devices) % groups:
        raise ConfigError(
            f"config.mesh has {_words(stated, DCN)}: {groups} does not divide the "
            f"{len(devices)} devices here; choose sizes that do, or 1"
        )
    each = len(devices) // groups
    within = _sizes(stated, ICI, each, "devices here")
    used = math.prod(within)
    if used < each and (jax.process_count() > 1 or groups > 1):
        raise ConfigError(
            f"config.mesh takes {used * groups} of {len(devices)} devices, which "
            f"leaves hosts without any; use all of them, -1 for one of the sizes does"
        )
    ordered = list(itertools.chain.from_iterable(islands))
    # Each group is laid out on its own interconnect's torus.
    laid = [
        mesh_utils.create_device_mesh(
            within,
            ordered[first : first + used],
            allow_split_physical_axes=True,
        )
        for first in range(0, groups * each, each)
    ]
    grid = np.array(laid).reshape(*across, *within)
    # Auto: XLA carries shardings from the arguments and from `constrain` to the rest.
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _islands(devices: list[Any]) -> list[list[Any]]:
    """The devices by slice, where there are several, else by host; in order."""
    slices = {getattr(device, "slice_index", 0) for device in devices}
    key = "slice_index" if len(slices) > 1 else "process_index"
    found: dict[int, list[Any]] = {}
    for device in devices:
        found.setdefault(getattr(device, key), []).append(device)
    return [found[index] for index in sorted(found)]


def _sizes(
    stated: dict[str, int], axes: tuple[str, ...], count: int, what: str
) -> tuple[int, ...]:
    """The sizes of `axes`, -1 made what is left of `count`."""
    known = math.prod(stated[axis] for axis in axes if stated[axis] != -1)
    left = -1 in [stated[axis] for axis in axes]
    if (left or axes is ICI) and count % known:
        raise ConfigError(
            f"config.mesh has {_words(stated, axes)}: {known} does not divide the "
            f"{count} {what}; choose sizes that do, or -1 for one of them"
        )
    return tuple(
        count // known if stated[axis] == -1 else stated[axis] for axis in axes
    )


def _words(stated: dict[str, int], axes: tuple[str, ...]) -> str:
    return ", ".join(f"{axis}={stated[axis]}" for axis in axes)


def parameter_shardings(
    params: Any, mesh: Mesh, layout: LayoutConfig | None = None
) -> Any:
    """A `NamedSharding` in place of each parameter, by the table `PARAMETERS`.

    A dimension whose size the axes do not divide is copied instead of split, or split
    over the first of several axes.

    Args:
      params: an `nnx.State` or nested dict of anything with a shape.
      mesh: of the axes that it does not have, the table splits nothing.
      layout: of the parts; all `fsdp_tensor` if None.

    Raises:
      ValueError: naming a parameter that no row matches, or of another rank than its
        row.
    """

    def place(keys: tuple, value: Any) -> NamedSharding:
        spec = partition_spec(path_of(keys), value.shape, dict(mesh.shape), layout)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, params)


def layout_of(path: str, layout: LayoutConfig | None) -> str:
    """The layout, one of `LAYOUTS`, of the part that the parameter at `path` is in."""
    part = path.split("/")[0]
    if part.endswith("_connector"):
        part = "connectors"
    return getattr(layout, part, "fsdp_tensor")


def path_of(keys: tuple) -> str:
    """The path of a parameter as the tables have it: `language_model/norm/scale`.

    `keys` are those of `jax.tree_util`; the attribute by which an `nnx.Variable` holds
    its value is left out.
    """
    names = [key.key for key in keys if isinstance(key, jax.tree_util.DictKey)]
    return "/".join(map(str, names))


def partition_spec(
    path: str,
    shape: tuple[int, ...],
    sizes: dict[str, int],
    layout: LayoutConfig | None = None,
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
    if name in ("lora_a", "lora_b"):
        # The rank is small and never split, the other side over `fsdp` in any case.
        side = axes[0 if name == "lora_a" else -1]
        side = ("tensor", *FSDP) if side == "tensor" else side
        axes = (side, None) if name == "lora_a" else (None, side)
    if "layers" in path.split("/"):
        axes = (None, *axes)
    if len(axes) != len(shape):
        raise ValueError(
            f"parameter {path} has shape {shape}, but its row of "
            f"deemo_jax.sharding.PARAMETERS, {pattern!r}, has axes for {len(axes)} "
            f"dimensions; add a row of its own above that one"
        )
    allowed = LAYOUTS[layout_of(path, layout)]
    return _fitting(axes, shape, {axis: sizes.get(axis, 1) for axis in allowed})


@contextlib.contextmanager
def part(name: str, layout: LayoutConfig | None) -> Iterator[None]:
    """Within it, `constrain` pins activations of the model's part of that name."""
    token = _part.set((name, layout_of(name, layout)))
    try:
        yield
    finally:
        _part.reset(token)


@contextlib.contextmanager
def pinned() -> Iterator[list[Pinned]]:
    """A list that takes what `constrain` meets, in the order of tracing."""
    found: list[Pinned] = []
    token = _pinned.set(found)
    try:
        yield found
    finally:
        _pinned.reset(token)


def constrain(x: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
    """Pins `x` to the current mesh by the names of its dimensions, see `ACTIVATIONS`.

    The mesh is that of `jax.set_mesh`; without one, `x` comes back as it is. A
    dimension whose size the axes do not divide is copied instead of split.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    name, layout = _part.get()
    allowed: set[str] = set(AXES)
    allowed -= set() if "tensor" in LAYOUTS[layout] else {"tensor"}
    allowed -= set() if name == DECODER else {"sequence"}
    # What a part does not use otherwise splits its rows.
    rest = tuple(axis for axis in ("sequence", "tensor") if axis not in allowed)
    axes = tuple(
        (*ROWS, *rest) if each == "batch" else _only(ACTIVATIONS[each], allowed)
        for each in names
    )
    spec = _fitting(axes, x.shape, dict(mesh.shape))
    if (found := _pinned.get()) is not None:
        found.append(
            Pinned(part=name, names=names, shape=x.shape, dtype=str(x.dtype), spec=spec)
        )
    return jax.lax.with_sharding_constraint(x, spec)


def row_sharding(mesh: Mesh) -> NamedSharding:
    """How a batch lies: its rows over `ROWS`, copied over the other axes."""
    rows = tuple(axis for axis in ROWS if axis in mesh.shape)
    return NamedSharding(mesh, PartitionSpec(rows))


def check_rows(rows: int, mesh: Mesh, *, key: str = "train.batch_size") -> None:
    """Refuses a global batch whose `rows` do not divide over the mesh.

    Raises:
      ConfigError: saying what `config.KEY` would do.
    """
    sizes = {axis: mesh.shape[axis] for axis in ROWS if axis in mesh.shape}
    parts = math.prod(sizes.values())
    if rows % parts:
        words = " times ".join(f"{axis}={n}" for axis, n in sizes.items() if n > 1)
        raise ConfigError(
            f"a batch of {rows} rows does not divide over the {parts} parts of the "
            f"mesh ({words}); make config.{key} a multiple of {parts}"
        )


def local_rows(mesh: Mesh, rows: int) -> tuple[int, ...]:
    """Which of the `rows` of a global batch lie on this process's devices, in order.

    Processes whose devices differ along `sequence` or `tensor` alone hold the same.
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
    held = range(count) if rows is None else local_rows(mesh, count)
    # Other transfers in a step would be mistakes, and may be forbidden; this is meant.
    with jax.transfer_guard_host_to_device("allow"):
        return jax.tree.map(lambda x: _put(np.asarray(x), held, count, mesh), batch)


def _put(x: np.ndarray, held: Sequence[int], rows: int, mesh: Mesh) -> jax.Array:
    """The array of all `rows`, of which `x` has those that are `held` here."""
    sharding, each = row_sharding(mesh), x.shape[0] // len(held)  # clips of a row
    shape = (rows * each, *x.shape[1:])
    size = sharding.shard_shape(shape)[0]
    first = {row * each: place * each for place, row in enumerate(held)}
    return jax.make_array_from_callback(
        shape,
        sharding,
        lambda index: x[first[index[0].start or 0] :][:size],  # pyright: ignore
    )


def _only(axis: Axis, allowed: set[str]) -> tuple[str, ...]:
    """The axes of a dimension that are `allowed`."""
    parts = (axis,) if isinstance(axis, str) else axis or ()
    return tuple(part for part in parts if part in allowed)


def _fitting(
    axes: tuple[Axis, ...], shape: tuple[int, ...], sizes: dict[str, int]
) -> PartitionSpec:
    """The axes that split at all, and of those the first that divide the dimension."""
    fitting = []
    splitting = {axis for axis, size in sizes.items() if size > 1}
    for axis, length in zip(axes, shape, strict=True):
        parts = _only(axis, splitting)
        while parts and length % math.prod(sizes[part] for part in parts):
            parts = parts[:-1]
        fitting.append(parts if len(parts) > 1 else next(iter(parts), None))
    return PartitionSpec(*fitting)
