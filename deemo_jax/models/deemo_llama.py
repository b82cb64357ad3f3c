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
from jaxtyping import Array, Bool, Float, Int

from deemo_jax.architecture import (
    FRAMES_PER_SECOND,
    ClipVisionConfig,
    DeemoLlamaConfig,
    HubertConfig,
    LlamaConfig,
    MlpConfig,
    QFormerConfig,
    SiglipVisionConfig,
    WhisperEncoderConfig,
)
from deemo_jax.batch import Batch
from deemo_jax.config import LayoutConfig
from deemo_jax.models import clip, hubert, llama, mlp, qformer, siglip, whisper
from deemo_jax.models.attention import Attention, dot_product_attention
from deemo_jax.models.clip import ClipVision
from deemo_jax.models.hubert import Hubert
from deemo_jax.models.llama import Llama
from deemo_jax.models.loading import load, save
from deemo_jax.models.mlp import Mlp
from deemo_jax.models.qformer import QFormer
from deemo_jax.models.siglip import SiglipVision
from deemo_jax.models.towers import Features, packed_features, see
from deemo_jax.models.whisper import WhisperEncoder
from deemo_jax.pretrained import (
    PretrainedError,
    Table,
    prefixed,
    read_config,
)
from deemo_jax.sharding import DECODER, constrain, part

CONNECTORS = {QFormerConfig: qformer, MlpConfig: mlp}
# A part of the model: its key in config.json, and the kinds that it comes in, each with
# the module that knows their names and constants.
PARTS: dict[str, tuple[str, dict[Any, Any]]] = {
    "vision_tower": (
        "vision_config",
        {ClipVisionConfig: clip, SiglipVisionConfig: siglip},
    ),
    "audio_tower": (
        "audio_config",
        {WhisperEncoderConfig: whisper, HubertConfig: hubert},
    ),
    "video_connector": ("video_connector_config", CONNECTORS),
    "audio_connector": ("audio_connector_config", CONNECTORS),
    "language_model": ("text_config", {LlamaConfig: llama}),
}
# The rest of config.json, and the type of each value there.
SCALARS = {
    "vision_feature_layer": int,
    "image_mean": list,
    "image_std": list,
    "audio_frames_per_position": int,
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
    for name, (key, kinds) in PARTS.items():
        if not isinstance(values.get(key), Mapping):
            raise PretrainedError(
                f"config.json has no {key!r}, which describes the {name}; add it, or "
                f"export the model again"
            )
        # A kind that is none of them is refused by the first one's reader.
        module = next(iter(kinds.values()))
        for kind, other in kinds.items():
            if values[key].get("model_type") == getattr(kind, "model_type", None):
                module = other
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
    for name, (key, _) in PARTS.items():
        part = getattr(config, name)
        values[key] = _module(name, part).config_to_dict(part)
    for key, kind in SCALARS.items():
        values[key] = kind(getattr(config, key))
    return values


def table(config: DeemoLlamaConfig) -> Table:
    """The parts' tables: they are named alike here and in our PyTorch model."""
    return tuple(
        row
        for name in PARTS
        for row in prefixed(_rows(name, getattr(config, name)), f"{name}.", f"{name}/")
    )


def _rows(name: str, part: Any) -> Table:
    """The table of a part; HuBERT's hangs on the number of its convolutions."""
    module = _module(name, part)
    return hubert.table(part) if isinstance(part, HubertConfig) else module.TABLE


def _module(name: str, part: Any) -> Any:
    """The module that knows the kind of a part."""
    return PARTS[name][1][type(part)]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Media:
    """What the connectors make of a clip, ready for the decoder."""

    video: Float[Array, "G Qv D"]
    audio: Float[Array, "G Qa D"]


def merge(
    tokens: Int[Array, "B S"],
    segment_ids: Int[Array, "B S"],
    embeddings: Float[Array, "B S D"],
    media: Media,
    *,
    video_token_id: int,
    audio_token_id: int,
) -> Float[Array, "B S D"]:
    """Puts the media's tokens in their places among the text's embeddings.

    The k-th video place of a segment takes the k-th video token of its clip, the k-th
    audio place the k-th audio token; all else stays. A clip without places of a kind
    gives none.

        tokens      <s>  <video> <video>  <audio>  how  does  she  feel
        embeddings  e0   e1      e2       e3       e4   e5    e6   e7
        media            v0      v1       a0
        result      e0   v0      v1       a0       e4   e5    e6   e7

    Places beyond the number of tokens of their kind keep their embedding.
    """
    before = jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    for token_id, source in (
        (video_token_id, media.video),
        (audio_token_id, media.audio),
    ):
        place = tokens == token_id
        counted = jnp.cumsum(place, axis=1)
        # Those of the segments before: they only grow, so the last one is the largest.
        others = jnp.where(segment_ids != before, counted - place, 0)
        nth = counted - 1 - jax.lax.cummax(others, axis=1)
        count = source.shape[1]
        of_row = source.reshape(tokens.shape[0], -1, source.shape[-1])
        first = jnp.maximum(segment_ids - 1, 0) * count
        chosen = jnp.take_along_axis(
            of_row, (first + jnp.clip(nth, 0, count - 1))[..., None], axis=1
        )
        embeddings = jnp.where(
            (place & (nth < count))[..., None],
            chosen.astype(embeddings.dtype),
            embeddings,
        )
    return embeddings


class DeemoLlama(nnx.Module):
    """Two towers, a connector each, and the decoder.

    Video goes through the vision tower frame by frame; the connector reads every patch
    of every frame, with the frame's number as its temporal position. The audio tower
    gives 50 frames a second, of which `audio_frames_per_position` share one, whatever
    the padding. `layout` says how each part is split on a mesh; it changes no result.
    """

    def __init__(
        self,
        config: DeemoLlamaConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        remat: str = "none",
        attention: Attention = dot_product_attention,
        layout: LayoutConfig | None = None,
    ):
        self.config = config
        self.layout = layout
        self.dtype = dtype
        width = config.language_model.hidden_size
        make: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "remat": remat}
        make["attention"] = attention
        self.vision_tower = _vision_tower(config.vision_tower, **make)
        self.audio_tower = _audio_tower(config.audio_tower, **make)
        self.video_connector = _connector(config.video_connector, width, **make)
        self.audio_connector = _connector(config.audio_connector, width, **make)
        self.language_model = Llama(config.language_model, **make)

    def __call__(self, batch: Batch) -> Float[Array, "B S V"]:
        """Logits for the token after each place, in float32."""
        embeddings = self.embed_batch(batch)
        with part(DECODER, self.layout):
            return self.language_model(
                embeddings=embeddings,
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
            jnp.asarray(batch.segment_ids),
            self.language_model.embed(tokens),
            media,
            video_token_id=self.config.video_token_id,
            audio_token_id=self.config.audio_token_id,
        )

    def encode(self, batch: Batch) -> Media:
        """The connectors' tokens of every clip; masked media leave no trace in them."""
        features = self.features(batch)
        return Media(
            video=self.connect_video(features.video, jnp.asarray(batch.frame_mask)),
            audio=self.connect_audio(features.audio, features.heard),
        )

    def features(self, batch: Batch) -> Features:
        """What the towers make of every clip, or made of it when it was packed.

        Of the sound, what lies beyond `audio_length` is masked.
        """
        if batch.video_features is not None:
            return packed_features(batch)
        with part("vision_tower", self.layout):
            video = see(self.vision_tower, jnp.asarray(batch.frames), self.config)
        with part("audio_tower", self.layout):
            sound = constrain(jnp.asarray(batch.audio), ("batch", None))
            audio, heard = self.audio_tower.hear(sound, jnp.asarray(batch.audio_length))
        return Features(video=video, audio=audio, heard=heard)

    def connect_video(
        self, features: Float[Array, "B T P E"], frame_mask: Bool[Array, "B T"]
    ) -> Float[Array, "B Q D"]:
        """Tokens of the frames' `features` where `frame_mask` is True.

        Raises:
          ValueError: if there are more frames than the connector has positions.
        """
        batch, times, each, width = features.shape
        if times > self.config.video_connector.max_positions:
            raise ValueError(
                f"{times} frames a clip need as many temporal positions, and "
                f"model.video_connector.max_positions is "
                f"{self.config.video_connector.max_positions}; lower data.num_frames"
            )
        patches = features.reshape(batch, -1, width).astype(self.dtype)
        positions = jnp.repeat(jnp.arange(times), each)
        with part("video_connector", self.layout):
            return self.video_connector(
                patches,
                jnp.broadcast_to(positions[None], patches.shape[:2]),
                jnp.repeat(frame_mask, each, axis=1),
            )

    def connect_audio(
        self, features: Float[Array, "B F E"], heard: Bool[Array, "B F"]
    ) -> Float[Array, "B Q D"]:
        """Tokens of the sound's `features`, 50 a second, where `heard` is True.

        Raises:
          ValueError: if the audio is longer than the connector has positions for.
        """
        each = self.config.audio_frames_per_position
        available = self.config.audio_connector.max_positions
        needed = -(-features.shape[1] // each)
        if needed > available:
            raise ValueError(
                f"{features.shape[1] / FRAMES_PER_SECOND:g} s of audio need {needed} "
                f"temporal positions, and model.audio_connector.max_positions is "
                f"{available}; lower data.audio_seconds, or raise "
                f"model.audio_frames_per_position"
            )
        positions = jnp.arange(features.shape[1]) // each
        with part("audio_connector", self.layout):
            return self.audio_connector(
                features.astype(self.dtype),
                jnp.broadcast_to(positions[None], features.shape[:2]),
                heard,
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
            table(config),
            foreign=llama.FOREIGN,
            copies=llama.copies(config.language_model, "language_model."),
            mesh=mesh,
        )

    def save_pretrained(
        self, folder: str | os.PathLike, *, dtype: DTypeLike | None = None
    ) -> None:
        """Writes `config.json` and the weights, under the PyTorch model's names.

        LoRA is merged into the kernels; what is written has none. Weights are cast to
        `dtype`, unless it is None.
        """
        config = config_to_dict(self.config)
        save(self, folder, table(self.config), config, dtype=dtype)


def _vision_tower(config: ClipVisionConfig | SiglipVisionConfig, **make: Any) -> Any:
    if isinstance(config, SiglipVisionConfig):
        return SiglipVision(config, **make)
    return ClipVision(config, **make)


def _audio_tower(config: WhisperEncoderConfig | HubertConfig, **make: Any) -> Any:
    if isinstance(config, HubertConfig):
        return Hubert(config, **make)
    return WhisperEncoder(config, **make)


def _connector(config: QFormerConfig | MlpConfig, width: int, **make: Any) -> Any:
    if isinstance(config, QFormerConfig):
        return QFormer(config, width, **make)
    return Mlp(config, width, rngs=make["rngs"], dtype=make["dtype"])
