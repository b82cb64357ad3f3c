"""What a compiled program moves between devices, read from its text.

XLA prints its programs as computations that call each other. A `while` runs its body as
often as there are layers, so what stands in it counts that often.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import math
import re

import numpy as np

from deemo_jax.sharding import DCN

KINDS = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
)  # fmt: skip

_HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .*\{$")
_CALLED = re.compile(r"(?:calls|to_apply|condition|body)=%?([\w.-]+)")
_BRANCHES = re.compile(r"(?:branch|called)_computations=\{([^}]*)\}")
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(")
# Between slices of TPUs, hosts send for the chips.
_SEND = re.compile(r" = \((.*?), .* send\(.*_xla_host_transfer_rendezvous=\"([a-z-]+)")
_ARRAY = re.compile(r"\b(pred|bf16|[sufc]\d+|f8\w*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """One kind of collective over some axes of the mesh, all of a step together.

    `count` is how often it runs, `sent` the bytes that a device sends for it, counted
    as a ring does it: of an all-gather of n devices, n-1 of n parts of the whole.
    """

    kind: str
    axes: tuple[str, ...]
    count: int
    sent: float


def collectives(text: str, sizes: dict[str, int]) -> tuple[Collective, ...]:
    """What a program moves, by kind and axes, the most first.

    Args:
      text: of the compiled program, as `Compiled.as_text` gives it.
      sizes: of the axes of the mesh that it was compiled for, in order.
    """
    computations = _computations(text)
    times = _times(computations)
    # A TPU's compiler cuts one collective into steps of several fusions, each of which
    # shows it again under the same channel. What is started once may go on in a loop,
    # so the fewest times count.
    seen: dict[object, tuple[str, tuple[str, ...], int, float]] = {}
    for name, lines in computations.items():
        for at, line in enumerate(lines):
            if not times.get(name):
                continue
            if host := _SEND.search(line):
                across = tuple(x for x in DCN if sizes.get(x, 1) > 1)
                kind, sent = host[2], _result(host[1], False)
            elif found := _COLLECTIVE.search(line):
                group = _group(line, math.prod(sizes.values()))
                kind, across = found[2], _axes(group, sizes)
                result = _result(found[1], bool(found[3]))
                if kind == "all-reduce" and _scattered(line, lines):
                    kind, result = "reduce-scatter", result / group.shape[1]
                sent = _sent(kind, result, group.shape[1])
            else:
                continue
            if not across:
                continue
            channel = re.search(r"channel_id=(\d+)", line)
            key = channel[1] if channel else (name, at)
            value = (kind, across, times[name], sent)
            if key not in seen or seen[key][2] > value[2]:
                seen[key] = value
    total: dict[tuple[str, tuple[str, ...]], tuple[int, float]] = {}
    for kind, axes, count, sent in seen.values():
        before = total.get((kind, axes), (0, 0.0))
        total[kind, axes] = (before[0] + count, before[1] + count * sent)
    listed = [
        Collective(kind=kind, axes=axes, count=count, sent=sent)
        for (kind, axes), (count, sent) in total.items()
    ]
    return tuple(sorted(listed, key=lambda x: -x.sent))


def _scattered(line: str, lines: Sequence[str]) -> bool:
    """Whether an all-reduce gives each device a part alone: a reduce-scatter.

    A TPU's compiler shows one as a computation that ends in a slice of an all-reduce.
    A slice that stands elsewhere comes after the whole has been sent.
    """
    name = line.split(" = ")[0].strip().removeprefix("ROOT ").lstrip("%")
    part = re.compile(rf"^ROOT .* dynamic-slice\(%?{re.escape(name)},")
    return any(part.match(each.strip()) for each in lines)


def _computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation by its name, that of the program under ""."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            lines = found.setdefault("" if head[1] else head[2], [])
        else:
            lines.append(line)
    return found


def _times(computations: dict[str, list[str]]) -> dict[str, int]:
    """How often each computation is run in one run of the program."""
    calls = {name: list(_calls(lines, computations)) for name, lines in
             computations.items()}  # fmt: skip
    times = {"": 1}
    for name in _callers_first(calls):
        for called, count in calls[name]:
            times[called] = times.get(called, 0) + times.get(name, 0) * count
    return times


def _calls(
    lines: Sequence[str], computations: dict[str, list[str]]
) -> Iterator[tuple[str, int]]:
    for line in lines:
        count = _trips(line, computations) if " while(" in line else 1
        names = _CALLED.findall(line)
        for branches in _BRANCHES.findall(line):
            names += [name.strip(" %") for name in branches.split(",")]
        for name in names:
            if name in computations:
                yield name, count


def _trips(line: str, computations: dict[str, list[str]]) -> int:
    """How often a loop runs: as it says, or by what its condition compares with."""
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
    if known:
        return int(known[1])
    called = dict(re.findall(r"(condition|body)=%?([\w.-]+)", line))
    condition, body = (
        "\n".join(computations.get(called.get(which, ""), ()))
        for which in ("condition", "body")
    )
    limits = re.findall(r"[su]32\[\]\S* constant\((\d+)\)", condition)
    return math.ceil(max(map(int, limits), default=1) / _stride(condition, body))


def _stride(condition: str, body: str) -> int:
    """What a loop adds to its counter: two where two rounds of it became one."""
    counter = re.search(r" get-tuple-element\(.*\), index=(\d+)", condition)
    carried = re.search(r"^\s*ROOT .* tuple\((.*?)\)", body, re.MULTILINE)
    if not counter or not carried:
        return 1
    name = re.findall(r"%([\w.-]+)", carried[1])[int(counter[1])]
    added = re.search(rf"%{re.escape(name)} = .* add\(%[\w.-]+, %([\w.-]+)\)", body)
    if not added:
        return 1
    by = re.search(rf"%{re.escape(added[1])} = \S+ constant\((\d+)\)", body)
    return int(by[1]) if by else 1


def _callers_first(calls: dict[str, list[tuple[str, int]]]) -> list[str]:
    """The computations in an order in which each stands after those that call it."""
    order: list[str] = []
    done: set[str] = set()
    stack = [("", iter(calls.get("", ())))]
    while stack:
        name, rest = stack[-1]
        called = next((x for x, _ in rest if x not in done), None)
        if called is None:
            stack.pop()
            if name not in done:
                done.add(name)
                order.append(name)
        else:
            stack.append((called, iter(calls[called])))
    return order[::-1]


def _result(words: str, started: bool) -> float:
    """Bytes of what a collective gives; one that is started names its inputs too."""
    arrays = [
        math.prod(int(size) for size in dims.split(",") if size) * _width(dtype)
        for dtype, dims in _ARRAY.findall(words)
    ]
    if started and words.startswith("("):
        arrays = [x for x in arrays if x > 4]  # but for its context, two numbers
        arrays = arrays[len(arrays) // 2 :]
    return float(sum(arrays))


def _width(dtype: str) -> float:
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) / 8 if bits else 1.0  # a truth value takes a byte


def _sent(kind: str, result: float, devices: int) -> float:
    parts = (devices - 1) / devices
    return {
        "all-gather": result * parts,
        "all-reduce": 2 * result * parts,
        "reduce-scatter": result * (devices - 1),
        "all-to-all": result * parts,
        "collective-permute": result,
    }[kind]


def _group(line: str, devices: int) -> np.ndarray:
    """Groups of devices that exchange, a row each, as places in the mesh, flattened.

    One row is enough where all are alike; a permutation has its pairs.
    """
    pairs = re.search(r"source_target_pairs=\{(\{.*?\})\}", line)
    if pairs:
        return np.array([_numbers(pair) for pair in re.findall(r"[\d,]*\d", pairs[1])])
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    if listed:
        return np.array([_numbers(listed[1])])
    iota = re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line
    )
    if iota:
        shape, dims = _numbers(iota[1]), _numbers(iota[2])
        ids = np.arange(math.prod(dims)).reshape(dims)
        if iota[3]:
            ids = ids.transpose(_numbers(iota[3]))
        return ids.reshape(shape)[:1]
    named = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line)
    if named:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        wanted = re.findall(r"'(\w+)'", named[2])
        shape = [int(size) for size in sizes.values()]
        ids = np.arange(math.prod(shape))
        order = re.search(r"device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)", line)
        if order:
            ids = ids.reshape(_numbers(order[1]))
            ids = ids.transpose(_numbers(order[2])) if order[2] else ids
        ids = ids.reshape(shape)
        at = tuple(slice(None) if axis in wanted else 0 for axis in sizes)
        return ids[at].reshape(1, -1)
    return np.arange(devices)[None]  # no groups: all of them


def _numbers(text: str) -> list[int]:
    return [int(x) for x in text.split(",")]


def _axes(groups: np.ndarray, sizes: dict[str, int]) -> tuple[str, ...]:
    """The axes of the mesh along which the devices of a group differ."""
    places = np.array(np.unravel_index(groups, tuple(sizes.values())))
    differ = (places != places[:, :, :1]).any(axis=(1, 2))
    return tuple(axis for axis, yes in zip(sizes, differ, strict=True) if yes)
