"""Names of hardware, and its devices for a compiler."""

import importlib.util

import jax
import pytest

from deemo_jax.config import ConfigError, MeshConfig
from deemo_jax.plan import topology
from deemo_jax.plan.topology import (
    NotCompiledError,
    compile_only_devices,
    read_topology,
)
from deemo_jax.sharding import make_mesh


@pytest.mark.parametrize(
    ("name", "chip", "slices", "chips"),
    [
        ("v5e-256", "v5e", 1, 256),
        ("v6e-8", "v6e", 1, 8),
        ("v5p-512", "v5p", 1, 256),  # its name counts cores
        ("v5p-8", "v5p", 1, 4),
        ("4xv5e-256", "v5e", 4, 1024),
        ("h100-8x8", "h100", 8, 64),
        ("h200-1x8", "h200", 1, 8),
        ("h200-1x1", "h200", 1, 1),
    ],
)
def test_names_are_the_vendors(name, chip, slices, chips):
    found = read_topology(name)
    assert (found.chip.name, found.slices, found.chips) == (chip, slices, chips)
    assert found.is_tpu == chip.startswith("v")


@pytest.mark.parametrize(
    "name",
    ["", "v5e", "v5e-100", "v5p-256x2", "0xv5e-4", "h100", "h100-8x9", "h100-0x8",
     "x1-2x2", "v5e-8x8"],
)  # fmt: skip
def test_an_unknown_name_is_refused_and_the_known_ones_listed(name):
    with pytest.raises(ConfigError, match=r"known are v5e-\{1,4,8,.*h100-8x8"):
        read_topology(name)


def test_a_missing_compiler_is_named_with_what_brings_it(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotCompiledError, match=r"pip install 'deemo-jax\[plan\]'"):
        compile_only_devices(read_topology("v5e-8"))
    with pytest.raises(NotCompiledError, match="plan-gpu"):
        compile_only_devices(read_topology("h100-1x8"))


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the extra plan brings libtpu"
)
@pytest.mark.parametrize("name", ["v5e-4", "v5e-64", "v5p-128", "v6e-8", "2xv5e-16"])
def test_devices_of_a_tpu(name):
    wanted = read_topology(name)
    devices = compile_only_devices(wanted)
    assert len(devices) == wanted.chips
    mesh = make_mesh(MeshConfig(dcn_data=wanted.slices, fsdp=-1), devices)
    assert mesh.size == wanted.chips
    assert jax.devices()[0].platform == "cpu"  # and nothing here has changed
