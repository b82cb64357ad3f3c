"""Our LLaMA and PyTorch's give the same logits, in both directions of the folder."""

import functools
import itertools
import json

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file, save_file
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from deemo_jax.loss import cross_entropy_sums
from deemo_jax.models.llama import TABLE, Llama
from deemo_jax.pretrained import PretrainedError, write
from tests.small import marked

# Largest absolute difference of a logit or of a gradient, float32; never relaxed.
TOLERANCE = 1e-4
# Compiled in half the time; what is compiled computes the same.
QUICK = {"xla_backend_optimization_level": 0}

ROPES = {
    "default": {"rope_type": "default", "rope_theta": 777.0},
    "linear": {"rope_type": "linear", "rope_theta": 777.0, "factor": 2.5},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 777.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        # Of a head of 10, a pair each is kept, slowed a little, slowed by the factor.
        "original_max_position_embeddings": 32,
    },
}
DEFAULT, LINEAR, LLAMA3 = ROPES
VARIANTS = {
    #                 heads  groups  head  width  layers  tied   bias: attn, mlp  rope
    "multi-head":    (3,     3,      4,    12,    2,      False, False, False, DEFAULT),
    "grouped":       (6,     2,      6,    36,    3,      False, False, False, DEFAULT),
    "one-group":     (5,     1,      2,    10,    1,      True,  False, False, DEFAULT),
    "wide-head":     (3,     3,      10,   15,    2,      True,  False, False, DEFAULT),
    "narrow-head":   (4,     2,      2,    28,    2,      False, False, False, DEFAULT),
    "biases":        (3,     1,      6,    18,    2,      False, True,  True,  DEFAULT),
    "one-bias-tied": (2,     1,      8,    16,    3,      True,  True,  False, DEFAULT),
    "linear":        (4,     4,      6,    24,    2,      False, False, False, LINEAR),
    "llama3":        (4,     2,      10,   24,    2,      False, False, False, LLAMA3),
    "llama3-tied":   (6,     2,      10,   18,    3,      True,  False, False, LLAMA3),
}  # fmt: skip


def make_twin(variant, **changes):
    heads, groups, head, width, layers, tied, attention_bias, mlp_bias, rope = variant
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
            "rope_parameters": dict(ROPES[rope]),
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
    call = jax.jit(
        lambda params, values: nnx.merge(graphdef, params)(**values),
        compiler_options=QUICK,
    )
    return call(params, {name: jnp.asarray(x) for name, x in arguments.items()})


def draw_tokens(batch=3, length=23):
    return np.random.default_rng(0).integers(0, 37, (batch, length))


def their_gradients(twin, tokens, mask):
    """Of the mean cross-entropy of the tokens that `mask` says are to be predicted."""
    twin.zero_grad()
    logits = twin(torch.tensor(tokens)).logits[:, :-1]
    targets = torch.tensor(np.where(mask, tokens, -100))[:, 1:]
    torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=-100
    ).backward()
    return {name: parameter.grad.numpy() for name, parameter in twin.named_parameters()}


def our_gradients(model, tokens, mask, folder):
    """Logits, and the gradients under PyTorch's names, by the table of names."""
    graphdef, params = nnx.split(model)

    @functools.partial(jax.jit, compiler_options=QUICK)
    @functools.partial(jax.grad, has_aux=True)
    def gradients(params):
        logits = nnx.merge(graphdef, params)(jnp.asarray(tokens))
        sums = cross_entropy_sums(logits, jnp.asarray(tokens), jnp.asarray(mask))
        return sums["loss"] / sums["tokens"], logits

    found, logits = gradients(params)
    write(folder, TABLE, found, {})
    return logits, load_numpy(folder / "model.safetensors")


@pytest.mark.parametrize(
    "variant",
    marked(VARIANTS, "grouped", "one-group", "biases", "linear", "llama3-tied"),
)
def test_logits_and_gradients_agree_there_and_back(variant, tmp_path):
    twin, tokens = make_twin(variant), draw_tokens()
    mask = np.random.default_rng(1).random(tokens.shape) < 0.6
    expected = their_logits(twin, tokens)
    assert np.abs(expected).max() > 1  # a model of zeros would agree with anything
    twin.save_pretrained(tmp_path / "theirs")

    model = Llama.from_pretrained(tmp_path / "theirs")
    logits, found = our_gradients(model, tokens, mask, tmp_path / "gradients")
    assert logits.dtype == jnp.float32
    assert np.abs(logits - expected).max() < TOLERANCE
    gradients = their_gradients(twin, tokens, mask)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        # What is added to all keys alike moves no weight of a softmax, turned by rope
        # it does, a little.
        assert np.abs(gradient).max() > 1e-4, name
        assert np.abs(found[name] - gradient).max() < TOLERANCE, name

    model.save_pretrained(tmp_path / "ours")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_array_equal(their_logits(again, tokens), expected)
    assert without_type(again.config.rope_parameters) == ROPES[variant[-1]]
    assert Llama.from_pretrained(tmp_path / "ours").config == model.config


def without_type(rope):
    """Without the older name of `rope_type`, which `transformers` keeps beside it."""
    return {key: value for key, value in rope.items() if key != "type"}


@pytest.mark.parametrize("rope", ROPES)
def test_rope_of_an_older_file_is_read(rope, tmp_path):
    twin, tokens = make_twin((*VARIANTS["llama3"][:-1], rope)), draw_tokens()
    twin.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    older = dict(config.pop("rope_parameters"))
    config["rope_theta"] = older.pop("rope_theta")
    older["type"] = older.pop("rope_type")
    config["rope_scaling"] = None if rope == "default" else older
    (tmp_path / "config.json").write_text(json.dumps(config))
    logits = our_logits(Llama.from_pretrained(tmp_path), tokens)
    assert np.abs(logits - their_logits(twin, tokens)).max() < TOLERANCE


def test_ropes_differ_by_more_than_the_tolerance():
    logits = []
    for rope in ROPES:
        twin = make_twin((*VARIANTS["llama3"][:-1], rope))
        logits.append(their_logits(twin, draw_tokens()))
    for one, other in itertools.combinations(logits, 2):
        assert np.abs(one - other).max() > 100 * TOLERANCE


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


def with_tensors(folder, **tensors):
    """Adds tensors to a saved model; `__` stands for a dot."""
    found = load_file(folder / "model.safetensors")
    found |= {name.replace("__", "."): x for name, x in tensors.items()}
    save_file(found, folder / "model.safetensors")


def test_what_older_files_carry_beside_the_model_is_left(tmp_path):
    twin, tokens = make_twin(VARIANTS["one-group"]), draw_tokens()
    twin.save_pretrained(tmp_path)
    # A buffer of rope's frequencies in each layer; a copy of the tied embedding.
    with_tensors(
        tmp_path,
        model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(1),
        lm_head__weight=twin.model.embed_tokens.weight.detach().clone(),
    )
    logits = our_logits(Llama.from_pretrained(tmp_path), tokens)
    assert np.abs(logits - their_logits(twin, tokens)).max() < TOLERANCE


def test_a_tied_head_that_differs_from_the_embedding_is_refused(tmp_path):
    twin = make_twin(VARIANTS["one-group"])
    twin.save_pretrained(tmp_path)
    head = twin.model.embed_tokens.weight.detach().clone()
    head[-1, -1] += 1e-3
    for wrong in (head, head[:-1]):
        with_tensors(tmp_path, lm_head__weight=wrong.clone())
        with pytest.raises(PretrainedError, match=r"lm_head.weight in .* differs from"):
            Llama.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_saved_in_any_dtype_pytorch_reads_the_same(dtype, tmp_path):
    make_twin(VARIANTS["llama3"]).save_pretrained(tmp_path / "theirs")
    model = Llama.from_pretrained(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours", dtype=dtype)
    # As the folder says, then computed in float32 on both sides.
    twin = LlamaForCausalLM.from_pretrained(tmp_path / "ours", dtype="auto").eval()
    assert twin.dtype == getattr(torch, dtype)
    tokens = draw_tokens()
    logits = our_logits(Llama.from_pretrained(tmp_path / "ours"), tokens)
    assert np.abs(logits - their_logits(twin.float(), tokens)).max() < TOLERANCE
