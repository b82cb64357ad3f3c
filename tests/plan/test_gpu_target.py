"""What XLA is told of a GPU."""

from deemo_jax.chips import CHIPS
from deemo_jax.plan.gpu_target import target_config


def test_each_gpu_is_told_with_its_own_memory():
    for name in ("h100", "h200"):
        text = str(target_config(CHIPS[name]))
        assert f"device_memory_size: {int(CHIPS[name].memory)}\n" in text
        assert f'"{CHIPS[name].device_kinds[0]}"' in text
        assert text.count("{") == text.count("}")


def test_what_is_not_described_is_nothing():
    assert target_config(CHIPS["b200"]) is None
    assert target_config(CHIPS["v5e"]) is None
