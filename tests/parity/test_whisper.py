"""Agreement with transformers' Whisper: the features, and the encoder both ways."""

import itertools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    WhisperModel,
)
from transformers.models.whisper import modeling_whisper

from deemo_jax.models.whisper import WhisperEncoder, log_mel, sinusoids
from deemo_jax.pretrained import PretrainedError
from tests.small import marked

SIZES: dict[str, Any] = {
    "d_model": 18,
    "encoder_layers": 3,
    "encoder_attention_heads": 3,
    "encoder_ffn_dim": 26,
    "num_mel_bins": 11,
    "max_source_positions": 17,
    "decoder_layers": 1,
    "decoder_attention_heads": 3,
    "decoder_ffn_dim": 8,
    "vocab_size": 13,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
MEL = np.random.default_rng(0).standard_normal((2, 34, 11)).astype(np.float32)
features_of = jax.jit(log_mel, static_argnames="num_mel_bins")
call = nnx.jit(lambda encoder, mel: encoder(mel))


def sound(samples: int) -> np.ndarray:
    """Two rows: a gliding voice with harmonics, and hiss that ends half-way."""
    generator = np.random.default_rng(samples)
    time = np.arange(samples) / 16_000
    phase = 2 * np.pi * (120 * time + 2 * time**2)
    voice = 0.2 * sum(np.sin(phase * k) / k for k in range(1, 30))
    hiss = np.where(time < time[-1] / 2, 0.3, 0.0)
    rows = np.stack([voice, np.zeros(samples)])
    noise = np.stack([np.full(samples, 0.003), hiss])
    return (rows + noise * generator.standard_normal((2, samples))).astype(np.float32)


@pytest.mark.parametrize(
    ("num_mel_bins", "samples", "loudness"),
    [
        *itertools.product([40, 80, 128], [16_000, 47_993, 480_000], [1.0]),
        (80, 16_000, 1e-3),
        (80, 16_000, 30.0),
    ],
)
def test_log_mel_is_the_feature_extractors(num_mel_bins, samples, loudness):
    waveform = np.clip(loudness * sound(samples), -1, 1)  # the loudest is clipped
    extractor = WhisperFeatureExtractor(feature_size=num_mel_bins)
    expected = extractor(
        list(waveform), sampling_rate=16_000, padding="do_not_pad", return_tensors="np"
    )["input_features"]
    features = features_of(jnp.asarray(waveform), num_mel_bins)
    np.testing.assert_allclose(features, expected.transpose(0, 2, 1), rtol=0, atol=1e-4)
    # With PyTorch, it computes in float32 as well; without, in float64.
    exact = extractor._np_extract_fbank_features(waveform, "cpu")
    np.testing.assert_allclose(features, exact.transpose(0, 2, 1), rtol=0, atol=5e-5)


def test_log_mel_of_a_padded_clip_is_the_feature_extractors():
    waveform = sound(20_001)
    extractor = WhisperFeatureExtractor(feature_size=80)
    expected = extractor(list(waveform), sampling_rate=16_000, return_tensors="np")
    padded = np.pad(waveform, ((0, 0), (0, 480_000 - 20_001)))
    np.testing.assert_allclose(
        features_of(jnp.asarray(padded), 80),
        expected["input_features"].transpose(0, 2, 1),
        rtol=0,
        atol=1e-4,
    )


def randomise(model: Any) -> Any:
    """Every parameter drawn anew, the norms' and the biases' too."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + 0.2 * torch.randn_like(parameter))
    return model.eval()


def last_hidden_state(model: Any, mel: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(mel).transpose(1, 2)).last_hidden_state.numpy()


# The published sizes, small: heads and mel bins as they are, a quarter of the layers,
# two channels a head instead of 64.
PUBLISHED = {
    #            layers  heads  mel bins
    "tiny":     (4,      6,     80),
    "base":     (6,      8,     80),
    "small":    (12,     12,    80),
    "medium":   (24,     16,    80),
    "large-v2": (32,     20,    80),
    "large-v3": (32,     20,    128),
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    size: {
        "encoder_layers": layers // 4,
        "encoder_attention_heads": heads,
        "d_model": 2 * heads,
        "encoder_ffn_dim": 8 * heads,
        "num_mel_bins": num_mel_bins,
        "decoder_attention_heads": heads,
    }
    for size, (layers, heads, num_mel_bins) in PUBLISHED.items()
} | {"gelu": {}, "silu": {"activation_function": "silu"}}


@pytest.mark.parametrize("changes", marked(VARIANTS, "tiny", "large-v3", "silu"))
def test_every_variant_agrees_both_ways(changes, tmp_path):
    config = WhisperConfig(**SIZES | changes)
    mel = np.random.default_rng(0).standard_normal((2, 34, config.num_mel_bins))
    mel = mel.astype(np.float32)
    theirs = randomise(modeling_whisper.WhisperEncoder(config))
    expected = last_hidden_state(theirs, mel)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = WhisperEncoder.from_pretrained(tmp_path / "theirs")
    np.testing.assert_allclose(
        call(ours, jnp.asarray(mel)), expected, rtol=0, atol=1e-4
    )
    ours.save_pretrained(tmp_path / "ours")
    reader: Any = modeling_whisper.WhisperEncoder
    again, loading = reader.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(loading.values()), loading
    np.testing.assert_array_equal(last_hidden_state(again.eval(), mel), expected)


def shorten(theirs: Any, positions: int) -> None:
    """Theirs insists on its full length: the same model with a table of another."""
    table = theirs.embed_positions
    table.weight = torch.nn.Parameter(table.weight[:positions])
    table.num_embeddings = theirs.config.max_source_positions = positions


@pytest.mark.parametrize("positions", [1, 11, 16])
def test_a_shorter_input_takes_the_first_positions(positions, tmp_path):
    theirs = randomise(modeling_whisper.WhisperEncoder(WhisperConfig(**SIZES)))
    theirs.save_pretrained(tmp_path)
    mel = MEL[:, : 2 * positions]
    ours = call(WhisperEncoder.from_pretrained(tmp_path), jnp.asarray(mel))
    shorten(theirs, positions)
    expected = last_hidden_state(theirs, mel)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("seconds", "num_mel_bins"), [(30, 80), (7, 128)])
def test_hearing_is_the_feature_extractor_and_the_encoder(
    seconds, num_mel_bins, tmp_path
):
    sizes = SIZES | {"num_mel_bins": num_mel_bins, "max_source_positions": 1500}
    theirs = randomise(modeling_whisper.WhisperEncoder(WhisperConfig(**sizes)))
    theirs.save_pretrained(tmp_path)
    ours = WhisperEncoder.from_pretrained(tmp_path)
    shorten(theirs, 50 * seconds)
    samples, lengths = 16_000 * seconds, (16_000 * seconds, 40_001)
    waveform = sound(samples)
    extractor = WhisperFeatureExtractor(feature_size=num_mel_bins, chunk_length=seconds)
    rows = [row[:length] for row, length in zip(waveform, lengths, strict=True)]
    inputs = extractor(rows, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**inputs).last_hidden_state.numpy()
    hear = nnx.jit(lambda encoder, *inputs: encoder.hear(*inputs))
    features, heard = hear(ours, jnp.asarray(waveform), jnp.asarray(lengths))
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4)
    assert heard.sum(axis=1).tolist() == [50 * seconds, 126]


@pytest.mark.parametrize("kind", [WhisperModel, WhisperForAudioClassification])
def test_a_whole_whisper_gives_its_encoder(kind, tmp_path):
    whole = randomise(kind(WhisperConfig(**SIZES)))
    whole.save_pretrained(tmp_path)
    ours = WhisperEncoder.from_pretrained(tmp_path)
    expected = last_hidden_state(whole.encoder, MEL)
    np.testing.assert_allclose(
        call(ours, jnp.asarray(MEL)), expected, rtol=0, atol=1e-4
    )


def test_new_positions_are_those_of_transformers():
    theirs = modeling_whisper.sinusoids(1500, 64).numpy()
    np.testing.assert_allclose(sinusoids(1500, 64), theirs, rtol=0, atol=1e-4)


def test_another_model_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(PretrainedError, match="'hubert'.*audio tower"):
        WhisperEncoder.from_pretrained(tmp_path)
