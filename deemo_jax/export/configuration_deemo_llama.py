"""The configuration of DEEMO-LLaMA for `transformers`; travels with exported weights.

This file belongs to an exported folder and depends on `transformers` alone.
"""

from typing import Any

from transformers import (
    AutoConfig,
    Blip2QFormerConfig,
    CLIPVisionConfig,
    HubertConfig,
    LlamaConfig,
    PretrainedConfig,
    SiglipVisionConfig,
    WhisperConfig,
)

__all__ = ["DeemoLlamaConfig", "MlpConnectorConfig"]


class MlpConnectorConfig(PretrainedConfig):
    """A connector that pools features over time, then maps them twice.

    Args:
      encoder_hidden_size: width of the tower's features.
      hidden_size: width between the two maps.
      hidden_act: the activation between them.
      num_query_tokens: tokens that the connector hands to the decoder.
      max_positions: temporal positions, cut into as many equal parts as there are
        tokens.
      kwargs: handed to `PretrainedConfig`.
    """

    model_type = "deemo_mlp"

    def __init__(
        self,
        encoder_hidden_size: int = 1024,
        hidden_size: int = 4096,
        hidden_act: str = "gelu",
        num_query_tokens: int = 8,
        max_positions: int = 8,
        **kwargs: Any,
    ):
        self.encoder_hidden_size = encoder_hidden_size
        self.hidden_size = hidden_size
        self.hidden_act = hidden_act
        self.num_query_tokens = num_query_tokens
        self.max_positions = max_positions
        super().__init__(**kwargs)


class DeemoLlamaConfig(PretrainedConfig):
    """Two towers, a connector each, and the decoder.

    Args:
      vision_config: fields of `CLIPVisionConfig` or `SiglipVisionConfig`, the tower
        that sees the frames.
      audio_config: fields of `WhisperConfig`, of which the encoder's half is used, or
        of `HubertConfig`, and `do_normalize` of its feature extractor.
      video_connector_config: fields of `MlpConnectorConfig`, or of
        `Blip2QFormerConfig` and two more: `num_query_tokens`, the tokens that the
        connector hands to the decoder, and `max_positions`, the number of learned
        temporal positions.
      audio_connector_config: the same for the audio.
      text_config: fields of `LlamaConfig`, the decoder.
      vision_feature_layer: which hidden state of the vision tower is used; -1 is the
        output of its last layer, -2 the one before.
      image_mean: mean of each colour channel, of pixels between 0 and 1.
      image_std: standard deviation of each colour channel, likewise.
      audio_frames_per_position: how many frames of the audio tower, 20 ms each, share
        a temporal position.
      video_token_id: the token whose places in a prompt the video's tokens take.
      audio_token_id: the token whose places in a prompt the audio's tokens take.
    """

    model_type = "deemo_llama"
    # Newer versions derive this name from another; older ones read it from here.
    sub_configs = {  # noqa: RUF012  # pyright: ignore[reportAssignmentType]
        "vision_config": AutoConfig,
        "audio_config": AutoConfig,
        "video_connector_config": AutoConfig,
        "audio_connector_config": AutoConfig,
        "text_config": LlamaConfig,
    }

    def __init__(
        self,
        vision_config: dict[str, Any] | PretrainedConfig | None = None,
        audio_config: dict[str, Any] | PretrainedConfig | None = None,
        video_connector_config: dict[str, Any] | PretrainedConfig | None = None,
        audio_connector_config: dict[str, Any] | PretrainedConfig | None = None,
        text_config: dict[str, Any] | PretrainedConfig | None = None,
        vision_feature_layer: int = -1,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        audio_frames_per_position: int = 1,
        video_token_id: int | None = None,
        audio_token_id: int | None = None,
        **kwargs: Any,
    ):
        self.vision_config = _vision(vision_config)
        self.audio_config = _audio(audio_config)
        self.video_connector_config = _connector(video_connector_config)
        self.audio_connector_config = _connector(audio_connector_config)
        self.text_config = _config(LlamaConfig, text_config)
        self.vision_feature_layer = vision_feature_layer
        self.image_mean = list(image_mean or [0.0, 0.0, 0.0])
        self.image_std = list(image_std or [1.0, 1.0, 1.0])
        self.audio_frames_per_position = audio_frames_per_position
        self.video_token_id = video_token_id
        self.audio_token_id = audio_token_id
        kwargs.setdefault("tie_word_embeddings", self.text_config.tie_word_embeddings)
        for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
            kwargs.setdefault(key, getattr(self.text_config, key))
        super().__init__(**kwargs)


def _config(cls: type, fields: dict[str, Any] | PretrainedConfig | None) -> Any:
    """`fields` as an object of `cls`; what is given as one already stays as it is."""
    if isinstance(fields, PretrainedConfig):
        return fields
    return cls(**(fields or {}))


def _vision(fields: dict[str, Any] | PretrainedConfig | None) -> Any:
    """The kind that is named, else CLIP."""
    named = fields.get("model_type") if isinstance(fields, dict) else None
    siglip = named == SiglipVisionConfig.model_type
    return _config(SiglipVisionConfig if siglip else CLIPVisionConfig, fields)


def _audio(fields: dict[str, Any] | PretrainedConfig | None) -> Any:
    """The kind that is named, else Whisper."""
    if isinstance(fields, dict) and fields.get("model_type") == "hubert":
        # `do_normalize` is the feature extractor's, and none of its own fields.
        own = {key: value for key, value in fields.items() if key != "do_normalize"}
        config = HubertConfig(**own)
        config.do_normalize = fields.get("do_normalize", False)
        return config
    return _config(WhisperConfig, fields)


def _connector(fields: dict[str, Any] | PretrainedConfig | None) -> Any:
    """The kind that is named, else a Q-Former; it cross-attends in every layer."""
    if isinstance(fields, PretrainedConfig):
        return fields
    if fields and fields.get("model_type") == MlpConnectorConfig.model_type:
        return MlpConnectorConfig(**fields)
    settled = {
        "cross_attention_frequency": 1,
        "use_qformer_text_input": False,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "num_query_tokens": 32,
        "max_positions": 32,
    }
    return Blip2QFormerConfig(**{**settled, **(fields or {})})
