"""Agreement with transformers' Q-Former, weights read from PyTorch and written back."""

from flax import nnx
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
import torch
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from deemo_jax import pretrained, weights
from deemo_jax.architecture import QFormerConfig
from deemo_jax.models.qformer import TABLE, QFormer, config_from_dict, config_to_dict

CONFIG = QFormerConfig(
    hidden_size=15,
    intermediate_size=22,
    num_hidden_layers=3,
    num_attention_heads=5,
    encoder_hidden_size=9,
    max_positions=4,
    num_query_tokens=3,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
)
FEATURES = np.random.default_rng(0).standard_normal((3, 13, 9)).astype(np.float32)
POSITIONS = np.broadcast_to(np.arange(13) * 4 // 13, (3, 13))
MASK = np.arange(13)[None] < np.array([13, 6, 1])[:, None]


class Reference(torch.nn.Module):
    """transformers' Q-Former between a norm with positions and a projection."""

    def __init__(self):
        super().__init__()
        config = Blip2QFormerConfig(**config_to_dict(CONFIG))
        self.encoder_layernorm = torch.nn.LayerNorm(9, eps=CONFIG.layer_norm_eps)
        self.position_embedding = torch.nn.Embedding(4, 9)
        self.query_tokens = torch.nn.Parameter(torch.empty(3, 15))
        self.qformer = Blip2QFormerModel(config)
        self.projection = torch.nn.Linear(15, 7)
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.4 * torch.randn_like(parameter))
        self.eval()

    @torch.no_grad()
    def forward(self, features, positions, mask):
        positions = torch.from_numpy(positions.copy())
        features = self.encoder_layernorm(torch.from_numpy(features))
        states = self.qformer(
            query_embeds=self.query_tokens[None].expand(3, -1, -1),
            encoder_hidden_states=features + self.position_embedding(positions),
            encoder_attention_mask=torch.from_numpy(mask).long(),
        )
        return self.projection(states.last_hidden_state).numpy()


def read(folder) -> QFormer:
    make = lambda: QFormer(CONFIG, 7, rngs=nnx.Rngs(0))  # noqa: E731
    graphdef, abstract = nnx.split(nnx.eval_shape(make))
    return nnx.merge(graphdef, pretrained.read(folder, TABLE, abstract))


def test_the_q_former_agrees_both_ways(tmp_path):
    theirs = Reference()
    tensors = dict(theirs.named_parameters())
    save_file({k: v.detach() for k, v in tensors.items()}, tmp_path / weights.WEIGHTS)
    ours = read(tmp_path)
    tokens = ours(jnp.asarray(FEATURES), jnp.asarray(POSITIONS), jnp.asarray(MASK))
    expected = theirs(FEATURES, POSITIONS, MASK)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(tokens, expected, rtol=0, atol=1e-4)

    pretrained.write(tmp_path / "ours", TABLE, nnx.state(ours), config_to_dict(CONFIG))
    written = load_file(tmp_path / "ours" / weights.WEIGHTS)
    assert written.keys() == tensors.keys()
    theirs.load_state_dict(written, strict=True)
    np.testing.assert_array_equal(theirs(FEATURES, POSITIONS, MASK), expected)


def test_the_configuration_survives_its_file():
    values = Blip2QFormerConfig(**config_to_dict(CONFIG)).to_dict()
    assert config_from_dict(values) == CONFIG
    with pytest.raises(pretrained.PretrainedError, match="frequency 2 "):
        config_from_dict(values | {"cross_attention_frequency": 2})
    with pytest.raises(pretrained.PretrainedError, match="'bert'.*connector"):
        config_from_dict(values | {"model_type": "bert"})
    del values["num_query_tokens"]
    with pytest.raises(pretrained.PretrainedError, match="num_query_tokens"):
        config_from_dict(values)
