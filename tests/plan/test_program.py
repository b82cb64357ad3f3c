"""Collectives read from programs: from real ones compiled for eight devices here."""

# ruff: noqa: E501 (lines of programs are as XLA prints them)

import importlib.util

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np
import pytest

from deemo_jax.plan.program import Collective, collectives
from deemo_jax.plan.topology import compile_only_devices, read_topology

AXES = {"data": 2, "fsdp": 4}
LAYERS, WIDTH = 3, 64


@pytest.fixture(scope="module")
def mesh():
    devices = np.array(jax.devices()).reshape(tuple(AXES.values()))
    return Mesh(devices, tuple(AXES), axis_types=(AxisType.Auto,) * 2)


def program(mesh, function, *inputs, out):
    """The text of a function compiled for the mesh; `inputs` are (shape, spec)."""
    given = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in inputs
    ]
    placed = jax.tree.map(lambda spec: NamedSharding(mesh, spec), out)
    compiled = jax.jit(function, out_shardings=placed).lower(*given).compile()
    return str(compiled.as_text())


def test_a_gathered_matrix(mesh):
    text = program(
        mesh, lambda x: x * 2, ((WIDTH, WIDTH), PartitionSpec("fsdp")),
        out=PartitionSpec(),
    )  # fmt: skip
    whole = WIDTH * WIDTH * 4
    assert collectives(text, AXES) == (
        Collective(kind="all-gather", axes=("fsdp",), count=1, sent=whole * 3 / 4),
    )


@pytest.mark.parametrize(
    ("axes", "devices"), [(("data",), 2), (("fsdp",), 4), (("data", "fsdp"), 8)]
)
def test_a_sum_over_axes(mesh, axes, devices):
    text = program(
        mesh, lambda x: x.sum(axis=0), ((8, WIDTH), PartitionSpec(axes)),
        out=PartitionSpec(),
    )  # fmt: skip
    (found,) = collectives(text, AXES)
    assert (found.kind, found.axes, found.count) == ("all-reduce", axes, 1)
    assert found.sent == 2 * WIDTH * 4 * (devices - 1) / devices


def test_what_stands_in_a_loop_counts_as_often_as_it_runs(mesh):
    def layers(kernels, x):
        def layer(x, kernel):
            gathered = jax.lax.with_sharding_constraint(
                kernel, NamedSharding(mesh, PartitionSpec())
            )
            return jnp.tanh(x @ gathered), None

        return jax.lax.scan(layer, x, kernels)[0]

    text = program(
        mesh, layers,
        ((LAYERS, WIDTH, WIDTH), PartitionSpec(None, "fsdp")),
        ((8, WIDTH), PartitionSpec("data")),
        out=PartitionSpec("data"),
    )  # fmt: skip
    assert " while(" in text
    sent = {x.axes: x for x in collectives(text, AXES) if x.kind == "all-gather"}
    found = sent["fsdp",]
    assert (found.count, found.sent) == (LAYERS, LAYERS * WIDTH * WIDTH * 4 * 3 / 4)


def test_a_program_of_one_device_moves_nothing():
    compiled = jax.jit(lambda x: x @ x).lower(jnp.zeros((8, 8))).compile()
    assert collectives(str(compiled.as_text()), {"data": 1}) == ()


LOOP = """
%body (p: (s32[], bf16[64])) -> (s32[], bf16[64]) {
  %all-reduce.1 = bf16[64]{0:T(128)S(1)} all-reduce(%p.1), channel_id=7, GROUPS, to_apply=%add
}

%condition (p: (s32[], bf16[64])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(32)
  ROOT %lt = pred[] compare(%i, %constant.1), direction=LT
}

ENTRY %main (x: bf16[64]) -> bf16[64] {
  %while.1 = (s32[], bf16[64]) while(%tuple), condition=%condition, body=%body
}
"""


def test_a_loop_may_count_by_twos_and_without_a_sign():
    """As that of a product does which gathers its weights in as many steps."""
    text = """
%body (p: (bf16[64], u32[])) -> (bf16[64], u32[]) {
  %two = u32[]{:T(128)} constant(2)
  %p = (bf16[64]{0}, u32[]{:T(128)}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%p), index=1
  %x = bf16[64]{0} collective-permute(%p.1), channel_id=7, source_target_pairs={{0,1},{1,0}}
  %next = u32[]{:T(128)} add(%i, %two), backend_config={}
  ROOT %tuple = (bf16[64]{0}, u32[]{:T(128)}) tuple(%x, %next)
}

%condition (p: (bf16[64], u32[])) -> pred[] {
  %limit = u32[]{:T(128)} constant(16)
  %p = (bf16[64]{0}, u32[]{:T(128)}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%p), index=1
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (x: bf16[64]) -> bf16[64] {
  %while.1 = (bf16[64]{0}, u32[]{:T(128)}) while(%tuple), condition=%condition, body=%body
}
"""
    (found,) = collectives(text, AXES)
    assert (found.count, found.sent) == (8, 8 * 128)


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", ("fsdp",)),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", ("data",)),
        ("replica_groups=[2,4]<=[8]", ("fsdp",)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", ("data",)),
        ("replica_groups=[1,8]<=[8]", ("data", "fsdp")),
        ("replica_groups={}", ("data", "fsdp")),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", ("fsdp",)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", ("data",)),
        (
            "replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}",
            ("fsdp",),
        ),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}", ("data", "fsdp")),
    ],
)
def test_every_way_of_writing_groups_and_a_loop_known_by_its_condition(groups, axes):
    (found,) = collectives(LOOP.replace("GROUPS", groups), AXES)
    assert found.axes == axes
    assert found.count == 32
    devices = {("fsdp",): 4, ("data",): 2}.get(axes, 8)
    if "{'a','c'}" in groups:
        devices = 4
    assert found.sent == pytest.approx(32 * 2 * 128 * (devices - 1) / devices)


def test_a_collective_in_steps_counts_once():
    """A TPU's compiler shows one all-gather in each fusion that a part of it is in."""
    step = """
%fusion.N (p: bf16[16,64]) -> bf16[64,64] {
  %all-gather.N = bf16[64,64]{1,0} all-gather(%p), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}
}
"""
    main = """
ENTRY %main (x: bf16[16,64]) -> bf16[64,64] {
  %a = bf16[64,64]{1,0} fusion(%x), kind=kLoop, calls=%fusion.1
  %b = bf16[64,64]{1,0} fusion(%x), kind=kLoop, calls=%fusion.2
}
"""
    text = step.replace("N", "1") + step.replace("N", "2") + main
    (found,) = collectives(text, AXES)
    assert (found.count, found.sent) == (1, 64 * 64 * 2 * 3 / 4)


def test_a_collective_whose_steps_stand_in_a_loop_counts_as_often_as_it_starts():
    """The products of a loop hide the all-gather that goes on beside them."""
    line = "%all-reduce.1 = bf16[64]{0:T(128)S(1)} all-reduce(%p.1), channel_id=7, GROUPS, to_apply=%add"
    started = LOOP.replace(
        "ENTRY %main (x: bf16[64]) -> bf16[64] {",
        f"ENTRY %main (x: bf16[64]) -> bf16[64] {{\n  {line}",
    )
    (found,) = collectives(started.replace("GROUPS", "replica_groups={}"), AXES)
    assert found.count == 1


def test_a_slice_of_an_all_reduce_is_a_reduce_scatter_where_both_are_one_fusion():
    """So a TPU's compiler shows them; a slice of its own leaves the whole to be sent."""
    fused = """
%all-reduce-scatter.1 (p: bf16[64,32]) -> bf16[16,32] {
  %all-reduce.1 = bf16[64,32]{1,0:T(8,128)} all-reduce(%p), channel_id=3, replica_groups=[2,4]<=[8], to_apply=%add
  %table = u32[1]{0} dynamic-slice(%shards, %partition-id), dynamic_slice_sizes={1}
  ROOT %part = bf16[16,32]{1,0:T(8,128)} dynamic-slice(%all-reduce.1, %at, %zero), dynamic_slice_sizes={16,32}
}

ENTRY %main (x: bf16[64,32]) -> bf16[16,32] {
  %a = bf16[16,32]{1,0:T(8,128)} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
    whole = 64 * 32 * 2
    (found,) = collectives(fused, AXES)
    assert (found.kind, found.sent) == ("reduce-scatter", whole * 3 / 4)
    (found,) = collectives(fused.replace("ROOT ", ""), AXES)
    assert (found.kind, found.sent) == ("all-reduce", 2 * whole * 3 / 4)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the extra plan brings libtpu"
)
def test_a_sum_of_which_each_chip_keeps_a_part_is_a_reduce_scatter():
    devices = np.array(compile_only_devices(read_topology("v5e-8")))
    mesh = Mesh(devices, ("fsdp",), axis_types=(AxisType.Auto,))
    text = program(
        mesh, lambda x: x.sum(axis=0), ((8, 4096, 4096), PartitionSpec("fsdp")),
        out=PartitionSpec("fsdp"),
    )  # fmt: skip
    (found,) = collectives(text, {"fsdp": 8})
    assert found.kind == "reduce-scatter"
    assert found.sent == pytest.approx(4096 * 4096 * 4 * 7 / 8, rel=0.05)  # padding


def test_of_what_is_started_the_results_count():
    main = """
ENTRY %main (x: bf16[16,64]) -> bf16[64,64] {
  %s = ((bf16[16,64]{1,0}, f32[8]{0}), (bf16[64,64]{1,0}, f32[32]{0})) all-gather-start(%x, %y), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %d = (bf16[64,64]{1,0}, f32[32]{0}) all-gather-done(%s)
  %p = (f32[16]{0}, f32[16]{0}, u32[], u32[]) collective-permute-start(%z), channel_id=2, source_target_pairs={{0,1},{1,2}}
}
"""
    found = {x.kind: x for x in collectives(main, AXES)}
    assert found["all-gather"].sent == (64 * 64 * 2 + 32 * 4) * 3 / 4
    assert found["collective-permute"].sent == 64
    assert found["collective-permute"].axes == ("fsdp",)


def test_what_hosts_send_between_slices():
    main = """
ENTRY %main (x: f32[16]) -> f32[16] {
  %send = (f32[256,48]{1,0:T(8,128)}, u32[], token[]) send(%x, %t), channel_id=5, is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="all-gather.120_0",_xla_megascale_transfer_type="ALL_GATHER"}
  %recv = (f32[512,48]{1,0:T(8,128)}, u32[], token[]) recv(%t), channel_id=6, is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="all-gather.120_0"}
}
"""
    (found,) = collectives(main, {"dcn_data": 2, "dcn_fsdp": 1, "fsdp": 4})
    assert found == Collective(
        kind="all-gather", axes=("dcn_data",), count=1, sent=256.0 * 48 * 4
    )


def test_a_permutation_is_over_the_axes_that_its_pairs_cross():
    line = """
ENTRY %main (x: f32[16]) -> f32[16] {
  %p = f32[16]{0} collective-permute(%x), channel_id=2, source_target_pairs={{0,0},{1,2},{2,1},{3,3}}
}
"""
    (found,) = collectives(line, AXES)
    assert found.axes == ("fsdp",)
    stays = line.replace("{0,0},{1,2},{2,1},{3,3}", "{0,0},{1,1}")
    assert collectives(stays, AXES) == ()
