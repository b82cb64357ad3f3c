"""Sizes and constants of every tower, under the names Hugging Face gives them.

None of these fields has a default: a checkpoint's constants are read from its
`config.json`, and a preset states each one. A constant that silently falls back to
somebody else's value is how conversions come to lie. `model_type`, which is fixed, says
which of several kinds of part is meant, in a preset as in a `config.json`.
"""

import dataclasses

FRAMES_PER_SECOND = 50  # that an audio tower gives
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

    model_type: str = dataclasses.field(default="clip_vision_model", init=False)
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    hidden_act: str
    layer_norm_eps: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class SiglipVisionConfig:
    """The vision tower, as `transformers.SiglipVisionConfig` describes it.

    `vision_use_head` says whether a checkpoint carries the pooling of its embedding.
    """

    model_type: str = dataclasses.field(default="siglip_vision_model", init=False)
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    hidden_act: str
    layer_norm_eps: float
    vision_use_head: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class WhisperEncoderConfig:
    """The audio tower: the encoder's half of `transformers.WhisperConfig`.

    `max_source_positions` is the number of positions after the second convolution
    has halved the mel frames: 1500 for Whisper's 30 seconds, 50 a second.
    """

    model_type: str = dataclasses.field(default="whisper", init=False)
    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    num_mel_bins: int
    max_source_positions: int
    activation_function: str

    @property
    def hidden_size(self) -> int:
        """`d_model`, under the name that it has in the other towers."""
        return self.d_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubertConfig:
    """An audio tower on the waveform itself, as `transformers.HubertConfig` has it.

    `conv_dim`, `conv_kernel` and `conv_stride` hold one number a convolution: channels
    out, taps and stride, in samples of what enters it. `feat_extract_norm` is "group"
    (a norm over time after the first convolution) or "layer" (one over the channels
    after each), `do_stable_layer_norm` whether norms stand before the parts of a layer
    or after them. `mask_time_prob` and `mask_feature_prob` belong to a training that is
    not done here; where one is above 0, a checkpoint has a `masked_spec_embed`.
    `do_normalize` is the feature extractor's: whether each clip is brought to mean 0
    and variance 1.
    """

    model_type: str = dataclasses.field(default="hubert", init=False)
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str
    layer_norm_eps: float
    feat_extract_norm: str
    feat_extract_activation: str
    feat_proj_layer_norm: bool
    conv_dim: tuple[int, ...]
    conv_stride: tuple[int, ...]
    conv_kernel: tuple[int, ...]
    conv_bias: bool
    num_conv_pos_embeddings: int
    num_conv_pos_embedding_groups: int
    do_stable_layer_norm: bool
    mask_time_prob: float
    mask_feature_prob: float
    do_normalize: bool

    def __post_init__(self):
        lists = ("conv_dim", "conv_stride", "conv_kernel")
        counts = [len(getattr(self, name)) for name in lists]
        if len(set(counts)) > 1 or not counts[0]:
            raise ValueError(
                f"{', '.join(lists)} have {counts} entries; each must have one for "
                f"every convolution of the audio tower"
            )
        if self.feat_extract_norm not in ("group", "layer"):
            raise ValueError(
                f"feat_extract_norm {self.feat_extract_norm!r} is not supported; "
                f"supported: group, layer"
            )
        if self.hidden_size % self.num_conv_pos_embedding_groups:
            raise ValueError(
                f"hidden_size {self.hidden_size} does not divide into "
                f"{self.num_conv_pos_embedding_groups} groups; change hidden_size or "
                f"num_conv_pos_embedding_groups"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class QFormerConfig:
    """A connector: BLIP-2's Q-Former, cross-attention in every layer, with positions.

    `encoder_hidden_size` is the width of the tower's features, `max_positions` the
    number of learned temporal positions added to them, `num_query_tokens` the number
    of tokens handed to the decoder.
    """

    model_type: str = dataclasses.field(default="blip_2_qformer", init=False)
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
class MlpConfig:
    """A connector: features pooled over time, then two linear maps.

    The `max_positions` temporal positions are cut into `num_query_tokens` equal parts,
    each of which becomes one token for the decoder. `encoder_hidden_size` is the width
    of the tower's features, `hidden_size` that between the two maps.
    """

    model_type: str = dataclasses.field(default="deemo_mlp", init=False)
    hidden_size: int
    encoder_hidden_size: int
    max_positions: int
    num_query_tokens: int
    hidden_act: str

    def __post_init__(self):
        if self.max_positions % self.num_query_tokens:
            raise ValueError(
                f"a connector's max_positions is {self.max_positions}, which does not "
                f"divide into num_query_tokens {self.num_query_tokens} parts; make it "
                f"a multiple"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeemoLlamaConfig:
    """The whole model: two towers, a connector each, and the decoder.

    `vision_feature_layer` counts hidden states as Hugging Face does: -1 is the last
    layer's output, -2 the one before. A temporal position of the video connector is a
    frame, one of the audio connector is `audio_frames_per_position` frames of the audio
    tower (20 ms each). `video_token_id` and `audio_token_id` mark the places in the
    prompt that the connectors' tokens fill.
    """

    vision_tower: ClipVisionConfig | SiglipVisionConfig
    audio_tower: WhisperEncoderConfig | HubertConfig
    video_connector: QFormerConfig | MlpConfig
    audio_connector: QFormerConfig | MlpConfig
    language_model: LlamaConfig
    vision_feature_layer: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    audio_frames_per_position: int
    video_token_id: int
    audio_token_id: int

    @property
    def max_audio_frames(self) -> int:
        """Frames of the audio tower, 20 ms each, that there are positions for."""
        connector = self.audio_frames_per_position * self.audio_connector.max_positions
        if isinstance(self.audio_tower, HubertConfig):  # takes any length
            return connector
        return min(connector, self.audio_tower.max_source_positions)

    def __post_init__(self):
        for connector, width, tower in (
            ("video_connector", self.vision_tower.hidden_size, "vision_tower"),
            ("audio_connector", self.audio_tower.hidden_size, "audio_tower"),
        ):
            found = getattr(self, connector).encoder_hidden_size
            if found != width:
                raise ValueError(
                    f"model.{connector}.encoder_hidden_size is {found}, but "
                    f"model.{tower} is {width} wide; set both to the same value"
                )
