"""The largest batch, and growing hardware, with plans made up in place of compiled."""

import dataclasses

import pytest

from deemo_jax.plan import search
from deemo_jax.plan.estimate import Memory, Plan, Times
from deemo_jax.plan.search import TRIES, largest_batch, scaling
from deemo_jax.plan.topology import read_topology
from tests.small import small_config

CONFIG = small_config(mesh__data=2, mesh__fsdp=2, mesh__tensor=2)
TOPOLOGY = read_topology("v5e-8")


def silent(description, done, total):
    pass


def made_up(rows, topology, *, total, capacity, trouble=""):
    """A plan of so many rows that takes `total` bytes."""
    return Plan(
        topology=topology,
        sizes={},
        stage="full",
        batch_size=rows,
        fits=None if trouble else total <= capacity,
        trouble=trouble,
        memory=Memory(
            parameters=total, optimizer=0, batch=0,
            temporaries=0, program=0, capacity=capacity,
        ),
        flops={},
        collectives=(),
        times=Times(compute=1.0, memory=1.0, network=1.0),
    )  # fmt: skip


@pytest.fixture
def compiled(monkeypatch):
    """The batch sizes that were compiled, what a row takes being `used(rows)`."""
    tried = []

    def use(used, capacity=1000):
        def make_plan(config, topology):
            rows = config.train.batch_size
            tried.append(rows)
            return made_up(rows, topology, total=int(used(rows)), capacity=capacity)

        monkeypatch.setattr(search, "make_plan", make_plan)
        return tried

    return use


def test_on_a_line_few_compilations_are_needed(compiled):
    tried = compiled(lambda rows: 100 + 10 * rows)
    assert largest_batch(CONFIG, TOPOLOGY, progress=silent).batch_size == 88
    assert tried[:3] == [4, 8, 88]  # multiples of data x fsdp
    assert len(tried) <= 4


@pytest.mark.parametrize("power", [0.8, 1.1, 1.3])
def test_off_the_line_it_comes_close_and_never_over(compiled, power):
    tried = compiled(lambda rows: 100 + rows**power)
    found = largest_batch(CONFIG, TOPOLOGY, progress=silent).batch_size
    best = int(901 ** (1 / power)) // 4 * 4  # bytes are whole
    assert 0.8 * best <= found <= best
    assert found in tried
    assert len(tried) <= TRIES


def test_not_even_one_row_each(compiled):
    compiled(lambda rows: 5000)
    with pytest.raises(ValueError, match=r"not even 4 rows fit on v5e-8"):
        largest_batch(CONFIG, TOPOLOGY, progress=silent)


def test_what_cannot_be_compiled_cannot_be_searched(monkeypatch):
    def make_plan(config, topology):
        return made_up(4, topology, total=1, capacity=2, trouble="needs the extra plan")

    monkeypatch.setattr(search, "make_plan", make_plan)
    with pytest.raises(ValueError, match="needs the extra plan"):
        largest_batch(CONFIG, TOPOLOGY, progress=silent)


def test_each_chip_has_as_many_rows_everywhere(compiled):
    tried = compiled(lambda rows: 1)
    config = dataclasses.replace(
        CONFIG, train=dataclasses.replace(CONFIG.train, batch_size=16)
    )
    topologies = [read_topology(name) for name in ("v5e-8", "v5e-16", "2xv5e-64")]
    plans = list(scaling(config, topologies, progress=silent))
    assert tried == [16, 32, 256]
    assert [plan.topology.name for plan in plans] == ["v5e-8", "v5e-16", "2xv5e-64"]
