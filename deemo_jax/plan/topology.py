"""Hardware by the vendor's name, and its devices for a compiler that has none of them.

TPUs are compiled for by `libtpu` (extra `plan`), GPUs by JAX's CUDA plugin (extra
`plan-gpu`); neither needs the hardware, or a driver.
"""

import contextlib
import dataclasses
import importlib.util
import os
import re
from typing import Any

from jax.experimental import topologies

from deemo_jax.chips import CHIPS, Chip
from deemo_jax.config import ConfigError

# Chips of a slice -> its shape, as Google Cloud lists them.
_TORUS_2D = {
    1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16),
    256: (16, 16),
}  # fmt: skip
_TORUS_3D = {
    4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4), 64: (4, 4, 4),
    128: (4, 4, 8), 256: (4, 8, 8), 512: (8, 8, 8), 1024: (8, 8, 16),
    2048: (8, 16, 16), 4096: (16, 16, 16),
}  # fmt: skip
# Names of TPUs count chips, or cores, of which a v5p has two a chip.
_CORES = {"v5p": 2}
_SHAPES = {"v5e": _TORUS_2D, "v6e": _TORUS_2D, "v5p": _TORUS_3D}
# What libtpu wants to know of the machine that it believes to be on.
_TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is taken, so others may plan too
}


class NotCompiledError(Exception):
    """A plan cannot be compiled here: what is missing, or what the compiler said."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """`slices` of `slice_chips` each; of GPUs, a slice is a host."""

    name: str
    chip: Chip
    slices: int
    slice_chips: int

    @property
    def chips(self) -> int:
        """In all of it."""
        return self.slices * self.slice_chips

    @property
    def is_tpu(self) -> bool:
        """Whether it is of TPUs; else it is of GPUs."""
        return self.chip.name in _SHAPES


def read_topology(name: str) -> Topology:
    """The topology of a vendor's name.

    `v5e-256` and `v6e-256` have 256 chips, `v5p-512`, which counts cores, as well;
    `4xv5e-256` is four such slices. `h100-8x8` is 8 hosts of 8 GPUs.

    Raises:
      ConfigError: if there is none of that name; the known ones are listed.
    """
    found = re.fullmatch(r"(?:(\d+)x)?(v\d\w)-(\d+)", name)
    if found and found[2] in _SHAPES:
        count = int(found[3]) // _CORES.get(found[2], 1)
        slices = int(found[1] or 1)
        if count in _SHAPES[found[2]] and slices > 0:
            return Topology(
                name=name, chip=CHIPS[found[2]], slices=slices, slice_chips=count
            )
    found = re.fullmatch(r"([a-z]+\d+)-(\d+)x(\d+)", name)
    if found and found[1] in CHIPS and found[1] not in _SHAPES:
        chip, hosts, each = CHIPS[found[1]], int(found[2]), int(found[3])
        if hosts > 0 and 0 < each <= chip.host:
            return Topology(name=name, chip=chip, slices=hosts, slice_chips=each)
    raise ConfigError(f"--topology is {name!r}; known are {_known()}")


def _known() -> str:
    words = []
    for chip, shapes in _SHAPES.items():
        counts = [count * _CORES.get(chip, 1) for count in shapes]
        words.append(f"{chip}-{{{','.join(map(str, counts))}}}")
    gpus = [chip for chip in CHIPS if chip not in _SHAPES]
    words.append("several slices of these, such as 4xv5e-256")
    words.append(f"{{{','.join(gpus)}}}-HOSTSxGPUS, such as h100-8x8")
    return "; ".join(words)


def compile_only_devices(topology: Topology) -> list[Any]:
    """Devices that programs can be compiled for and nothing else.

    Raises:
      NotCompiledError: what brings the compiler is not installed, or it does not know
        the hardware.
    """
    if topology.is_tpu:
        return _tpu_devices(topology)
    from deemo_jax.plan.gpu_target import target_config

    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        raise NotCompiledError(
            "compiling for GPUs needs the extra plan-gpu: pip install --no-deps "
            "jax-cuda13-plugin jax-cuda13-pjrt, of the version that jax has"
        )
    target = target_config(topology.chip)
    if target is None:
        raise NotCompiledError(f"no description of {topology.chip.name} for XLA here")
    # Hosts, processes of a host, and GPUs of a process.
    shape = f"{topology.slices}x1x{topology.slice_chips}"
    with _environment({"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}):
        return _devices("", platform="cuda", topology=shape, target_config=target)


def _tpu_devices(topology: Topology) -> list[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise NotCompiledError(
            "compiling for TPUs needs the extra plan: pip install 'deemo-jax[plan]'"
        )
    shape = _SHAPES[topology.chip.name][topology.slice_chips]
    # A host has four chips or eight; a slice may be less than one.
    host = {1: [1, 1, 1], 4: [2, 2, 1]}.get(topology.slice_chips)
    options: dict[str, Any] = {} if host is None else {"chips_per_host_bounds": host}
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    with _environment(_TPU_ENVIRONMENT):
        name = f"{topology.chip.name}:{'x'.join(map(str, shape))}"
        found = _devices(name, platform="tpu", **options)
    if len(found) != topology.chips:  # two cores a chip, seen as two devices
        raise NotCompiledError(
            f"libtpu sees {len(found)} devices in {topology.chips} chips"
        )
    return found


def _devices(name: str, *, platform: str, **options: Any) -> list[Any]:
    try:
        found = topologies.get_topology_desc(name, platform=platform, **options)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        said = str(error).splitlines()[0]
        raise NotCompiledError(f"the compiler does not know it: {said}") from error
    return list(found.devices)


@contextlib.contextmanager
def _environment(values: dict[str, str]):
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
