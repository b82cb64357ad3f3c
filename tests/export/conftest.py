"""A tiny DEEMO-LLaMA of odd sizes in PyTorch, and inputs for it."""

import pytest
import torch
import transformers

from deemo_jax.export.configuration_deemo_llama import DeemoLlamaConfig
from deemo_jax.export.modeling_deemo_llama import DeemoLlamaForConditionalGeneration

transformers.utils.logging.disable_progress_bar()

CONNECTOR = {
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_positions": 5,
    "num_query_tokens": 3,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
FIELDS = {
    "vision_config": {
        "hidden_size": 14,
        "intermediate_size": 22,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 15,
        "patch_size": 5,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
    "audio_config": {
        "d_model": 18,
        "encoder_layers": 2,
        "encoder_attention_heads": 3,
        "encoder_ffn_dim": 26,
        "num_mel_bins": 11,
        "max_source_positions": 23,
        "activation_function": "gelu",
    },
    "video_connector_config": CONNECTOR | {"encoder_hidden_size": 14},
    "audio_connector_config": CONNECTOR
    | {"encoder_hidden_size": 18, "num_query_tokens": 2},
    "text_config": {
        "vocab_size": 37,
        "hidden_size": 24,
        "intermediate_size": 34,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "hidden_act": "silu",
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5_000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "vision_feature_layer": -2,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.25, 0.3, 0.2],
    "audio_frames_per_position": 5,
    "video_token_id": 3,
    "audio_token_id": 4,
}


@pytest.fixture
def fields():
    """What a `config.json` holds."""
    return FIELDS


@pytest.fixture(scope="session")
def make_twin():
    """Builds the PyTorch model; `tie` shares the head with the embeddings."""

    def make(*, tie=False):
        torch.manual_seed(0)
        text = FIELDS["text_config"] | {"tie_word_embeddings": tie}
        config = DeemoLlamaConfig(**FIELDS | {"text_config": text})
        model = DeemoLlamaForConditionalGeneration(config).eval()
        with torch.no_grad():  # far enough from zero for every part to be heard
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)
                elif "embed_positions" not in name:
                    parameter.mul_(5.0)
        return model

    return make


@pytest.fixture(scope="session")
def twin(make_twin):
    """The model with a head of its own."""
    return make_twin()


@pytest.fixture
def inputs():
    """Two rows, the first padded on the left: video and audio, audio alone."""
    draw = torch.Generator().manual_seed(1)
    tokens = torch.tensor(
        [
            [0, 0, 1, 3, 3, 3, 4, 4, 9, 10],
            [1, 4, 4, 11, 12, 13, 14, 15, 16, 17],
        ]
    )
    return {
        "input_ids": tokens,
        "attention_mask": (tokens > 0).long(),
        "frames": torch.randint(
            0, 256, (2, 4, 15, 15, 3), generator=draw, dtype=torch.uint8
        ),
        "frame_mask": torch.tensor([[True, True, False, True], [False] * 4]),
        "audio": torch.randn(2, 5_000, generator=draw) * 0.1,
        "audio_length": torch.tensor([4_000, 2_345]),
    }
