"""The settings of an exported folder's processor: `processor_config.json`."""

from collections.abc import Mapping
from typing import Any

from deemo_jax.architecture import (
    FRAMES_PER_SECOND,
    SAMPLE_RATE,
    DeemoLlamaConfig,
    HubertConfig,
    WhisperEncoderConfig,
)

BICUBIC = 3  # as Pillow counts its filters


def processor_config(
    config: DeemoLlamaConfig,
    *,
    video_token: str,
    audio_token: str,
    data: Mapping[str, Any],
    instructions: Mapping[str, str],
) -> dict[str, Any]:
    """The settings, in the layout of `transformers` 5: those of its parts inside.

    `AutoImageProcessor` and `AutoFeatureExtractor` find theirs here too. `data` is the
    group of the run's configuration with `num_frames` and `audio_seconds`; without it,
    rows are as long as the model takes them. `instructions` are questions by task.
    """
    seconds = config.max_audio_frames / FRAMES_PER_SECOND
    return {
        "processor_class": "DeemoLlamaProcessor",
        "image_processor": _image_processor(config),
        "feature_extractor": _feature_extractor(config.audio_tower),
        "video_token": video_token,
        "audio_token": audio_token,
        "num_video_tokens": config.video_connector.num_query_tokens,
        "num_audio_tokens": config.audio_connector.num_query_tokens,
        "num_frames": data.get("num_frames", config.video_connector.max_positions),
        "num_samples": round(data.get("audio_seconds", seconds) * SAMPLE_RATE),
        "instructions": dict(instructions),
    }


def _image_processor(config: DeemoLlamaConfig) -> dict[str, Any]:
    """CLIP's, for SigLIP as well: a frame keeps its shape, see `data.video.decode`."""
    side = config.vision_tower.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.image_mean),
        "image_std": list(config.image_std),
    }


def _feature_extractor(tower: WhisperEncoderConfig | HubertConfig) -> dict[str, Any]:
    common = {
        "sampling_rate": SAMPLE_RATE,
        "padding_value": 0.0,
        "padding_side": "right",
        "return_attention_mask": True,
    }
    if isinstance(tower, HubertConfig):
        return common | {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "feature_size": 1,
            "do_normalize": tower.do_normalize,
        }
    return common | {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": tower.num_mel_bins,
        "n_fft": 400,
        "hop_length": 160,
        "chunk_length": tower.max_source_positions // FRAMES_PER_SECOND,
        "dither": 0.0,
    }
