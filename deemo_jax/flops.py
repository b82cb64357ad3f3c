"""Floating-point operations of the model, counted by formula, tower by tower.

A compiled program's own count has a scanned layer's body once, however often it runs,
and counts what is computed again for want of memory. This counts what the mathematics
needs: matrix products and convolutions, two operations a multiplication and addition.
"""

import dataclasses

from deemo_jax.architecture import (
    SAMPLE_RATE,
    ClipVisionConfig,
    DeemoLlamaConfig,
    HubertConfig,
    LlamaConfig,
    QFormerConfig,
    SiglipVisionConfig,
    WhisperEncoderConfig,
)
from deemo_jax.config import Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flops:
    """Of one row going forward: products with parameters, and of activations alone.

    The latter are attention's two. A decoder's are counted over the places that each
    place sees, half of all (the causal count).
    """

    linear: float
    attention: float

    def train(self, *, learns: bool, passes: bool) -> float:
        """Forward and backward together.

        A product with parameters costs as much again for the gradient of its input,
        if the part `passes` gradients, and as much for that of its kernel, if it
        `learns`. One of two activations costs twice as much again in either case.
        """
        linear = self.linear * (1 + passes + learns)
        return linear + self.attention * (3 if learns or passes else 1)


def forward_flops(
    model: DeemoLlamaConfig, *, frames: int, samples: int, tokens: int
) -> dict[str, Flops]:
    """Of each part, for a row of `tokens` places, `frames` images, `samples` of sound.

    Places that are padding are computed like others, so they are counted.
    """
    patches, vision = _vision(model.vision_tower, model.vision_feature_layer)
    heard, audio = _audio(model.audio_tower, samples)
    width = model.language_model.hidden_size
    return {
        "vision_tower": Flops(
            linear=vision.linear * frames, attention=vision.attention * frames
        ),
        "audio_tower": audio,
        "video_connector": _connector(model.video_connector, patches * frames, width),
        "audio_connector": _connector(model.audio_connector, heard, width),
        "language_model": _decoder(model.language_model, tokens),
    }


def train_flops(config: Config) -> dict[str, float]:
    """Of each part in a whole training step: forward and backward of all rows.

    What is recomputed to save memory is not counted, nor is LoRA, whose share is its
    rank over the width of the kernels.
    """
    full = config.train.stage == "full"
    # The connectors learn in every stage, so gradients pass through the decoder; in
    # stage full, they pass on to the towers.
    return {
        part: _count(config, part)
        * flops.train(
            learns=full or part.endswith("_connector"),
            passes=full or not part.endswith("_tower"),
        )
        for part, flops in _forward(config).items()
    }


def _layer(places: int, width: int, inner: int) -> Flops:
    """An encoder's layer: four square maps, attention, two maps up and down."""
    return Flops(
        linear=2.0 * places * (4 * width * width + 2 * width * inner),
        attention=4.0 * places * places * width,
    )


def _vision(
    config: ClipVisionConfig | SiglipVisionConfig, feature_layer: int
) -> tuple[int, Flops]:
    """Patches of an image, and what the layers that are run take for it."""
    patches = (config.image_size // config.patch_size) ** 2
    places = patches + isinstance(config, ClipVisionConfig)  # its class token
    layers = feature_layer % (config.num_hidden_layers + 1)
    each = _layer(places, config.hidden_size, config.intermediate_size)
    embedding = 2.0 * patches * 3 * config.patch_size**2 * config.hidden_size
    return patches, Flops(
        linear=embedding + layers * each.linear, attention=layers * each.attention
    )


def _audio(
    config: WhisperEncoderConfig | HubertConfig, samples: int
) -> tuple[int, Flops]:
    """Frames that the tower makes of the sound, and what they take."""
    if isinstance(config, HubertConfig):
        linear, channels, frames = 0.0, 1, samples
        for taps, stride, width in zip(
            config.conv_kernel, config.conv_stride, config.conv_dim, strict=True
        ):
            frames = (frames - taps) // stride + 1
            linear += 2.0 * frames * taps * channels * width
            channels = width
        width = config.hidden_size
        linear += 2.0 * frames * channels * width
        group = width // config.num_conv_pos_embedding_groups
        linear += 2.0 * frames * config.num_conv_pos_embeddings * group * width
        layers, inner = config.num_hidden_layers, config.intermediate_size
    else:
        # The window's Fourier transform (half of 400 samples, 201 bins, two kinds) and
        # the mel filters; then the two convolutions.
        width, mel = config.d_model, samples // (SAMPLE_RATE // 100)
        frames = -(-mel // 2)
        linear = 2.0 * mel * 201 * (400 + config.num_mel_bins)
        linear += 2.0 * 3 * width * (mel * config.num_mel_bins + frames * width)
        layers, inner = config.encoder_layers, config.encoder_ffn_dim
    each = _layer(frames, width, inner)
    return frames, Flops(
        linear=linear + layers * each.linear, attention=layers * each.attention
    )


def _connector(config, features: int, output: int) -> Flops:
    """What makes tokens, `output` wide, of so many `features`."""
    queries, width = config.num_query_tokens, config.hidden_size
    source = config.encoder_hidden_size
    if not isinstance(config, QFormerConfig):
        pooling = 2.0 * queries * features * source
        maps = 2.0 * queries * width * (source + output)
        return Flops(linear=maps, attention=pooling)
    inner, layers = config.intermediate_size, config.num_hidden_layers
    of_queries = 2.0 * queries * (6 * width * width + 2 * width * inner)
    of_features = 2.0 * features * 2 * source * width
    return Flops(
        linear=layers * (of_queries + of_features) + 2.0 * queries * width * output,
        attention=layers * 4.0 * queries * (queries + features) * width,
    )


def _decoder(config: LlamaConfig, tokens: int) -> Flops:
    width, head = config.hidden_size, config.head_dim
    queries, pairs = config.num_attention_heads, config.num_key_value_heads
    maps = width * head * 2 * (queries + pairs) + 3 * width * config.intermediate_size
    layers = config.num_hidden_layers
    return Flops(
        linear=2.0 * tokens * (layers * maps + width * config.vocab_size),
        attention=layers * 2.0 * tokens * tokens * queries * head,
    )


def recomputed_flops(config: Config) -> dict[str, float]:
    """Of each part in a step, what is computed again because `train.remat` is "full".

    A part that gradients do not pass through is not gone through backward.
    """
    if config.train.remat != "full":
        return {}
    full = config.train.stage == "full"
    return {
        part: _count(config, part) * (flops.linear + flops.attention)
        for part, flops in _forward(config).items()
        if full or not part.endswith("_tower")
    }


def _count(config: Config, part: str) -> int:
    """How often a step goes through a part: the decoder by rows, others by clips.

    What frozen towers make of a clip may stand in its record: none goes through these.
    """
    if config.data.features and part.endswith("_tower"):
        return 0
    rows = config.train.batch_size
    return rows if part == "language_model" else rows * config.data.clips_per_row


def _forward(config: Config) -> dict[str, Flops]:
    return forward_flops(
        config.model,
        frames=config.data.num_frames,
        samples=config.data.num_samples,
        tokens=config.data.max_length,
    )
