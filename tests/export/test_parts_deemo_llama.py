"""The parts of the PyTorch model agree with transformers'."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from deemo_jax.export import parts_deemo_llama as parts


def same(left, right, tolerance=1e-5):
    torch.testing.assert_close(left, right, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("samples", "bins"), [(1_601, 11), (16_000, 80), (480, 128)])
def test_log_mel_is_whispers(samples, bins):
    audio = np.random.default_rng(0).normal(size=(2, samples)).astype(np.float32)
    audio[1, samples // 2 :] = 0.0  # silence lies below the floor
    extractor = transformers.WhisperFeatureExtractor(feature_size=bins)
    expected = [extractor._np_extract_fbank_features(a[None], "cpu")[0] for a in audio]
    found = parts.log_mel(torch.from_numpy(audio), bins)
    assert found.shape == (2, bins, samples // 160)
    same(found, torch.from_numpy(np.stack(expected)).float())


def test_the_audio_tower_is_whispers_encoder(twin):
    tower, config = twin.audio_tower, twin.config.audio_config
    mel = torch.randn(2, 11, 46)
    whole: Any = WhisperEncoder.forward(tower, mel).last_hidden_state
    same(tower(mel), whole)
    shorter = WhisperEncoder(
        transformers.WhisperConfig(**config.to_dict() | {"max_source_positions": 9})
    ).eval()
    weights = tower.state_dict()
    weights["embed_positions.weight"] = weights["embed_positions.weight"][:9]
    shorter.load_state_dict(weights)
    expected = shorter(mel[..., :18]).last_hidden_state
    same(tower(mel[..., :18]), expected)
    assert (expected - whole[:, :9]).abs().max() > 1e-3


@pytest.mark.parametrize("normalised", [True, False])
def test_hubert_hears_what_its_feature_extractor_hands_it(normalised):
    config = transformers.HubertConfig(
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        conv_dim=(5, 7),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        num_conv_pos_embeddings=6,
        num_conv_pos_embedding_groups=4,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )
    config.do_normalize = normalised
    torch.manual_seed(0)
    tower: Any = parts.audio_tower(config).eval()
    draw = np.random.default_rng(0)
    clips = [draw.normal(0.3, 0.1, size).astype(np.float32) for size in (400, 250)]
    extractor = transformers.Wav2Vec2FeatureExtractor(
        do_normalize=normalised, return_attention_mask=True
    )
    inputs: Any = extractor(
        clips, sampling_rate=16_000, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        whole: Any = transformers.HubertModel.forward(tower, **inputs)
        expected = whole.last_hidden_state
        audio = torch.zeros(2, 400)
        for row, clip in enumerate(clips):
            audio[row, : len(clip)] = torch.from_numpy(clip)
        audio[1, 250:] = 9.0  # padding that is no silence
        found, heard = tower.hear(audio, torch.tensor([400, 250]))
    same(found[heard], expected[heard])
    assert heard.sum(dim=1).tolist() == [39, 24]
