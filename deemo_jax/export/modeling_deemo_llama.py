"""DEEMO-LLaMA in PyTorch: de-identified video, audio and text into a LLaMA decoder.

This file belongs to an exported folder and depends on `torch` and `transformers` alone:

    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    inputs = tokenizer(prompts, padding=True, return_tensors="pt")
    model.generate(**inputs, frames=frames, audio=audio, max_new_tokens=64)

A prompt holds one `video_token_id` for each token of the video connector and one
`audio_token_id` for each token of the audio connector, where the clip has them. Pixels
and waveforms go in as they are: frames are normalised, and the log-mel spectrogram is
computed, inside.

Dimensions: B rows, S tokens of a row, T frames, H and W pixels, N audio samples, L a
sequence of features, E their width, Q tokens of a connector, D the decoder's width.
"""

from typing import Any

import torch
from torch import nn
from transformers import (
    CLIPVisionModel,
    GenerationMixin,
    LlamaForCausalLM,
    PreTrainedModel,
    SiglipVisionModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_deemo_llama import DeemoLlamaConfig
from .parts_deemo_llama import SAMPLE_RATE, QFormerConnector, audio_tower, connector

__all__ = ["DeemoLlamaForConditionalGeneration"]

MEDIA = ("frames", "frame_mask", "audio", "audio_length")


def merge(
    embeddings: torch.Tensor, is_place: torch.Tensor, media: torch.Tensor
) -> torch.Tensor:
    """Puts the k-th media token of a row at the row's k-th place.

        is_place     .  x  x  .  x        embeddings   a  b  c  d  e
        media        V0 V1                result       a  V0 V1 d  e

    Places beyond the number of media tokens keep their embedding.

    Args:
      embeddings: `[B, S, D]`, of the prompt's tokens.
      is_place: `[B, S]`, bool.
      media: `[B, Q, D]`.
    """
    count = media.shape[1]
    order = is_place.long().cumsum(dim=1) - 1
    index = order.clamp(min=0, max=count - 1)[..., None]
    chosen = media.gather(1, index.expand(-1, -1, media.shape[2]))
    taken = (is_place & (order < count))[..., None]
    return torch.where(taken, chosen.to(embeddings.dtype), embeddings)


class DeemoLlamaForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Reads emotion from a clip without identity, and says why, in words."""

    config_class = DeemoLlamaConfig
    base_model_prefix = "deemo_llama"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_cache_class = True
    _skip_keys_device_placement = ["past_key_values", "cache"]  # noqa: RUF012
    _no_split_modules = [  # noqa: RUF012 (transformers reads it from the class)
        "CLIPEncoderLayer",
        "SiglipEncoderLayer",
        "WhisperEncoderLayer",
        "HubertEncoderLayer",
        "HubertEncoderLayerStableLayerNorm",
        "Blip2QFormerLayer",
        "LlamaDecoderLayer",
    ]

    def __init__(self, config: DeemoLlamaConfig):
        super().__init__(config)
        width = config.text_config.hidden_size
        siglip = config.vision_config.model_type == "siglip_vision_model"
        tower = (SiglipVisionModel if siglip else CLIPVisionModel)._from_config(
            config.vision_config
        )
        # Since version 5 it carries the parameters itself, without a layer between.
        self.vision_tower = getattr(tower, "vision_model", tower)
        self.audio_tower: Any = audio_tower(config.audio_config)
        self.video_connector = connector(config.video_connector_config, width)
        self.audio_connector = connector(config.audio_connector_config, width)
        self.language_model = LlamaForCausalLM._from_config(config.text_config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, QFormerConnector):
            nn.init.normal_(module.query_tokens, std=0.02)

    def get_input_embeddings(self) -> nn.Module:
        """The decoder's table of token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the decoder's table of token embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        """The decoder's head."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replaces the decoder's head."""
        self.language_model.set_output_embeddings(value)

    def encode_video(
        self, frames: torch.Tensor, frame_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Tokens `[B, Q, D]` of frames.

        Args:
          frames: `[B, T, H, W, 3]`, uint8, RGB, H and W the vision tower's image size.
          frame_mask: `[B, T]`, bool; False marks a frame that is not there.
        """
        rows, count = frames.shape[:2]
        limit = self.config.video_connector_config.max_positions
        if count > limit:
            raise ValueError(
                f"{count} frames were given and the connector has {limit} positions; "
                f"choose at most {limit} frames of the clip"
            )
        scale = {"device": frames.device, "dtype": torch.float32}
        mean = torch.tensor(self.config.image_mean, **scale)
        std = torch.tensor(self.config.image_std, **scale)
        pixels = (frames.to(torch.float32) / 255.0 - mean) / std
        states = self.vision_tower(
            pixel_values=pixels.flatten(0, 1).permute(0, 3, 1, 2),
            output_hidden_states=True,
        ).hidden_states[self.config.vision_feature_layer]
        if self.config.vision_config.model_type == "clip_vision_model":
            states = states[:, 1:]  # the class token says nothing of where
        patches = states
        features = patches.reshape(rows, count * patches.shape[1], -1)
        if frame_mask is None:
            frame_mask = torch.ones((rows, count), device=frames.device)
        time = torch.arange(count, device=frames.device)
        time = time.repeat_interleave(patches.shape[1])
        mask = frame_mask.bool().repeat_interleave(patches.shape[1], dim=1)
        return self.video_connector(features, time.expand(rows, -1), mask)

    def encode_audio(
        self, audio: torch.Tensor, audio_length: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Tokens `[B, Q, D]` of sound.

        Args:
          audio: `[B, N]`, 16 kHz mono between -1 and 1, padded at the end.
          audio_length: `[B]`, samples that are not padding; 0 where there is no audio.

        The temporal position of an encoder frame is its time, in units of
        `audio_frames_per_position` frames.
        """
        sample = torch.arange(audio.shape[1], device=audio.device)
        if audio_length is None:
            audio_length = sample.new_full((audio.shape[0],), audio.shape[1])
        features, heard = self.audio_tower.hear(audio, audio_length)
        frame = torch.arange(features.shape[1], device=audio.device)
        time = frame // self.config.audio_frames_per_position
        limit = self.config.audio_connector_config.max_positions
        if int(time[-1]) >= limit:
            raise ValueError(
                f"{audio.shape[1] / SAMPLE_RATE:g} s of audio were given and the "
                f"connector has positions for "
                f"{limit * self.config.audio_frames_per_position / 50:g} s; shorten it"
            )
        return self.audio_connector(features, time.expand(features.shape[0], -1), heard)

    def embed(
        self,
        input_ids: torch.Tensor,
        frames: torch.Tensor | None = None,
        frame_mask: torch.Tensor | None = None,
        audio: torch.Tensor | None = None,
        audio_length: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What enters the decoder, `[B, S, D]`: the text, the media in their places."""
        embeddings: torch.Tensor = self.language_model.get_input_embeddings()(input_ids)
        if frames is not None:
            places = input_ids == self.config.video_token_id
            video = self.encode_video(frames, frame_mask)
            embeddings = merge(embeddings, places, video)
        if audio is not None:
            places = input_ids == self.config.audio_token_id
            sound = self.encode_audio(audio, audio_length)
            embeddings = merge(embeddings, places, sound)
        return embeddings

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        frames: torch.Tensor | None = None,
        frame_mask: torch.Tensor | None = None,
        audio: torch.Tensor | None = None,
        audio_length: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits `[B, S, vocab_size]`, and the loss where `labels` are given.

        Args:
          input_ids: `[B, S]`, with places for the media.
          attention_mask: `[B, S]`, 0 for padding, on either side.
          position_ids: `[B, S]`; 0, 1, 2 and so on unless given.
          inputs_embeds: `[B, S, D]`, instead of `input_ids` and without media.
          frames: `[B, T, H, W, 3]` uint8; rows without video have no places.
          frame_mask: `[B, T]` bool; False for frames that are not there.
          audio: `[B, N]` at 16 kHz; rows without audio have no places.
          audio_length: `[B]`, samples that are not padding.
          labels: `[B, S]`, as for any causal language model: -100 is not counted.
          use_cache: whether to return a cache.
          logits_to_keep: how many of the last places get logits; 0 for all.
          kwargs: handed to `LlamaForCausalLM`, among them its cache, which was called
            `past_key_values` until transformers 5.24 and is `cache` since; with one
            that is not empty, no media are given.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give input_ids or inputs_embeds")
            inputs_embeds = self.embed(
                input_ids, frames, frame_mask, audio, audio_length
            )
        elif frames is not None or audio is not None:
            raise ValueError("frames and audio need input_ids, which hold their places")
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """One step's inputs; the media go in with the prompt and stay in the cache."""
        prepare = super().prepare_inputs_for_generation  # pyright: ignore
        inputs = prepare(input_ids, *args, **kwargs)
        cache = inputs.get("cache", inputs.get("past_key_values"))
        if cache is not None and cache.get_seq_length() > 0:
            for name in MEDIA:
                inputs.pop(name, None)
        return inputs
