"""A plan: a run's real training step, compiled for hardware that is not there."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from deemo_jax.chips import Chip
from deemo_jax.config import Config, ConfigError
from deemo_jax.flops import recomputed_flops, train_flops
from deemo_jax.plan.program import Collective, collectives
from deemo_jax.plan.topology import (
    NotCompiledError,
    Topology,
    compile_only_devices,
)
from deemo_jax.sharding import check_rows, make_mesh, path_of
from deemo_jax.train.explain import check_replication, device_bytes
from deemo_jax.train.frozen import TOWERS
from deemo_jax.train.step import (
    TrainState,
    abstract_batch,
    abstract_state,
    make_train_step,
)

# Of a GPU's memory, what a process gets for arrays; a TPU's compiler knows it itself.
GPU_SHARE = 0.92


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that a device holds: `arguments` by part, and what else a step takes.

    `temporaries` are the compiler's one figure, and `program` is the code; None where
    nothing was compiled. `capacity` is what there is.
    """

    parameters: int
    optimizer: int
    batch: int
    temporaries: int | None
    program: int | None
    capacity: int

    @property
    def arguments(self) -> int:
        """What lies there before a step begins."""
        return self.parameters + self.optimizer + self.batch

    @property
    def total(self) -> int:
        """All that is known of; the next state takes the place of this one."""
        return self.arguments + (self.temporaries or 0) + (self.program or 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds that a step takes at the least, by what bounds it.

    `compute` at the peak of the chip; `memory` for weights, optimizer state and
    temporaries, each moved as seldom as can be; `network` for the collectives one after
    another, None where nothing was compiled.
    """

    compute: float
    memory: float
    network: float | None

    @property
    def step(self) -> float:
        """The longest of them: as if the others were hidden behind it."""
        return max(self.compute, self.memory, self.network or 0.0)

    @property
    def apart(self) -> float:
        """Their sum: as if none were hidden behind another."""
        return self.compute + self.memory + (self.network or 0.0)

    @property
    def bound(self) -> str:
        """Which of them is the longest."""
        found = dataclasses.asdict(self)
        return max(found, key=lambda name: found[name] or 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is known of a run on a topology before it runs.

    `fits` is None where it is not known; `trouble` says why nothing was compiled, or
    what the compiler said. `flops` are those of a step, by part of the model.
    """

    topology: Topology
    sizes: dict[str, int]
    stage: str
    batch_size: int
    fits: bool | None
    trouble: str
    memory: Memory
    flops: dict[str, float]
    collectives: tuple[Collective, ...]
    times: Times

    @property
    def compiled(self) -> bool:
        """Whether the step was compiled, or all of this is by formula alone."""
        return self.memory.temporaries is not None

    def mfu(self, seconds: float) -> float:
        """The share of the chips' peak that the model's own operations come to."""
        peak = self.topology.chips * self.topology.chip.flops
        return sum(self.flops.values()) / peak / seconds


def make_plan(config: Config, topology: Topology) -> Plan:
    """Compiles the training step of `config` for `topology`, and reads the result.

    Where it cannot be compiled here, the plan holds what formulas give, and says why.

    Raises:
      ConfigError: if the mesh does not fit the topology, or the batch the mesh.
    """
    trouble, compiled = "", None
    try:
        devices = compile_only_devices(topology)
    except NotCompiledError as error:
        trouble, devices = str(error), stand_ins(topology)
    mesh = make_mesh(config.mesh, devices)
    if mesh.size != topology.chips:
        raise ConfigError(
            f"config.mesh takes {mesh.size} of the {topology.chips} chips of "
            f"{topology.name}; use all of them, -1 for one of the sizes does"
        )
    check_rows(config.train.batch_size, mesh)
    check_replication(config, mesh)
    state, batch = abstract_state(config, mesh), abstract_batch(config, mesh)
    if not trouble:
        trouble, compiled = _compile(config, mesh, state, batch, topology)
    sizes = dict(mesh.shape)
    stats = None if compiled is None else compiled.memory_analysis()
    program = () if compiled is None else collectives(compiled.as_text(), sizes)
    memory = Memory(
        parameters=device_bytes(state.params),
        optimizer=device_bytes(state.opt_state) + device_bytes(state.step),
        batch=device_bytes(batch),
        temporaries=None if stats is None else stats.temp_size_in_bytes,
        program=None if stats is None else stats.generated_code_size_in_bytes,
        capacity=_capacity(topology),
    )
    return Plan(
        topology=topology,
        sizes=sizes,
        stage=config.train.stage,
        batch_size=config.train.batch_size,
        fits=_fits(memory, stats is not None, trouble),
        trouble=trouble,
        memory=memory,
        flops=train_flops(config),
        collectives=program,
        times=_times(config, topology, mesh, state, memory, program),
    )


def _compile(
    config: Config, mesh: Mesh, state: Any, batch: Any, topology: Topology
) -> tuple[str, Any]:
    """What the compiler says against it, and the compiled step."""
    step = make_train_step(config, mesh)
    options: dict[str, Any] = {}
    if not topology.is_tpu:  # there is no GPU on which to try out which kernel is best
        options = {"xla_gpu_autotune_level": "0", "xla_gpu_enable_triton_gemm": False}
    with jax.set_mesh(mesh):
        try:
            return "", step.lower(state, batch).compile(compiler_options=options)
        except ConfigError:  # of the run, not of the compiler
            raise
        except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as error:
            return _first_words(str(error) or repr(error)), None


def _first_words(said: str) -> str:
    """The line of a compiler's message that says what is wrong."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    full = next((line for line in lines if "Ran out of memory" in line), lines[0])
    return f"the compiler says: {full[:300]}"


def _fits(memory: Memory, compiled: bool, trouble: str) -> bool | None:
    if memory.arguments > memory.capacity or "Ran out of memory" in trouble:
        return False
    return memory.total <= memory.capacity if compiled else None


def _capacity(topology: Topology) -> int:
    memory = topology.chip.memory
    return int(memory if topology.is_tpu else memory * GPU_SHARE)


def stand_ins(topology: Topology) -> list[Any]:
    """Devices with a place and nothing else, where no compiler is installed."""

    @dataclasses.dataclass(frozen=True)
    class Device:
        id: int
        slice_index: int
        process_index: int
        platform: str = "none"
        device_kind: str = topology.chip.name

    each, chip = topology.slice_chips, topology.chip
    return [
        Device(id=n, slice_index=n // each, process_index=n // min(each, chip.host))
        for n in range(topology.chips)
    ]


def _times(
    config: Config,
    topology: Topology,
    mesh: Mesh,
    state: TrainState,
    memory: Memory,
    program: Sequence[Collective],
) -> Times:
    chip, counted = topology.chip, sum(train_flops(config).values())
    counted += sum(recomputed_flops(config).values())
    return Times(
        compute=counted / topology.chips / chip.flops,
        memory=_traffic(config, mesh, state, memory) / chip.memory_bandwidth,
        network=None
        if memory.temporaries is None
        else sum(x.sent / _bandwidth(x, mesh, topology) for x in program),
    )


def _traffic(config: Config, mesh: Mesh, state: TrainState, memory: Memory) -> float:
    """Bytes between a device's memory and its units that no schedule avoids.

    Weights are read going forward and backward, and once more where what a layer needs
    is recomputed, in the dtype of computation and as large as they are once gathered;
    of what is trained, parameters and both moments are read and written; what is
    temporary is written once and read once. Towers that have been run before are not
    read.
    """
    counted = jax.tree_util.tree_leaves_with_path(state.params)
    count = sum(
        math.prod(leaf.shape)
        for keys, leaf in counted
        if not (config.data.features and path_of(keys).split("/")[0] in TOWERS)
    )
    gathered = count * np.dtype(config.train.dtype).itemsize / mesh.shape["tensor"]
    passes = 3 if config.train.remat == "full" else 2
    trained = 1.5 * memory.optimizer  # two moments, and as much as one of parameters
    return passes * gathered + 2.0 * trained + 2.0 * (memory.temporaries or 0)


def _bandwidth(collective: Collective, mesh: Mesh, topology: Topology) -> float:
    """Bytes a second that a device sends in a collective over these axes.

    Within a slice of TPUs, a collective over all chips uses every link, another those
    of the torus's dimensions that its group spans from end to end, at least of one.
    Where it leaves the slice or the host, the devices of the group that share one share
    its way out.
    """
    chip: Chip = topology.chip
    group = math.prod(mesh.shape[axis] for axis in collective.axes)
    places = np.unravel_index(np.arange(mesh.size), mesh.devices.shape)
    inside = np.ones(mesh.size, bool)
    for axis, place in zip(mesh.axis_names, places, strict=True):
        if axis not in collective.axes:
            inside &= place == 0
    which = "slice_index" if topology.is_tpu else "process_index"
    exchanging = [
        device for device, yes in zip(mesh.devices.flat, inside, strict=True) if yes
    ]
    islands = {getattr(device, which, 0) for device in exchanging}
    each = group // len(islands)
    spanned = _spanned(exchanging, list(mesh.devices.flat))
    whole = each == topology.slice_chips
    used = chip.dimensions if whole else min(max(spanned, 1), chip.dimensions)
    links = chip.links * used / chip.dimensions
    if len(islands) == 1:
        return links
    outside = chip.network * each
    return outside if each == 1 else min(links, outside)


def _spanned(group: Sequence[Any], devices: Sequence[Any]) -> int:
    """In how many dimensions of the torus a group has every place that there is."""
    if not all(hasattr(device, "coords") for device in devices):
        return 0
    taken = zip(*(device.coords for device in group), strict=True)
    there = zip(*(device.coords for device in devices), strict=True)
    return sum(
        1 < len(set(places)) == len(set(held))
        for held, places in zip(taken, there, strict=True)
    )
