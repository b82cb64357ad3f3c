"""A plan as its reader sees it."""

import dataclasses
import json

import pytest

from deemo_jax.plan.estimate import Memory, Plan, Times
from deemo_jax.plan.program import Collective
from deemo_jax.plan.report import AFTER, BEFORE, describe, table, to_json
from deemo_jax.plan.topology import read_topology


@pytest.fixture
def plan():
    sizes = dict(dcn_data=1, dcn_fsdp=1, data=2, fsdp=4, sequence=1, tensor=1)
    return Plan(
        topology=read_topology("v5e-8"),
        sizes=sizes,
        stage="tune",
        batch_size=16,
        fits=True,
        trouble="",
        memory=Memory(
            parameters=2_000_000_000,
            optimizer=500_000_000,
            batch=3_000_000,
            temporaries=1_250_000_000,
            program=40_000_000,
            capacity=16_000_000_000,
        ),
        flops={"vision_tower": 1e13, "language_model": 9e13},
        collectives=(
            Collective(kind="all-gather", axes=("fsdp",), count=64, sent=7.5e9),
        ),
        times=Times(compute=0.1, memory=0.05, network=0.2),
    )


def test_in_words(plan):
    text = describe(plan)
    for line in (
        "v5e-8: 8 chips, data=2, fsdp=4",
        "stage tune, 16 rows a step",
        "memory of a device: fits",
        "  temporaries      1.25 GB",
        "  together         3.79 GB of 16.00 GB",
        "  all-gather         over fsdp                 7.50 GB in 64 times",
        "  network    0.2000 s",
    ):
        assert line in text.splitlines(), line
    # 1e14 operations in 0.2 s on 8 chips of 197e12 a second.
    assert "network: 0.2000 s, an MFU of 31.7%" in text
    assert "nothing hidden: 0.3500 s, an MFU of 18.1%" in text


def test_what_no_compiler_has_seen_is_marked(plan):
    memory = dataclasses.replace(plan.memory, temporaries=None, program=None)
    times = dataclasses.replace(plan.times, network=None)
    bare = dataclasses.replace(
        plan, memory=memory, times=times, fits=None, trouble="no libtpu", collectives=()
    )
    text = describe(bare)
    assert "analytic only, no program was compiled: no libtpu" in text
    assert "not known to fit" in text
    assert "temporaries" not in text
    assert "network" not in text
    assert table([bare]).splitlines()[-1].count("analytic") == 3


def test_what_does_not_fit_says_so(plan):
    assert "DOES NOT FIT" in describe(dataclasses.replace(plan, fits=False))


def test_as_a_table(plan):
    more = Collective(kind="all-reduce", axes=("data",), count=1, sent=5e8)
    both = dataclasses.replace(plan, collectives=(*plan.collectives, more))
    lines = table([plan, both]).splitlines()
    assert len(lines) == 4
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == [*BEFORE, "all-gather", "all-reduce", *AFTER]
    start = ["v5e-8", "8", "tune", "data=2, fsdp=4", "16", "yes", "2.50 GB", "1.25 GB"]
    end = ["0.200 s", "network", "31.7%"]
    assert cells[2] == [*start, "16.00 GB", "7.50 GB", "7.50 GB", "0.00 kB", *end]
    assert cells[3] == [*start, "16.00 GB", "8.00 GB", "7.50 GB", "500.00 MB", *end]


def test_as_json(plan):
    found = json.loads(json.dumps(to_json(plan)))
    assert found["memory"]["temporaries"] == 1_250_000_000
    assert found["collectives"][0]["axes"] == ["fsdp"]
    assert found["mfu"]["at_most"] == pytest.approx(1e14 / (8 * 197e12) / 0.2)
    assert found["topology"]["chip"]["name"] == "v5e"
    assert found["compiled"] is True
