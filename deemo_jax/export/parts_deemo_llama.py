"""The audio towers and the connectors of DEEMO-LLaMA in PyTorch.

This file belongs to an exported folder and depends on `torch` and `transformers` alone.

Dimensions: B rows, N audio samples at 16 kHz, M mel bins, F frames, L a sequence of
features, E their width, Q tokens of a connector, D the decoder's width.
"""

import functools
from typing import Any

import torch
from torch import nn
from transformers import Blip2QFormerModel, HubertModel
from transformers.activations import ACT2FN
from transformers.audio_utils import mel_filter_bank
from transformers.models.whisper.modeling_whisper import WhisperEncoder

SAMPLE_RATE = 16_000  # Hz
WINDOW = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms


@functools.lru_cache(maxsize=4)
def _mel_filters(num_mel_bins: int) -> torch.Tensor:
    """Slaney's triangles `[201, num_mel_bins]`; no buffer, so nothing to restore."""
    filters = mel_filter_bank(
        num_frequency_bins=1 + WINDOW // 2,
        num_mel_filters=num_mel_bins,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE / 2,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(filters).to(torch.float32)


def log_mel(audio: torch.Tensor, num_mel_bins: int) -> torch.Tensor:
    """Whisper's features `[B, num_mel_bins, N // 160]` of a waveform `[B, N]`.

    What `transformers.WhisperFeatureExtractor` computes, for any length: short-time
    power spectrum, mel scale, log10, everything more than 8 below the row's own maximum
    raised to that, then `(x + 4) / 4`.
    """
    audio = audio.to(torch.float32)
    window = torch.hann_window(WINDOW, device=audio.device, dtype=torch.float32)
    spectrum = torch.stft(audio, WINDOW, HOP, window=window, return_complex=True)
    power = spectrum[..., :-1].abs().square()
    filters = _mel_filters(num_mel_bins).to(audio.device)
    features = torch.clamp(filters.T @ power, min=1e-10).log10()
    loudest = features.amax(dim=(1, 2), keepdim=True)
    return (torch.maximum(features, loudest - 8.0) + 4.0) / 4.0


class WhisperTower(WhisperEncoder):
    """Whisper's encoder; shorter windows than its own take the first positions."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Hidden states `[B, ceil(F / 2), D]` of mel features `[B, M, F]`."""
        hidden = nn.functional.gelu(self.conv1(features.to(self.conv1.weight.dtype)))
        hidden = nn.functional.gelu(self.conv2(hidden)).transpose(1, 2)
        length, positions = hidden.shape[1], self.embed_positions.num_embeddings
        if length > positions:
            raise ValueError(
                f"{features.shape[2] * HOP / SAMPLE_RATE:g} s of audio need {length} "
                f"positions and the audio tower has {positions}; give it at most "
                f"{2 * positions * HOP / SAMPLE_RATE:g} s"
            )
        hidden = hidden + self.embed_positions.weight[:length].to(hidden.dtype)
        for layer in self.layers:
            # Older versions want the third argument, and return a tuple.
            hidden = layer(hidden, None, layer_head_mask=None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return self.layer_norm(hidden)

    def hear(
        self, audio: torch.Tensor, audio_length: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features `[B, F, E]` of `audio`, `[B, N]`, and which of them are of sound."""
        audio = audio.masked_fill(~within(audio_length, audio.shape[1]), 0.0)
        features = self(log_mel(audio, self.config.num_mel_bins))
        begin = torch.arange(features.shape[1], device=audio.device) * 2 * HOP
        return features, begin[None] < audio_length[:, None]


class HubertTower(HubertModel):
    """HuBERT, which hears a waveform, and padding not at all."""

    def hear(
        self, audio: torch.Tensor, audio_length: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features `[B, F, E]` of `audio`, `[B, N]`, and which of them are of sound.

        Where the model was trained so, each clip is brought to mean 0 and variance 1.
        """
        mask = within(audio_length, audio.shape[1])
        audio = audio.to(torch.float32).masked_fill(~mask, 0.0)
        if self.config.do_normalize:
            count = audio_length.clamp(min=1)[:, None]
            mean = audio.sum(dim=1, keepdim=True) / count
            apart = (audio - mean).masked_fill(~mask, 0.0)
            variance = apart.square().sum(dim=1, keepdim=True) / count
            audio = apart / torch.sqrt(variance + 1e-7)
        features = self(
            audio.to(self.dtype), attention_mask=mask.long()
        ).last_hidden_state
        heard: Any = self._get_feat_extract_output_lengths(audio_length)  # pyright: ignore
        return features, within(heard, features.shape[1])


def within(length: torch.Tensor, places: int) -> torch.Tensor:
    """`[B, places]`: the first `length` of each row, those that are not padding."""
    return torch.arange(places, device=length.device)[None] < length[:, None]


def audio_tower(config: Any) -> Any:
    """The audio tower that a configuration describes."""
    tower = HubertTower if config.model_type == "hubert" else WhisperTower
    return tower._from_config(config)


class MlpConnector(nn.Module):
    """A tower's features, pooled over parts of the time, then mapped twice."""

    def __init__(self, config: Any, output_size: int):
        super().__init__()
        self.config = config
        self.linear_1 = nn.Linear(config.encoder_hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.linear_2 = nn.Linear(config.hidden_size, output_size)

    def forward(
        self, features: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Tokens `[B, Q, D]` of features `[B, L, E]`; `positions` and `mask` `[B, L]`.

        A part of the time without any valid feature gives the token of zeros.
        """
        count = self.config.num_query_tokens
        part = positions * count // self.config.max_positions
        token = torch.arange(count, device=features.device)
        taken = (part[:, None] == token[None, :, None]) & mask[:, None]
        weights = taken / taken.sum(dim=2, keepdim=True).clamp(min=1)
        features = features.masked_fill(~mask[..., None], 0.0)
        pooled = weights.to(features.dtype) @ features
        return self.linear_2(self.activation(self.linear_1(pooled)))


class QFormerConnector(nn.Module):
    """A tower's features into a fixed number of tokens: BLIP-2's Q-Former, with time.

    Each feature is normalised and given the learned embedding of its temporal position;
    the queries attend to them in every layer and are projected to the decoder's width.
    """

    def __init__(self, config: Any, output_size: int):
        super().__init__()
        width = config.encoder_hidden_size
        self.encoder_layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.position_embedding = nn.Embedding(config.max_positions, width)
        self.query_tokens = nn.Parameter(
            torch.empty(config.num_query_tokens, config.hidden_size)
        )
        self.qformer = Blip2QFormerModel._from_config(config)
        self.projection = nn.Linear(config.hidden_size, output_size)

    def forward(
        self, features: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Tokens `[B, Q, D]` of features `[B, L, E]`; `positions` and `mask` `[B, L]`.

        Masked features leave no trace. A row without any valid feature attends to the
        zeros that stand there instead, so that its tokens are finite.
        """
        features = self.encoder_layernorm(features) + self.position_embedding(positions)
        features = features.masked_fill(~mask[..., None], 0.0)
        mask = mask | ~mask.any(dim=1, keepdim=True)
        tokens = self.qformer(
            query_embeds=self.query_tokens[None].expand(features.shape[0], -1, -1),
            encoder_hidden_states=features,
            encoder_attention_mask=mask.long(),
            return_dict=True,
        ).last_hidden_state
        return self.projection(tokens.to(self.projection.weight.dtype))


def connector(config: Any, output_size: int) -> nn.Module:
    """The connector that a configuration describes."""
    if config.model_type == "deemo_mlp":
        return MlpConnector(config, output_size)
    return QFormerConnector(config, output_size)
