"""Our LLaMA and PyTorch's give the same logits, in both directions of the folder."""

import json

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from deemo_jax.models.llama import Llama

TOLERANCE = 1e-4  # largest absolute difference of a logit, float32; never relaxed

VARIANTS = {
    #                 heads  groups  head  width  layers  tied   attn bias  mlp bias
    "multi-head":    (3,     3,      4,    12,    2,      False, False,     False),
    "grouped":       (6,     2,      6,    36,    3,      False, False,     False),
    "one-group":     (5,     1,      2,    10,    1,      True,  False,     False),
    "wide-head":     (3,     3,      10,   15,    2,      True,  False,     False),
    "narrow-head":   (4,     2,      2,    28,    2,      False, False,     False),
    "biases":        (3,     1,      6,    18,    2,      False, True,      True),
    "one-bias-tied": (2,     1,      8,    16,    3,      True,  True,      False),
}  # fmt: skip


def make_twin(variant, **changes):
    heads, groups, head, width, layers, tied, attention_bias, mlp_bias = variant
    torch.manual_seed(0)
    config = LlamaConfig(
        **{
            "vocab_size": 37,
            "hidden_size": width,
            "intermediate_size": 2 * width + 3,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": groups,
            "head_dim": head,
            "tie_word_embeddings": tied,
            "attention_bias": attention_bias,
            "mlp_bias": mlp_bias,
            "rms_norm_eps": 3e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 777.0},
            "max_position_embeddings": 64,
            **changes,
        }
    )
    twin = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in twin.parameters():
            # Wide enough that every constant shows in the logits, biases and norms too.
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return twin


def their_logits(twin, tokens, mask=None):
    with torch.no_grad():
        mask = None if mask is None else torch.tensor(mask)
        return twin(torch.tensor(tokens), attention_mask=mask).logits.numpy()


def our_logits(model, tokens, **arguments):
    arguments = {"tokens": tokens, **arguments}
    graphdef, params = nnx.split(model)
    call = jax.jit(lambda params, values: nnx.merge(graphdef, params)(**values))
    return call(params, {name: jnp.asarray(x) for name, x in arguments.items()})


def draw_tokens(batch=3, length=17):
    return np.random.default_rng(0).integers(0, 37, (batch, length))


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_logits_agree_there_and_back(variant, tmp_path):
    twin, tokens = make_twin(variant), draw_tokens()
    expected = their_logits(twin, tokens)
    assert np.abs(expected).max() > 1  # a model of zeros would agree with anything
    twin.save_pretrained(tmp_path / "theirs")

    model = Llama.from_pretrained(tmp_path / "theirs")
    logits = our_logits(model, tokens)
    assert logits.dtype == jnp.float32
    assert np.abs(logits - expected).max() < TOLERANCE

    model.save_pretrained(tmp_path / "ours")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_array_equal(their_logits(again, tokens), expected)
    assert Llama.from_pretrained(tmp_path / "ours").config == model.config


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_agree(side, tmp_path):
    twin, tokens = make_twin(VARIANTS["grouped"]), draw_tokens()
    twin.save_pretrained(tmp_path)
    mask = np.ones_like(tokens)
    for row, padding in enumerate((5, 1, 0)):
        if side == "left":
            mask[row, :padding] = 0
        else:
            mask[row, mask.shape[1] - padding :] = 0
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    with torch.no_grad():
        expected = twin(
            torch.tensor(tokens),
            attention_mask=torch.tensor(mask),
            position_ids=torch.tensor(positions),
        ).logits.numpy()
    logits = our_logits(Llama.from_pretrained(tmp_path), tokens, segment_ids=mask)
    assert np.abs((np.asarray(logits) - expected)[mask == 1]).max() < TOLERANCE


def test_config_of_an_older_file_is_read(tmp_path):
    twin = make_twin(
        VARIANTS["multi-head"],
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    twin.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    # As Llama 2's first config.json was: no key of a later version of the format.
    newer = ["attention_bias", "head_dim", "mlp_bias", "num_key_value_heads"]
    for key in [*newer, "rope_parameters", "tie_word_embeddings"]:
        del config[key]
    for older in ({}, {"rope_scaling": None}, {"rope_theta": 10_000}):
        (tmp_path / "config.json").write_text(json.dumps(config | older))
        tokens = draw_tokens()
        logits = our_logits(Llama.from_pretrained(tmp_path), tokens)
        assert np.abs(logits - their_logits(twin, tokens)).max() < TOLERANCE


def test_sharded_checkpoint_agrees(tmp_path):
    twin, tokens = make_twin(VARIANTS["grouped"]), draw_tokens()
    twin.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    logits = our_logits(Llama.from_pretrained(tmp_path), tokens)
    assert np.abs(logits - their_logits(twin, tokens)).max() < TOLERANCE


def test_half_precision_checkpoint_is_computed_in_float32(tmp_path):
    twin = make_twin(VARIANTS["grouped"]).bfloat16()
    twin.save_pretrained(tmp_path)
    model = Llama.from_pretrained(tmp_path)
    tokens = draw_tokens()
    twin = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    logits = our_logits(model, tokens)
    assert np.abs(logits - their_logits(twin, tokens)).max() < TOLERANCE


def test_what_older_files_carry_beside_the_model_is_left(tmp_path):
    twin, tokens = make_twin(VARIANTS["one-group"]), draw_tokens()
    twin.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    # A buffer of rope's frequencies in each layer; a copy of the tied embedding.
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(1)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    logits = our_logits(Llama.from_pretrained(tmp_path), tokens)
    assert np.abs(logits - their_logits(twin, tokens)).max() < TOLERANCE
