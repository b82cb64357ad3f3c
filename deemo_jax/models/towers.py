"""What the two towers make of clips, which is what the connectors take."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from deemo_jax.architecture import DeemoLlamaConfig
from deemo_jax.batch import Batch
from deemo_jax.sharding import constrain


class Features(NamedTuple):
    """Of each clip, one for every patch of every frame, and one for every 20 ms.

    `heard` says which of the latter are within the sound: the first ones.
    """

    video: Float[Array, "G T P Dv"]
    audio: Float[Array, "G F Da"]
    heard: Bool[Array, "G F"]


def see(
    tower: Any, frames: UInt8[Array, "G T H W 3"], config: DeemoLlamaConfig
) -> Float[Array, "G T P D"]:
    """What the vision tower makes of each patch of the frames, one after another."""
    clips, times = frames.shape[:2]
    # One multiplication and one addition a pixel, in float32: x / 255, less the
    # mean, over the deviation.
    deviation = jnp.asarray(config.image_std, jnp.float32)
    mean = jnp.asarray(config.image_mean, jnp.float32)
    pixels = frames.reshape(clips * times, *frames.shape[2:]).astype(jnp.float32)
    scale, shift = 1.0 / (255.0 * deviation), -mean / deviation
    pixels = pixels * scale[None, None, None] + shift[None, None, None]
    found = tower.patches(
        constrain(pixels, ("batch", None, None, None)), config.vision_feature_layer
    )
    return found.reshape(clips, times, *found.shape[1:])


def packed_features(batch: Batch) -> Features:
    """Those that stand in the batch, made when its records were packed."""
    assert batch.video_features is not None
    assert batch.audio_features is not None
    video, audio = map(jnp.asarray, (batch.video_features, batch.audio_features))
    places = jnp.arange(audio.shape[1])
    length = jnp.asarray(batch.audio_length)
    return Features(
        video=constrain(video, ("batch", None, None, None)),
        audio=constrain(audio, ("batch", None, None)),
        heard=places[None] < length[:, None],
    )
