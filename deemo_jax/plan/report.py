"""A plan in words, as a row of a table, and as JSON."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from deemo_jax.plan.estimate import Plan

# Between them, a column for each kind of collective that there is.
BEFORE = (
    "topology", "chips", "stage", "mesh", "batch", "fits", "arguments", "temporaries",
    "of", "sent",
)  # fmt: skip
AFTER = ("step", "bound", "MFU at most")


def describe(plan: Plan) -> str:
    """The plan for a reader; what no compiler has confirmed is marked as analytic."""
    memory, times, chip = plan.memory, plan.times, plan.topology.chip
    fits = {True: "fits", False: "DOES NOT FIT", None: "not known to fit"}[plan.fits]
    lines = [f"{plan.topology.name}: {plan.topology.chips} chips, {_mesh(plan)}"]
    lines += [f"stage {plan.stage}, {plan.batch_size} rows a step"]
    if plan.trouble:
        lines += [f"analytic only, no program was compiled: {plan.trouble}"]
    lines += [
        "",
        f"memory of a device: {fits}",
        f"  parameters       {_bytes(memory.parameters)}",
        f"  optimizer state  {_bytes(memory.optimizer)}",
        f"  batch            {_bytes(memory.batch)}",
    ]
    if plan.compiled:
        lines += [
            f"  temporaries      {_bytes(memory.temporaries or 0)}",
            f"  program          {_bytes(memory.program or 0)}",
        ]
    lines += [
        f"  together         {_bytes(memory.total)} of {_bytes(memory.capacity)}",
        "",
        "operations of a step (forward and backward, by formula)",
        *(f"  {part:16} {count:10.3e}" for part, count in plan.flops.items()),
        f"  {'together':16} {sum(plan.flops.values()):10.3e}",
    ]
    if plan.compiled:
        lines += ["", "sent by a device in a step"]
        lines += [
            f"  {x.kind:18} over {'+'.join(x.axes):20} {_bytes(x.sent)} in "
            f"{x.count} times"
            for x in plan.collectives
        ] or ["  nothing"]
    lines += [
        "",
        f"a step, at the peak rates of {chip.name}",
        f"  compute {times.compute:9.4f} s",
        f"  memory  {times.memory:9.4f} s",
    ]
    if times.network is not None:
        lines += [f"  network {times.network:9.4f} s"]
    for words, seconds in (
        (f"all hidden behind the longest, {times.bound}", times.step),
        ("nothing hidden", times.apart),
    ):
        lines += [f"  {words}: {seconds:.4f} s, an MFU of {plan.mfu(seconds):.1%}"]
    return "\n".join(lines)


def table(plans: Sequence[Plan]) -> str:
    """A row for each plan, as Markdown; what is sent, also by kind of collective."""
    kinds = sorted({each.kind for plan in plans for each in plan.collectives})
    rows = [(*BEFORE, *kinds, *AFTER), *(_row(plan, kinds) for plan in plans)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def to_json(plan: Plan) -> dict[str, Any]:
    """The same as plain values; bytes, seconds, operations."""
    return {
        **dataclasses.asdict(plan),
        "compiled": plan.compiled,
        "step_seconds": {"at_least": plan.times.step, "apart": plan.times.apart},
        "bound": plan.times.bound,
        "mfu": {
            "at_most": plan.mfu(plan.times.step),
            "apart": plan.mfu(plan.times.apart),
        },
    }


def _row(plan: Plan, kinds: Sequence[str]) -> tuple[str, ...]:
    memory, times = plan.memory, plan.times
    unknown = "analytic"

    def sent(*kinds: str) -> str:
        if not plan.compiled:
            return unknown
        return _bytes(sum(x.sent for x in plan.collectives if x.kind in kinds))

    return (
        plan.topology.name,
        str(plan.topology.chips),
        plan.stage,
        _mesh(plan),
        str(plan.batch_size),
        {True: "yes", False: "no", None: unknown}[plan.fits],
        _bytes(memory.arguments),
        _bytes(memory.temporaries or 0) if plan.compiled else unknown,
        _bytes(memory.capacity),
        sent(*kinds),
        *(sent(kind) for kind in kinds),
        f"{times.step:.3f} s",
        times.bound,
        f"{plan.mfu(times.step):.1%}",
    )


def _mesh(plan: Plan) -> str:
    return ", ".join(f"{a}={n}" for a, n in plan.sizes.items() if n > 1) or "one chip"


def _bytes(count: float | int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count / 1e3:.2f} kB"
