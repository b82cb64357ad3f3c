"""Agreement of the whole with its PyTorch twin, weights carried over and back."""

from pathlib import Path
from typing import Any

from flax import nnx
import jax
import numpy as np
import pytest
import torch

from deemo_jax.architecture import (
    ClipVisionConfig,
    DeemoLlamaConfig,
    LlamaConfig,
    QFormerConfig,
    WhisperEncoderConfig,
)
from deemo_jax.batch import Batch
from deemo_jax.export.configuration_deemo_llama import (
    DeemoLlamaConfig as TorchConfig,
)
from deemo_jax.export.modeling_deemo_llama import DeemoLlamaForConditionalGeneration
from deemo_jax.models.deemo_llama import DeemoLlama, config_to_dict

CONNECTOR = QFormerConfig(
    hidden_size=10,
    intermediate_size=18,
    num_hidden_layers=2,
    num_attention_heads=5,
    encoder_hidden_size=9,
    max_positions=6,
    num_query_tokens=3,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
)


def configuration(*, tied: bool, feature_layer: int) -> DeemoLlamaConfig:
    return DeemoLlamaConfig(
        vision_tower=ClipVisionConfig(
            hidden_size=9,
            intermediate_size=14,
            num_hidden_layers=3,
            num_attention_heads=3,
            image_size=12,
            patch_size=4,
            hidden_act="quick_gelu",
            layer_norm_eps=1e-5,
        ),
        audio_tower=WhisperEncoderConfig(
            d_model=14,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=22,
            num_mel_bins=13,
            max_source_positions=29,
            activation_function="gelu",
        ),
        video_connector=CONNECTOR,
        audio_connector=QFormerConfig(
            hidden_size=8,
            intermediate_size=14,
            num_hidden_layers=1,
            num_attention_heads=2,
            encoder_hidden_size=14,
            max_positions=7,
            num_query_tokens=2,
            hidden_act="gelu",
            layer_norm_eps=1e-12,
        ),
        language_model=LlamaConfig(
            vocab_size=31,
            hidden_size=20,
            intermediate_size=26,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=6,
            hidden_act="silu",
            max_position_embeddings=64,
            rms_norm_eps=1e-5,
            rope_theta=500.0,
            rope_scaling=None,
            attention_bias=False,
            mlp_bias=False,
            tie_word_embeddings=tied,
        ),
        vision_feature_layer=feature_layer,
        image_mean=(0.5, 0.4, 0.3),
        image_std=(0.2, 0.3, 0.4),
        audio_frames_per_position=5,
        video_token_id=3,
        audio_token_id=4,
    )


def make_batch() -> Batch:
    tokens = np.array(
        [
            [1, 3, 3, 3, 4, 4, 7, 8, 9, 10, 2],
            [1, 3, 3, 3, 7, 8, 9, 2, 0, 0, 0],
            [1, 4, 4, 11, 12, 30, 9, 2, 0, 0, 0],
            [1, 5, 6, 7, 2, 0, 0, 0, 0, 0, 0],
        ]
    )
    generator = np.random.default_rng(0)
    return Batch(
        tokens=tokens,
        positions=np.broadcast_to(np.arange(11), tokens.shape),
        segment_ids=(tokens != 0).astype(np.int32),
        loss_mask=tokens == 2,
        frames=generator.integers(0, 256, (4, 5, 12, 12, 3), np.uint8),
        frame_mask=np.array([[1] * 5, [1, 1, 1, 0, 0], [0] * 5, [0] * 5]) == 1,
        audio=0.1 * generator.standard_normal((4, 7043)).astype(np.float32),
        audio_length=np.array([7043, 0, 5001, 0]),
        index=np.arange(4),
    )


BATCH = make_batch()
REAL = np.asarray(BATCH.tokens) != 0


def torch_logits(model: Any) -> np.ndarray:
    def tensor(array: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(array))

    with torch.no_grad():
        return model(
            input_ids=tensor(BATCH.tokens),
            attention_mask=tensor(REAL).long(),
            frames=tensor(BATCH.frames),
            frame_mask=tensor(BATCH.frame_mask),
            audio=tensor(BATCH.audio),
            audio_length=tensor(BATCH.audio_length),
        ).logits.numpy()


def random_twin(config: DeemoLlamaConfig) -> Any:
    fields = config_to_dict(config)
    del fields["model_type"]
    twin = DeemoLlamaForConditionalGeneration(TorchConfig(**fields)).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.copy_(parameter + 0.1 * torch.randn_like(parameter))
    return twin


@pytest.mark.parametrize(("tied", "feature_layer"), [(True, -1), (False, -2)])
def test_the_logits_agree_both_ways(tied: bool, feature_layer: int, tmp_path: Path):
    config = configuration(tied=tied, feature_layer=feature_layer)
    twin = random_twin(config)
    expected = torch_logits(twin)
    twin.save_pretrained(tmp_path / "theirs")

    ours = DeemoLlama.from_pretrained(tmp_path / "theirs")
    assert ours.config == config
    assert np.abs(expected[REAL]).max() > 0.1
    graphdef, params = nnx.split(ours)
    logits = jax.jit(lambda params: nnx.merge(graphdef, params)(BATCH))(params)
    np.testing.assert_allclose(logits[REAL], expected[REAL], rtol=0, atol=1e-4)

    ours.save_pretrained(tmp_path / "ours")
    reader: Any = DeemoLlamaForConditionalGeneration
    again, loading = reader.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(loading.values()), loading
    np.testing.assert_array_equal(torch_logits(again.eval())[REAL], expected[REAL])
