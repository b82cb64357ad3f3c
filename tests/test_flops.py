"""The count of operations, against XLA's own of one layer of everything."""

import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import pytest

from deemo_jax.flops import Flops, forward_flops, recomputed_flops, train_flops
from deemo_jax.models.deemo_llama import DeemoLlama
from deemo_jax.models.towers import see
from tests.small import HUBERT, SIGLIP, small_config

FRAMES, SAMPLES, TOKENS = 2, 16000, 112


def counted(function, *shapes):
    """XLA's count for a function, before it is optimised."""
    inputs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    analysis: Any = jax.jit(function).lower(*inputs).cost_analysis()
    return analysis["flops"]


def whole(**parts):
    """The small model with one layer everywhere, wide enough for products to tell."""
    model = small_config().model
    vision = dataclasses.replace(
        model.vision_tower,
        num_hidden_layers=1, hidden_size=256, intermediate_size=512, image_size=64,
    )  # fmt: skip
    audio = dataclasses.replace(
        model.audio_tower, encoder_layers=1, d_model=256, encoder_ffn_dim=512
    )
    parts = {"vision_tower": vision, "audio_tower": audio, **parts}
    width = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}
    for name in ("video", "audio"):
        tower = parts["vision_tower" if name == "video" else "audio_tower"]
        parts[f"{name}_connector"] = dataclasses.replace(
            getattr(model, f"{name}_connector"),
            encoder_hidden_size=tower.hidden_size, num_query_tokens=32, **width,
        )  # fmt: skip
    decoder = dataclasses.replace(
        model.language_model, **width, vocab_size=2048, head_dim=64
    )
    return dataclasses.replace(model, language_model=decoder, **parts)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        dict(
            vision_tower=dataclasses.replace(
                SIGLIP, num_hidden_layers=1, hidden_size=256, intermediate_size=512
            ),
            audio_tower=dataclasses.replace(
                HUBERT,
                num_hidden_layers=1,
                hidden_size=128,
                num_attention_heads=4,
                intermediate_size=512,
                num_conv_pos_embedding_groups=4,
                conv_dim=(64, 64),
                conv_stride=(20, 16),  # 20 ms, as in the published models
                conv_kernel=(40, 16),
            ),
        ),
    ],
    ids=["CLIP and Whisper", "SigLIP and HuBERT"],
)
def test_each_part_takes_what_xla_counts(parts):
    model = whole(**parts)
    deemo = nnx.eval_shape(lambda: DeemoLlama(model, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(deemo)
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params)
    deemo = nnx.merge(graphdef, params)
    size = model.vision_tower.image_size
    samples = int(SAMPLES)
    ours = forward_flops(model, frames=FRAMES, samples=samples, tokens=TOKENS)
    frames = ((1, FRAMES, size, size, 3), jnp.uint8)
    sound = ((1, samples), jnp.float32)
    theirs = {
        "video": counted(
            lambda x: deemo.connect_video(
                see(deemo.vision_tower, x, model), jnp.ones((1, FRAMES), bool)
            ),
            frames,
        ),
        "audio": counted(
            lambda x: deemo.connect_audio(
                *deemo.audio_tower.hear(x, jnp.full(1, samples))
            ),
            sound,
        ),
        "language_model": counted(
            lambda x: deemo.language_model(x), ((1, TOKENS), jnp.int32)
        ),
    }
    told = {name: x.linear + x.attention for name, x in ours.items()}
    # XLA's decoder computes what its mask then hides: the other half.
    told["language_model"] += ours["language_model"].attention
    told["video"] = told.pop("vision_tower") + told.pop("video_connector")
    told["audio"] = told.pop("audio_tower") + told.pop("audio_connector")
    for name, count in theirs.items():
        # XLA counts norms, activations and softmax as well.
        assert 0.9 * count < told[name] < count, name


def test_backward_costs_as_much_for_inputs_and_as_much_for_kernels():
    found = Flops(linear=10.0, attention=1.0)
    assert found.train(learns=False, passes=False) == 11
    assert found.train(learns=False, passes=True) == 20 + 3
    assert found.train(learns=True, passes=True) == 30 + 3


def test_a_stage_takes_what_it_learns():
    full = train_flops(small_config())
    align = train_flops(small_config(train__stage="align"))
    assert full["video_connector"] == align["video_connector"]
    assert full["vision_tower"] == 3 * align["vision_tower"]
    assert 1.2 < full["language_model"] / align["language_model"] < 1.5
    twice = train_flops(small_config(train__batch_size=16))
    assert twice == {part: 2 * count for part, count in full.items()}


def test_recomputation_is_another_forward_of_what_gradients_pass_through():
    assert recomputed_flops(small_config()) == {}
    full = recomputed_flops(small_config(train__remat="full"))
    counted = train_flops(small_config())
    for part, count in full.items():
        assert count == pytest.approx(counted[part] / 3)
    align = recomputed_flops(small_config(train__remat="full", train__stage="align"))
    assert set(full) - set(align) == {"vision_tower", "audio_tower"}


def test_towers_that_are_not_run_cost_nothing():
    settings = {"train__stage": "align", "train__remat": "full"}
    run = small_config(**settings)
    spared = small_config(**settings, data__features="bfloat16")
    before, after = train_flops(run), train_flops(spared)
    assert before["vision_tower"] > 0
    for name in before:
        assert after[name] == (0 if name.endswith("_tower") else before[name])
    assert sum(recomputed_flops(spared).values()) == sum(recomputed_flops(run).values())
