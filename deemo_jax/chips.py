"""What accelerators are rated for, in one table: its figures are the vendors' own.

TPUs: the pages "TPU v5e", "TPU v5p" and "TPU v6e" of Google Cloud's documentation (per
chip: peak compute in bf16, HBM, bidirectional ICI, DCN). GPUs: NVIDIA's data sheets of
A100, H100 SXM, H200 and DGX B200 (dense bf16, memory, NVLink), and one 400 Gb/s network
adapter a GPU (200 for A100), as in NVIDIA's DGX systems.
"""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One accelerator; bandwidths are what one chip can send, in bytes a second.

    `flops` is the peak of dense bfloat16 products with float32 sums, `memory` in bytes.
    `links` is the bandwidth of all links within a slice or host together, `dimensions`
    how many dimensions of a torus they are shared by (1: a switch). `network` is that
    between slices or hosts. `host` is the number of chips in one host.
    """

    name: str
    device_kinds: tuple[str, ...]
    flops: float
    memory: float
    memory_bandwidth: float
    links: float
    dimensions: int
    network: float
    host: int


_GB, _TB, _GIB, _TERA = 1e9, 1e12, 2.0**30, 1e12
_GBIT = 1e9 / 8

CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip(
            name="v5e", device_kinds=("TPU v5 lite", "TPU v5e"), flops=197 * _TERA,
            memory=16 * _GIB, memory_bandwidth=819 * _GB,
            links=400 * _GB / 2, dimensions=2, network=25 * _GBIT, host=8,
        ),
        Chip(
            name="v5p", device_kinds=("TPU v5", "TPU v5p"), flops=459 * _TERA,
            memory=95 * _GIB, memory_bandwidth=2765 * _GB,
            links=1200 * _GB / 2, dimensions=3, network=50 * _GBIT, host=4,
        ),
        Chip(
            name="v6e", device_kinds=("TPU v6 lite", "TPU v6e"), flops=918 * _TERA,
            memory=32 * _GIB, memory_bandwidth=1640 * _GB,
            links=800 * _GB / 2, dimensions=2, network=100 * _GBIT, host=8,
        ),
        Chip(
            name="a100", device_kinds=("NVIDIA A100-SXM4-80GB",), flops=312 * _TERA,
            memory=80 * _GIB, memory_bandwidth=2039 * _GB,
            links=600 * _GB / 2, dimensions=1, network=200 * _GBIT, host=8,
        ),
        Chip(
            name="h100", device_kinds=("NVIDIA H100 80GB HBM3",), flops=989.5 * _TERA,
            memory=80 * _GB, memory_bandwidth=3.35 * _TB,
            links=900 * _GB / 2, dimensions=1, network=400 * _GBIT, host=8,
        ),
        Chip(
            name="h200", device_kinds=("NVIDIA H200",), flops=989.5 * _TERA,
            memory=141 * _GB, memory_bandwidth=4.8 * _TB,
            links=900 * _GB / 2, dimensions=1, network=400 * _GBIT, host=8,
        ),
        Chip(
            name="b200", device_kinds=("NVIDIA B200",), flops=2250 * _TERA,
            memory=180 * _GB, memory_bandwidth=8 * _TB,
            links=1800 * _GB / 2, dimensions=1, network=400 * _GBIT, host=8,
        ),
    )
}  # fmt: skip


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls `device_kind`; None if its peak is not known here."""
    for chip in CHIPS.values():
        if device_kind in chip.device_kinds:
            return chip
    return None
