"""Several plans: the largest batch that fits, and a run on growing hardware."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import math

from deemo_jax.config import Config
from deemo_jax.plan.estimate import Plan, make_plan, stand_ins
from deemo_jax.plan.topology import Topology
from deemo_jax.sharding import ROWS, make_mesh

TRIES = 7  # compilations; each may take minutes


def largest_batch(
    config: Config,
    topology: Topology,
    *,
    progress: Callable[[str, int, int | None], None],
) -> Plan:
    """The plan of the largest batch that fits, as far as `TRIES` compilations tell.

    What a step takes grows with the batch nearly on a line: the first two give the
    line, the others close in on where it meets the capacity.

    Raises:
      ConfigError: if the mesh does not fit the topology.
      ValueError: if not even one row for each part of the mesh fits, or nothing can be
        compiled here; it says why.
    """
    sizes = make_mesh(config.mesh, stand_ins(topology)).shape
    parts = math.prod(sizes[axis] for axis in ROWS)
    fitting: dict[int, Plan] = {}
    too_many = math.inf
    each = 1
    for _ in range(TRIES):
        plan = make_plan(with_rows(config, each * parts), topology)
        if plan.fits is None:
            raise ValueError(plan.trouble)
        progress(f"{each * parts} rows {'fit' if plan.fits else 'do not fit'}", 1, 1)
        if plan.fits:
            fitting[each] = plan
        else:
            too_many = min(too_many, each)
        if not fitting:
            raise ValueError(
                f"not even {parts} rows fit on {topology.name} ({plan.trouble}); take "
                f"larger hardware, or split the model over more of config.mesh"
            )
        each = _next(fitting, too_many)
        if each in fitting or each >= too_many:
            break
    return fitting[max(fitting)]


def _next(fitting: dict[int, Plan], too_many: float | int) -> int:
    """The number of rows to try: on the line through the last two, or between."""
    good = max(fitting)
    if len(fitting) < 2:
        guess = 2 * good
    else:
        before, last = sorted(fitting)[-2:]
        used = {each: fitting[each].memory.total for each in (before, last)}
        slope = (used[last] - used[before]) / (last - before)
        room = fitting[last].memory.capacity - used[last]
        guess = last + int(room / slope) if slope > 0 else 2 * last
    if guess < too_many:
        return max(guess, good)
    return (good + int(too_many)) // 2


def scaling(
    config: Config,
    topologies: Sequence[Topology],
    *,
    progress: Callable[[str, int, int | None], None],
) -> Iterator[Plan]:
    """A plan for each topology, with as many rows a chip everywhere as on the first."""
    each = config.train.batch_size / topologies[0].chips
    for done, topology in enumerate(topologies):
        progress(f"compiling for {topology.name}", done, len(topologies))
        yield make_plan(with_rows(config, round(each * topology.chips)), topology)


def with_rows(config: Config, rows: int) -> Config:
    """The run with another batch size."""
    return dataclasses.replace(
        config, train=dataclasses.replace(config.train, batch_size=rows)
    )
