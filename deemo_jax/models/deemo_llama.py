"""DEEMO-LLaMA: de-identified video, de-identified audio and text into one decoder."""

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, UInt8

from deemo_jax.architecture import DeemoLlamaConfig
from deemo_jax.batch import Batch
from deemo_jax.models import clip, connector, llama, whisper
from deemo_jax.models.attention import Attention, dot_product_attention
from deemo_jax.models.clip import ClipVision
from deemo_jax.models.connector import QFormer
from deemo_jax.models.llama import Llama
from deemo_jax.models.loading import load
from deemo_jax.models.lora import merge_lora
from deemo_jax.models.whisper import CONVOLUTION_STRIDE, HOP, WhisperEncoder, log_mel
from deemo_jax.pretrained import PretrainedError, prefixed, read_config, write

# Each part's own table; the parts are named alike here and in our PyTorch model.
TABLE = (
    *prefixed(clip.TABLE, "vision_tower.", "vision_tower/"),
    *prefixed(whisper.TABLE, "audio_tower.", "audio_tower/"),
    *prefixed(connector.TABLE, "video_connector.", "video_connector/"),
    *prefixed(connector.TABLE, "audio_connector.", "audio_connector/"),
    *prefixed(llama.TABLE, "language_model.", "language_model/"),
)
# A part of the model: the key of its configuration in config.json, and who reads it.
PARTS = {
    "vision_tower": ("vision_config", clip),
    "audio_tower": ("audio_config", whisper),
    "video_connector": ("video_connector_config", connector),
    "audio_connector": ("audio_connector_config", connector),
    "language_model": ("text_config", llama),
}
# The rest of config.json, and the type of each value there.
SCALARS = {
    "vision_feature_layer": int,
    "image_mean": list,
    "image_std": list,
    "video_token_id": int,
    "audio_token_id": int,
}


def config_from_dict(values: Mapping[str, Any]) -> DeemoLlamaConfig:
    """Reads the values of a `config.json` that `save_pretrained` or PyTorch wrote.

    Raises:
      PretrainedError: naming the key that is missing or not supported here.
    """
    if values.get("model_type") != "deemo_llama":
        raise PretrainedError(
            f"model_type {values.get('model_type')!r} in config.json is not that of "
            f"this model, deemo_llama; give a folder that `deemo export` wrote"
        )
    found: dict[str, Any] = {}
    for name, (key, module) in PARTS.items():
        if not isinstance(values.get(key), Mapping):
            raise PretrainedError(
                f"config.json has no {key!r}, which describes the {name}; add it, or "
                f"export the model again"
            )
        found[name] = module.config_from_dict(values[key])
    for key, kind in SCALARS.items():
        found[key] = value = values.get(key)
        if kind is int and type(value) is not int:
            raise PretrainedError(
                f"{key!r} in config.json is {value!r}; it must be an integer"
            )
        if kind is list:
            if not (isinstance(value, list) and len(value) == 3):
                raise PretrainedError(
                    f"{key!r} in config.json is {value!r}; it must be a list of three "
                    f"numbers"
                )
            found[key] = tuple(float(number) for number in value)
    return DeemoLlamaConfig(**found)


def config_to_dict(config: DeemoLlamaConfig) -> dict[str, Any]:
    """The inverse of `config_from_dict`."""
    values: dict[str, Any] = {
        "model_type": "deemo_llama",
        "architectures": ["DeemoLlamaForConditionalGeneration"],
        "dtype": "float32",
    }
    for name, (key, module) in PARTS.items():
        values[key] = module.config_to_dict(getattr(config, name))
    for key, kind in SCALARS.items():
        values[key] = kind(getattr(config, key))
    return values


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Media:
    """What the connectors make of a clip, ready for the decoder."""

    video: Float[Array, "B Qv D"]
    audio: Float[Array, "B Qa D"]


def merge(
    tokens: Int[Array, "B S"],
    embeddings: Float[Array, "B S D"],
    media: Media,
    *,
    video_token_id: int,
    audio_token_id: int,
) -> Float[Array, "B S D"]:
    """Puts the media's tokens in their places among the text's embeddings.

    The k-th video place of a row takes the k-th video token, the k-th audio place the
    k-th audio token; all else stays. A row without places of a kind takes none.

        tokens      <s>  <video> <video>  <audio>  how  does  she  feel
        embeddings  e0   e1      e2       e3       e4   e5    e6   e7
        media            v0      v1       a0
        result      e0   v0      v1       a0       e4   e5    e6   e7

    Places beyond the number of tokens of their kind keep their embedding.
    """
    for token_id, source in (
        (video_token_id, media.video),
        (audio_token_id, media.audio),
    ):
        place = tokens == token_id
        nth = jnp.cumsum(place, axis=1) - 1
        count = source.shape[1]
        chosen = jnp.take_along_axis(
            source, jnp.clip(nth, 0, count - 1)[..., None], axis=1
        )
        embeddings = jnp.where(
            (place & (nth < count))[..., None],
            chosen.astype(embeddings.dtype),
            embeddings,
        )
    return embeddings


class DeemoLlama(nnx.Module):
    """Two towers, a connector each, and the decoder.

    Video goes through CLIP frame by frame; the connector reads every patch of every
    frame, with the frame's number as its temporal position. Audio goes through
    Whisper; an encoder frame's temporal position is its time, in `max_positions` equal
    parts of the tower's `max_source_positions` (20 ms each), whatever the padding.
    """

    def __init__(
        self,
        config: DeemoLlamaConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        remat: str = "none",
        attention: Attention = dot_product_attention,
    ):
        self.config = config
        self.dtype = dtype
        width = config.language_model.hidden_size
        video, audio = config.video_connector, config.audio_connector
        make: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "remat": remat}
        make["attention"] = attention
        self.vision_tower = ClipVision(config.vision_tower, **make)
        self.audio_tower = WhisperEncoder(config.audio_tower, **make)
        self.video_connector = QFormer(video, width, **make)
        self.audio_connector = QFormer(audio, width, **make)
        self.language_model = Llama(config.language_model, **make)

    def __call__(self, batch: Batch) -> Float[Array, "B S V"]:
        """Logits for the token after each place, in float32."""
        return self.language_model(
            embeddings=self.embed_batch(batch),
            positions=jnp.asarray(batch.positions),
            segment_ids=jnp.asarray(batch.segment_ids),
        )

    def embed_batch(
        self, batch: Batch, media: Media | None = None
    ) -> Float[Array, "B S D"]:
        """What enters the decoder; `media` saves encoding the same clips again."""
        if media is None:
            media = self.encode(batch)
        tokens = jnp.asarray(batch.tokens)
        return merge(
            tokens,
            self.language_model.embed(tokens),
            media,
            video_token_id=self.config.video_token_id,
            audio_token_id=self.config.audio_token_id,
        )

    def encode(self, batch: Batch) -> Media:
        """The connectors' tokens of every clip; masked media leave no trace in them."""
        return Media(
            video=self.encode_video(
                jnp.asarray(batch.frames), jnp.asarray(batch.frame_mask)
            ),
            audio=self.encode_audio(
                jnp.asarray(batch.audio), jnp.asarray(batch.audio_length)
            ),
        )

    def encode_video(
        self, frames: UInt8[Array, "B T H W 3"], frame_mask: Bool[Array, "B T"]
    ) -> Float[Array, "B Q D"]:
        """Tokens of the `frames` where `frame_mask` is True.

        Raises:
          ValueError: if there are more frames than the connector has positions.
        """
        batch, times = frames.shape[:2]
        if times > self.config.video_connector.max_positions:
            raise ValueError(
                f"{times} frames a clip need as many temporal positions, and "
                f"model.video_connector.max_positions is "
                f"{self.config.video_connector.max_positions}; lower data.num_frames"
            )
        # One multiplication and one addition a pixel, in float32: x / 255, less the
        # mean, over the deviation.
        deviation = jnp.asarray(self.config.image_std, jnp.float32)
        mean = jnp.asarray(self.config.image_mean, jnp.float32)
        pixels = frames.reshape(batch * times, *frames.shape[2:]).astype(jnp.float32)
        scale, shift = 1.0 / (255.0 * deviation), -mean / deviation
        pixels = pixels * scale[None, None, None] + shift[None, None, None]
        features = self.vision_tower(pixels, self.config.vision_feature_layer)
        patches = features[:, 1:].reshape(batch, -1, features.shape[-1])
        each = patches.shape[1] // times
        positions = jnp.repeat(jnp.arange(times), each)
        return self.video_connector(
            patches,
            jnp.broadcast_to(positions[None], patches.shape[:2]),
            jnp.repeat(frame_mask, each, axis=1),
        )

    def encode_audio(
        self, audio: Float[Array, "B N"], audio_length: Int[Array, " B"]
    ) -> Float[Array, "B Q D"]:
        """Tokens of the first `audio_length` samples of each row, 16 kHz."""
        sample = jnp.arange(audio.shape[1])
        audio = jnp.where(sample[None] < audio_length[:, None], audio, 0.0)
        features = self.audio_tower(
            log_mel(audio, self.config.audio_tower.num_mel_bins)
        )
        frame = jnp.arange(features.shape[1])
        positions = (
            frame
            * self.config.audio_connector.max_positions
            // self.config.audio_tower.max_source_positions
        )
        heard = frame[None] * HOP * CONVOLUTION_STRIDE < audio_length[:, None]
        return self.audio_connector(
            features, jnp.broadcast_to(positions[None], features.shape[:2]), heard
        )

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike,
        *,
        dtype: DTypeLike | None = None,
        mesh: Mesh | None = None,
    ) -> "DeemoLlama":
        """Reads an exported folder; with a mesh, each tensor into its shards.

        Raises:
          PretrainedError: if the folder does not hold this model.
        """
        config = config_from_dict(read_config(folder))
        return load(
            lambda: cls(config, rngs=nnx.Rngs(0), dtype=dtype or jnp.float32),
            folder,
            TABLE,
            foreign=llama.foreign(config.language_model),
            mesh=mesh,
        )

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes `config.json` and the weights, under the PyTorch model's names.

        LoRA is merged into the kernels; what is written has none.
        """
        write(folder, TABLE, merge_lora(self), config_to_dict(self.config))
