"""Sizes and constants of every tower, under the names Hugging Face gives them.

None of these fields has a default: a checkpoint's constants are read from its
`config.json`, and a preset states each one. A constant that silently falls back to
somebody else's value is how conversions come to lie.
"""

import dataclasses

SAMPLE_RATE = 16_000  # Hz; the pivot of McAdams and every audio tower assume it


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are slowed for rows longer than those of pretraining.

    `rope_type` "linear" divides every frequency by `factor` (Chen et al., 2023,
    arXiv 2306.15595). "llama3" (Grattafiori et al., 2024, arXiv 2407.21783, as its
    `config.json` states it) divides those that turn less than `low_freq_factor` times
    in `original_max_position_embeddings` places, keeps those that turn more than
    `high_freq_factor` times, and goes from one to the other in between; a linear
    scaling has None for these three.
    """

    rope_type: str
    factor: float
    low_freq_factor: float | None
    high_freq_factor: float | None
    original_max_position_embeddings: int | None

    def __post_init__(self):
        low, high = self.low_freq_factor, self.high_freq_factor
        places = self.original_max_position_embeddings
        if self.rope_type not in ("linear", "llama3"):
            raise ValueError(
                f"rope type {self.rope_type!r} is not supported; supported: default "
                f"(no scaling), linear, llama3"
            )
        if self.factor < 1:
            raise ValueError(f"rope's factor is {self.factor}; it must be 1 or more")
        if self.rope_type == "linear":
            if (low, high, places) != (None, None, None):
                raise ValueError(
                    f"rope type linear has a factor only, but low_freq_factor is "
                    f"{low}, high_freq_factor {high} and "
                    f"original_max_position_embeddings {places}; leave them out"
                )
            return
        if low is None or high is None or not 0 < low < high:
            raise ValueError(
                f"rope's low_freq_factor is {low} and its high_freq_factor {high}; "
                f"type llama3 needs both, above 0, the high one above the low one"
            )
        if places is None or places < 1:
            raise ValueError(
                f"rope's original_max_position_embeddings is {places}; type llama3 "
                f"needs the longest row of pretraining, 1 or more"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """The decoder, as `transformers.LlamaConfig` describes it."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_act: str
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    attention_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool

    def __post_init__(self):
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if groups < 1 or heads % groups:
            raise ValueError(
                f"num_attention_heads is {heads} and num_key_value_heads {groups}; "
                f"make the first a multiple of the second"
            )
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(
                f"head_dim is {self.head_dim}; rotary positions turn pairs of "
                f"features, make it even"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipVisionConfig:
    """The vision tower, as `transformers.CLIPVisionConfig` describes it."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    hidden_act: str
    layer_norm_eps: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class WhisperEncoderConfig:
    """The audio tower: the encoder's half of `transformers.WhisperConfig`.

    `max_source_positions` is the number of positions after the second convolution
    has halved the mel frames: 1500 for Whisper's 30 seconds, 50 a second.
    """

    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    num_mel_bins: int
    max_source_positions: int
    activation_function: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class QFormerConfig:
    """A connector: BLIP-2's Q-Former, cross-attention in every layer, with positions.

    `encoder_hidden_size` is the width of the tower's features, `max_positions` the
    number of learned temporal positions added to them, `num_query_tokens` the number
    of tokens handed to the decoder.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    encoder_hidden_size: int
    max_positions: int
    num_query_tokens: int
    hidden_act: str
    layer_norm_eps: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeemoLlamaConfig:
    """The whole model: two towers, a connector each, and the decoder.

    `vision_feature_layer` counts hidden states as Hugging Face does: -1 is the last
    layer's output, -2 the one before. `video_token_id` and `audio_token_id` mark the
    places in the prompt that the connectors' tokens fill.
    """

    vision_tower: ClipVisionConfig
    audio_tower: WhisperEncoderConfig
    video_connector: QFormerConfig
    audio_connector: QFormerConfig
    language_model: LlamaConfig
    vision_feature_layer: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    video_token_id: int
    audio_token_id: int

    def __post_init__(self):
        for connector, width, tower in (
            ("video_connector", self.vision_tower.hidden_size, "vision_tower"),
            ("audio_connector", self.audio_tower.d_model, "audio_tower"),
        ):
            found = getattr(self, connector).encoder_hidden_size
            if found != width:
                raise ValueError(
                    f"model.{connector}.encoder_hidden_size is {found}, but "
                    f"model.{tower} is {width} wide; set both to the same value"
                )
