"""The table of accelerators, by their name and by JAX's."""

import pytest

from deemo_jax.chips import CHIPS, chip_of


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "v5e"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
    ],
)
def test_a_chip_is_known_by_what_jax_calls_it(kind, name):
    found = chip_of(kind)
    assert found is CHIPS[name]


def test_what_has_no_rated_peak_is_no_chip():
    assert chip_of("cpu") is None


def test_no_two_chips_share_a_kind_and_all_figures_are_of_a_likely_size():
    kinds = [kind for chip in CHIPS.values() for kind in chip.device_kinds]
    assert len(kinds) == len(set(kinds))
    for chip in CHIPS.values():
        assert 1e14 < chip.flops < 1e16
        assert 10e9 < chip.memory < 300e9
        # From the units outwards, each way is narrower than the one before.
        assert chip.flops > chip.memory_bandwidth > chip.links > chip.network > 1e9
