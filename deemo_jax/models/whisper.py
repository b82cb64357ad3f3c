"""Whisper's audio tower: log-mel features and the encoder (Radford et al., 2022)."""

from collections.abc import Mapping
import dataclasses
import functools
import math
import os
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int
import numpy as np

from deemo_jax.architecture import SAMPLE_RATE, WhisperEncoderConfig
from deemo_jax.models.attention import Attention, dot_product_attention
from deemo_jax.models.layers import activation, layer_norm, scan, stack, within
from deemo_jax.models.loading import load, read_fields, save
from deemo_jax.models.names import attention_rows, linear_rows, norm_rows
from deemo_jax.models.self_attention import EncoderLayer
from deemo_jax.pretrained import PretrainedError, Row, read_config
from deemo_jax.sharding import constrain

WINDOW = 400  # samples: 25 ms, the length of the Fourier transform
HOP = 160  # samples: 10 ms between mel frames
SPREAD = 4  # of the samples, those are summed one after another that lie so far apart
CONVOLUTION_STRIDE = 2  # mel frames an encoder frame: 20 ms
LAYER_NORM_EPS = 1e-5  # fixed by the architecture, not a field of config.json

_LAYER = "layers.{layer}."
# Hugging Face's names, as `WhisperEncoder` has them, beside ours.
TABLE = (
    Row("conv1.weight", "conv1/kernel", "conv1d"),
    Row("conv1.bias", "conv1/bias"),
    Row("conv2.weight", "conv2/kernel", "conv1d"),
    Row("conv2.bias", "conv2/bias"),
    Row("embed_positions.weight", "embed_positions/embedding"),
    *norm_rows(f"{_LAYER}self_attn_layer_norm", "layers/self_attn_layer_norm"),
    *attention_rows(f"{_LAYER}self_attn", "layers/self_attn"),
    *norm_rows(f"{_LAYER}final_layer_norm", "layers/final_layer_norm"),
    *linear_rows(f"{_LAYER}fc1", "layers/fc1"),
    *linear_rows(f"{_LAYER}fc2", "layers/fc2"),
    *norm_rows("layer_norm", "layer_norm"),
)
PREFIXES = ("model.encoder.", "encoder.", "")
FOREIGN = (  # the other half of a whole Whisper, and the head for classification
    "model.decoder.*",
    "decoder.*",
    "proj_out.weight",
    "projector.*",
    "classifier.*",
    "layer_weights",
)
# A file leaves out what is as in `transformers.WhisperConfig()`, Whisper tiny.
ABSENT = {
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "num_mel_bins": 80,
    "max_source_positions": 1500,
    "activation_function": "gelu",
}


def config_from_dict(values: Mapping[str, Any]) -> WhisperEncoderConfig:
    """Reads the encoder's half of a Hugging Face `config.json` of Whisper.

    Raises:
      PretrainedError: if it is of another model, or a value is not supported here.
    """
    if values.get("model_type") != "whisper":
        raise PretrainedError(
            f"model_type {values.get('model_type')!r} in config.json is not supported "
            f"as an audio tower; supported: whisper"
        )
    return read_fields(WhisperEncoderConfig, values, ABSENT)


def config_to_dict(config: WhisperEncoderConfig) -> dict[str, Any]:
    """The inverse of `config_from_dict`."""
    return {
        "model_type": "whisper",
        "architectures": ["WhisperEncoder"],
        **dataclasses.asdict(config),
        "dtype": "float32",
    }


def log_mel(
    waveform: Float[Array, "B N"], num_mel_bins: int
) -> Float[Array, "B N//160 {num_mel_bins}"]:
    """Log-mel features of a 16 kHz waveform, one frame every 10 ms.

    Windows of 25 ms (periodic Hann, the ends mirrored), power spectrum, Slaney's mel
    scale, log10, everything more than 8 below the row's own maximum raised to that,
    then `(x + 4) / 4`: what `transformers.WhisperFeatureExtractor` computes, for any
    length. The Fourier transform of a window is a matrix product; a real signal needs
    only half of one for the cosines and half for the sines, because both are symmetric
    about the window's middle. So it is faster than an FFT of 400 points, here as on
    accelerators.

    Raises:
      ValueError: if the waveform is too short to be mirrored.
    """
    if waveform.shape[1] <= WINDOW // 2:
        raise ValueError(
            f"a waveform of {waveform.shape[1]} samples is too short for a window of "
            f"{WINDOW}; pad it with zeros to {WINDOW // 2 + 1} samples or more"
        )
    frames = _windows(waveform.astype(jnp.float32))
    middle = WINDOW // 2
    before, after = frames[..., 1 : middle + 1], frames[..., : middle - 1 : -1]
    cosines, sines, filters = _tables(num_mel_bins)
    dot = functools.partial(jnp.dot, precision=jax.lax.Precision.HIGHEST)
    real = dot(_spread(before + after), cosines)
    imaginary = dot(_spread(before - after), sines)
    power = real**2 + imaginary**2
    features = jnp.log10(jnp.maximum(dot(power, filters), 1e-10))
    loudest = features.max(axis=(1, 2), keepdims=True)
    return (jnp.maximum(features, loudest - 8.0) + 4.0) / 4.0


def _windows(waveform: Float[Array, "B N"]) -> Float[Array, "B N//160 400"]:
    """Overlapping windows, cut as runs of the hop's and the window's common divisor."""
    run = math.gcd(WINDOW, HOP)
    frames = waveform.shape[1] // HOP
    padded = jnp.pad(waveform, ((0, 0), (WINDOW // 2, WINDOW // 2)), mode="reflect")
    length = padded.shape[1] // run * run
    runs = padded[:, :length].reshape(waveform.shape[0], -1, run)
    step = HOP // run
    last = step * (frames - 1) + 1
    return jnp.concatenate(
        [runs[:, start : start + last : step] for start in range(WINDOW // run)], -1
    )


def _spread(samples: Float[Array, "B F 200"]) -> Float[Array, "B F 200"]:
    """Every fourth of the last axis, four times.

    A sum in this order meets a loud low tone's ups and downs early, and stays small:
    of what is weak beside it, a third of the rounding error is left.
    """
    every_fourth = samples.reshape(*samples.shape[:-1], -1, SPREAD).swapaxes(-1, -2)
    return every_fourth.reshape(samples.shape)


@functools.cache
def _tables(
    num_mel_bins: int,
) -> tuple[
    Float[np.ndarray, "200 201"],
    Float[np.ndarray, "200 201"],
    Float[np.ndarray, "201 M"],
]:
    """Windowed cosines and sines of samples 1 to 200, spread, and the mel filters.

    Sample 0 of a periodic Hann window is zero, so it has no row; sample 200 is its own
    mirror image, and would be counted twice.
    """
    sample = np.arange(1, WINDOW // 2 + 1)[:, None]
    frequency = np.arange(WINDOW // 2 + 1)[None, :]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * sample / WINDOW)
    angle = 2 * np.pi * sample * frequency / WINDOW
    hann[-1] /= 2
    cosines, sines = hann * np.cos(angle), hann * np.sin(angle)
    order = np.arange(WINDOW // 2).reshape(-1, SPREAD).T.ravel()
    return (
        cosines[order].astype(np.float32),
        sines[order].astype(np.float32),
        mel_filters(num_mel_bins).astype(np.float32),
    )


def mel_filters(num_mel_bins: int) -> Float[np.ndarray, "201 {num_mel_bins}"]:
    """Triangles on Slaney's mel scale, 0 to 8 kHz, each of unit area (Slaney, 1998).

    The scale is linear up to 1 kHz (a mel is 66.7 Hz) and logarithmic above (27 mels
    multiply the frequency by 6.4).
    """
    knee = 1000.0
    mels_at_knee, mels_an_octave = 15.0, 27.0 / math.log(6.4)
    top = mels_at_knee + mels_an_octave * math.log(SAMPLE_RATE / 2 / knee)
    mels = np.linspace(0.0, top, num_mel_bins + 2)
    corners = np.where(
        mels < mels_at_knee,
        mels * knee / mels_at_knee,
        knee * np.exp((mels - mels_at_knee) / mels_an_octave),
    )
    bins = np.linspace(0.0, SAMPLE_RATE / 2, WINDOW // 2 + 1)[:, None]
    low, peak, high = corners[None, :-2], corners[None, 1:-1], corners[None, 2:]
    rising, falling = (bins - low) / (peak - low), (high - bins) / (high - peak)
    return np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (high - low)


def sinusoids(length: int, width: int) -> Float[Array, "{length} {width}"]:
    """Whisper's fixed positions: sines, then cosines, of periods up to 10,000·2π."""
    if width % 2 or width < 4:
        raise ValueError(
            f"sinusoidal positions need an even width of at least 4, not {width}; "
            f"change d_model"
        )
    rate = np.exp(-math.log(10_000) * np.arange(width // 2) / (width // 2 - 1))
    angle = np.arange(length)[:, None] * rate[None, :]
    return jnp.asarray(np.concatenate([np.sin(angle), np.cos(angle)], 1), jnp.float32)


class WhisperEncoder(nnx.Module):
    """The encoder half of Whisper; called with defaults, its `last_hidden_state`.

    The positions (`embed_positions`) are the fixed sinusoids of the paper: they are
    read from and written to a checkpoint, and no training stage moves them. Like
    Whisper's own, the encoder has no mask: silence is part of what it hears.
    """

    def __init__(
        self,
        config: WhisperEncoderConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        remat: str = "none",
        attention: Attention = dot_product_attention,
    ):
        self.config = config
        self.remat = remat
        self.dtype = dtype
        width = config.d_model
        # Log-mel moves by tenths, the positions are of size 1: new kernels that raise
        # the sound threefold, twice, are what lets a voice be learned from scratch.
        louder = nnx.initializers.variance_scaling(9.0, "fan_in", "truncated_normal")
        self.conv1 = nnx.Conv(
            config.num_mel_bins,
            width,
            (3,),
            padding=1,
            kernel_init=louder,
            dtype=dtype,
            rngs=rngs,
        )
        self.conv2 = nnx.Conv(
            width,
            width,
            (3,),
            strides=CONVOLUTION_STRIDE,
            padding=1,
            kernel_init=louder,
            dtype=dtype,
            rngs=rngs,
        )
        self.embed_positions = nnx.Embed(
            config.max_source_positions,
            width,
            embedding_init=lambda key, shape, dtype: sinusoids(*shape).astype(dtype),
            dtype=dtype,
            rngs=rngs,
        )
        self.layers = stack(
            lambda rngs: EncoderLayer(
                width,
                config.encoder_attention_heads,
                config.encoder_ffn_dim,
                hidden_act=config.activation_function,
                epsilon=LAYER_NORM_EPS,
                key_bias=False,
                rngs=rngs,
                dtype=dtype,
                attention=attention,
            ),
            config.encoder_layers,
            rngs,
        )
        self.layer_norm = layer_norm(width, LAYER_NORM_EPS, rngs=rngs, dtype=dtype)

    def __call__(self, mel: Float[Array, "B F M"]) -> Float[Array, "B L D"]:
        """Hidden states of `L = ceil(F / 2)` frames, 50 a second.

        A shorter input than `max_source_positions` takes the first positions.

        Raises:
          ValueError: if the input is longer than there are positions.
        """
        gelu = activation("gelu")  # between convolutions it is never configured
        x = gelu(self.conv2(gelu(self.conv1(mel.astype(self.dtype)))))
        length, positions = x.shape[1], self.config.max_source_positions
        if length > positions:
            raise ValueError(
                f"{mel.shape[1]} mel frames ({mel.shape[1] * HOP / SAMPLE_RATE:g} s) "
                f"need {length} positions and the audio tower has "
                f"max_source_positions {positions}; shorten data.audio_seconds"
            )
        fixed = self.embed_positions.embedding[:length]
        x = x + fixed.astype(x.dtype)[None]
        x, _ = scan(
            self.layers,
            lambda layer, x, _: (layer(x), None),
            constrain(x, ("batch", "sequence", "embed")),
            remat=self.remat,
        )
        return self.layer_norm(x)

    def hear(
        self, waveform: Float[Array, "B N"], length: Int[Array, " B"]
    ) -> tuple[Float[Array, "B F D"], Bool[Array, "B F"]]:
        """Features of the first `length` samples of each row, 16 kHz.

        What lies beyond is heard as silence. The second value says which features
        begin within the sound; those after it know of the silence only.

        Raises:
          ValueError: if `waveform` is too short for a window, or too long for the
            positions.
        """
        waveform = jnp.where(within(length, waveform.shape[1]), waveform, 0.0)
        features = self(log_mel(waveform, self.config.num_mel_bins))
        begin = jnp.arange(features.shape[1]) * HOP * CONVOLUTION_STRIDE
        return features, begin[None] < length[:, None]

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike,
        *,
        dtype: DTypeLike | None = None,
        mesh: Mesh | None = None,
    ) -> "WhisperEncoder":
        """Reads a Hugging Face folder; with a mesh, each tensor into its shards.

        Takes an encoder alone or a whole Whisper, whose decoder it leaves.

        Raises:
          PretrainedError: if the folder holds no such tower.
        """
        config = config_from_dict(read_config(folder))
        return load(
            lambda: cls(config, rngs=nnx.Rngs(0), dtype=dtype or jnp.float32),
            folder,
            TABLE,
            prefixes=PREFIXES,
            foreign=FOREIGN,
            mesh=mesh,
        )

    def save_pretrained(
        self, folder: str | os.PathLike, *, dtype: DTypeLike | None = None
    ) -> None:
        """Writes an encoder alone that this reads, its weights in `dtype`."""
        save(self, folder, TABLE, config_to_dict(self.config), dtype=dtype)
