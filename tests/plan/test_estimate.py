"""Plans: compiled for the eight devices here, which stand in for eight chips."""

import dataclasses
import importlib.util

import jax
from jax.sharding import Mesh
import numpy as np
import pytest

from deemo_jax.config import ConfigError, MeshConfig
from deemo_jax.models.deemo_llama import DeemoLlama
from deemo_jax.plan import estimate
from deemo_jax.plan.estimate import Memory, Times, make_plan, stand_ins
from deemo_jax.plan.program import Collective
from deemo_jax.plan.report import describe
from deemo_jax.plan.topology import NotCompiledError, read_topology
from deemo_jax.sharding import AXES, make_mesh, place
from deemo_jax.train import step
from deemo_jax.train.step import abstract_batch, abstract_state, init_state
from tests.small import Bigrams, small_config

CONFIG = small_config(mesh__data=2, mesh__fsdp=4)


@pytest.fixture
def simulated(monkeypatch):
    """The simulated devices instead of chips."""
    monkeypatch.setattr(
        estimate, "compile_only_devices", lambda topology: jax.devices()
    )


@pytest.fixture
def no_compiler(monkeypatch):
    def refuse(topology):
        raise NotCompiledError("nothing is installed")

    monkeypatch.setattr(estimate, "compile_only_devices", refuse)


@pytest.fixture(scope="module", autouse=True)
def bigrams():
    """A model that compiles in a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "DeemoLlama", Bigrams)
        yield


@pytest.fixture(scope="module")
def plan(bigrams):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate, "compile_only_devices", lambda _: jax.devices())
        return make_plan(CONFIG, read_topology("v5e-8"))


def test_the_memory_of_the_arguments_is_exactly_what_is_then_placed(plan):
    mesh = make_mesh(CONFIG.mesh)
    with jax.set_mesh(mesh):
        state = init_state(CONFIG, mesh)
    shapes = abstract_batch(CONFIG, mesh)
    batch = place(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes), mesh)

    def held(tree):
        first = jax.devices()[0]
        shards = [s for leaf in jax.tree.leaves(tree) for s in leaf.addressable_shards]
        return sum(shard.data.nbytes for shard in shards if shard.device == first)

    memory = plan.memory
    assert memory.parameters == held(state.params)
    assert memory.optimizer == held((state.opt_state, state.step))
    assert memory.batch == held(batch)
    assert memory.arguments == held((state, batch))


def test_a_compiled_plan(plan):
    assert plan.compiled
    assert plan.fits is True
    assert plan.trouble == ""
    assert plan.sizes["data"] == 2
    assert plan.sizes["fsdp"] == 4
    assert plan.memory.temporaries > 0
    moved = {(x.kind, x.axes) for x in plan.collectives}
    assert any(axes == ("fsdp",) for _, axes in moved)
    assert any("data" in axes for _, axes in moved)  # gradients are added up
    assert set(plan.flops) >= {"vision_tower", "audio_tower", "language_model"}
    assert 0 < plan.mfu(plan.times.apart) < plan.mfu(plan.times.step) <= 1


def test_without_a_compiler_formulas_are_left(no_compiler, plan):
    found = make_plan(CONFIG, read_topology("v5e-8"))
    assert not found.compiled
    assert found.fits is None
    assert found.trouble == "nothing is installed"
    assert found.collectives == ()
    assert found.flops == plan.flops
    for name in ("parameters", "optimizer", "batch"):
        assert getattr(found.memory, name) == getattr(plan.memory, name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(mesh__data=3), "does not divide the 8 devices"),
        (dict(mesh__data=2, mesh__fsdp=2), "takes 4 of the 8 chips of v5e-8"),
        (dict(train__batch_size=9), "a batch of 9 rows does not divide"),
        (dict(layout__tolerance=0.0, mesh__data=1, mesh__tensor=8), "tolerance"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(no_compiler, changes, message):
    with pytest.raises(ConfigError, match=message):
        make_plan(small_config(**changes), read_topology("v5e-8"))


def test_what_is_too_large_before_a_step_does_not_fit(no_compiler, monkeypatch):
    topology = read_topology("v5e-8")
    small = dataclasses.replace(topology.chip, memory=1e4)
    found = make_plan(CONFIG, dataclasses.replace(topology, chip=small))
    assert found.fits is False


def test_a_compiler_that_runs_out_of_memory_is_told(simulated, monkeypatch):
    said = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error.\nRan out of memory in "

    class Step:
        def lower(self, *_):
            raise jax.errors.JaxRuntimeError(said + "memory space hbm. Used 17.5G.")

    monkeypatch.setattr(estimate, "make_train_step", lambda *_: Step())
    found = make_plan(CONFIG, read_topology("v5e-8"))
    assert found.fits is False
    assert "Ran out of memory in memory space hbm. Used 17.5G." in found.trouble


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("UNIMPLEMENTED: no such kernel\nat a place"),
        NotImplementedError("no such kernel for this platform"),
        ValueError("no such kernel here"),
    ],
)
def test_what_the_compiler_cannot_do_leaves_the_formulas(
    simulated, monkeypatch, plan, error
):
    class Step:
        def lower(self, *_):
            raise error

    monkeypatch.setattr(estimate, "make_train_step", lambda *_: Step())
    found = make_plan(CONFIG, read_topology("v5e-8"))
    assert not found.compiled
    assert found.fits is None
    assert found.trouble.startswith("the compiler says: ")
    assert "no such kernel" in found.trouble
    assert "\n" not in found.trouble
    assert found.flops == plan.flops
    assert found.memory.arguments == plan.memory.arguments
    assert "analytic only, no program was compiled" in describe(found)


def test_what_the_run_itself_refuses_is_not_the_compilers_word(simulated, monkeypatch):
    class Step:
        def lower(self, *_):
            raise ConfigError("no such layout")

    monkeypatch.setattr(estimate, "make_train_step", lambda *_: Step())
    with pytest.raises(ConfigError, match="no such layout"):
        make_plan(CONFIG, read_topology("v5e-8"))


@pytest.mark.parametrize(
    ("name", "sizes", "axes", "expected"),
    [
        # One dimension of a torus of two; all of it over every link.
        ("v5e-16", dict(data=4, fsdp=4), ("fsdp",), 100e9),
        ("v5e-16", dict(fsdp=16), ("fsdp",), 200e9),
        ("v5p-16", dict(fsdp=2, tensor=4), ("tensor",), 200e9),
        # Between slices: alone through the network, or with the others of the slice.
        ("2xv5e-16", dict(dcn_data=2, fsdp=16), ("dcn_data",), 25e9 / 8),
        ("2xv5e-16", dict(dcn_data=2, fsdp=16), ("dcn_data", "fsdp"), 16 * 25e9 / 8),
        ("2xv5e-16", dict(dcn_data=2, fsdp=16), ("fsdp",), 200e9),
        # Within a host of GPUs, between hosts, over all of both.
        ("h100-2x8", dict(dcn_data=2, fsdp=8), ("fsdp",), 450e9),
        ("h100-2x8", dict(dcn_data=2, fsdp=8), ("dcn_data",), 50e9),
        ("h100-2x8", dict(fsdp=16), ("fsdp",), 400e9),
    ],
)
def test_bandwidths(name, sizes, axes, expected):
    topology = read_topology(name)
    mesh = make_mesh(MeshConfig(**sizes), stand_ins(topology))
    moved = Collective(kind="all-gather", axes=axes, count=1, sent=1.0)
    assert estimate._bandwidth(moved, mesh, topology) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("sizes", "links"),
    [
        (dict(data=2, fsdp=32), 2 / 3),  # half of one dimension, all of the others
        (dict(data=4, fsdp=16), 2 / 3),
        (dict(data=16, fsdp=4), 1 / 3),
        (dict(data=32, fsdp=2), 1 / 3),  # neighbours
        (dict(fsdp=64), 1),
    ],
)
def test_a_group_uses_the_links_of_the_dimensions_that_it_spans(sizes, links):
    topology = read_topology("v5p-128")
    devices = stand_ins(topology)
    for device, coords in zip(devices, np.ndindex(4, 4, 4), strict=True):
        object.__setattr__(device, "coords", coords)
    grid = np.array(devices).reshape(1, 1, sizes.get("data", 1), sizes["fsdp"], 1, 1)
    mesh = Mesh(grid, AXES)
    moved = Collective(kind="all-gather", axes=("fsdp",), count=1, sent=1.0)
    found = estimate._bandwidth(moved, mesh, topology)
    assert found == pytest.approx(links * topology.chip.links)


def test_what_memory_must_move_does_not_grow_with_copies(no_compiler):
    """All layouts gather the same weights; on a mesh of one, nothing is gathered."""
    found = set()
    for mesh in (dict(mesh__data=8), dict(mesh__data=1, mesh__fsdp=8)):
        plan = make_plan(small_config(**mesh), read_topology("v5e-8"))
        optimizer = 2.0 * 1.5 * plan.memory.optimizer / 819e9
        found.add(round(plan.times.memory - optimizer, 15))
    assert len(found) == 1
    mesh = make_mesh(MeshConfig())
    leaves = jax.tree.leaves(abstract_state(CONFIG, mesh).params)
    weights = sum(leaf.size for leaf in leaves)
    assert found.pop() == pytest.approx(2 * 4 * weights / 819e9)


def test_the_longest_time_bounds_a_step():
    times = Times(compute=0.2, memory=0.1, network=0.3)
    assert (times.step, times.bound) == (0.3, "network")
    assert times.apart == pytest.approx(0.6)
    assert Times(compute=0.2, memory=0.1, network=None).bound == "compute"


def test_memory_is_added_up():
    memory = Memory(
        parameters=4, optimizer=3, batch=2, temporaries=None, program=None, capacity=9
    )
    assert (memory.arguments, memory.total) == (9, 9)
    assert dataclasses.replace(memory, temporaries=5, program=1).total == 15


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the extra plan brings libtpu"
)
def test_the_real_step_is_compiled_for_tpus(monkeypatch):
    monkeypatch.setattr(step, "DeemoLlama", DeemoLlama)
    config = small_config(mesh__dcn_data=2, mesh__fsdp=2, mesh__tensor=2)
    found = make_plan(config, read_topology("2xv5e-4"))
    assert found.compiled, found.trouble
    assert found.fits
    assert ("dcn_data",) in {x.axes for x in found.collectives}


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None,
    reason="the extra plan-gpu brings the compiler for GPUs",
)
def test_the_real_step_is_compiled_for_gpus(monkeypatch):
    monkeypatch.setattr(step, "DeemoLlama", DeemoLlama)
    config = small_config(mesh__fsdp=4, mesh__tensor=2)
    found = make_plan(config, read_topology("h100-1x8"))
    assert found.compiled, found.trouble
    assert found.fits
    assert {("fsdp",), ("tensor",)} <= {x.axes for x in found.collectives}
