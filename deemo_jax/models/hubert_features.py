"""HuBERT below its Transformer: from samples to frames, and the frames' places."""

from typing import TypeVar

from flax import nnx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from deemo_jax.architecture import HubertConfig
from deemo_jax.models.layers import activation, layer_norm
from deemo_jax.sharding import constrain

NORM_EPS = 1e-5  # of the convolutions' norms: fixed, not `layer_norm_eps`
QUIET = 1e-7  # added to a clip's variance, so that silence stays silence

Samples = TypeVar("Samples", int, jax.Array)


def frames(config: HubertConfig, samples: Samples) -> Samples:
    """How many frames so many samples make; below 1 where they are too few for one."""
    for taps, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - taps) // stride + 1
    return samples


def receptive_field(config: HubertConfig) -> int:
    """The samples that one frame hears: 400 (25 ms) in the published models."""
    samples = 1
    for taps, stride in zip(
        reversed(config.conv_kernel), reversed(config.conv_stride), strict=True
    ):
        samples = (samples - 1) * stride + taps
    return samples


def normalise(
    waveform: Float[Array, "B N"], mask: Bool[Array, "B N"]
) -> Float[Array, "B N"]:
    """Each row's samples where `mask` is True at mean 0 and variance 1, else zeros.

    What `transformers.Wav2Vec2FeatureExtractor` does under `do_normalize` where it also
    returns a mask (without one it takes the padding for sound).
    """
    count = jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
    mean = jnp.where(mask, waveform, 0.0).sum(axis=1, keepdims=True) / count
    centred = jnp.where(mask, waveform - mean, 0.0)
    variance = (centred**2).sum(axis=1, keepdims=True) / count
    return centred / jnp.sqrt(variance + QUIET)


class HubertConvolution(nnx.Module):
    """One strided convolution, its norm if it has one, and the activation."""

    def __init__(
        self, config: HubertConfig, number: int, *, rngs: nnx.Rngs, dtype: DTypeLike
    ):
        width = config.conv_dim[number]
        self.activation = activation(config.feat_extract_activation)
        self.conv = nnx.Conv(
            config.conv_dim[number - 1] if number else 1,
            width,
            (config.conv_kernel[number],),
            strides=config.conv_stride[number],
            padding="VALID",
            use_bias=config.conv_bias,
            kernel_init=nnx.initializers.he_normal(),
            dtype=dtype,
            rngs=rngs,
        )
        norm = None
        if config.feat_extract_norm == "layer":
            norm = layer_norm(width, NORM_EPS, rngs=rngs, dtype=dtype)
        elif number == 0:
            norm = nnx.GroupNorm(
                width,
                num_groups=width,
                epsilon=NORM_EPS,
                use_fast_variance=False,
                dtype=dtype,
                rngs=rngs,
            )
        self.layer_norm = norm

    def __call__(self, x: Float[Array, "B L C"]) -> Float[Array, "B M E"]:
        """Fewer places, of other width."""
        x = self.conv(x)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return constrain(self.activation(x), ("batch", "sequence", "embed"))


class HubertFeatures(nnx.Module):
    """The convolutions of wav2vec 2.0 (Baevski et al., 2020, section 2), not padded.

    With `feat_extract_norm` "group", the first one's norm takes each channel's mean and
    variance over all of the row's time, its padding included.
    """

    def __init__(self, config: HubertConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.config = config
        self.conv_layers = nnx.List(
            [
                HubertConvolution(config, number, rngs=rngs, dtype=dtype)
                for number in range(len(config.conv_dim))
            ]
        )

    def __call__(self, waveform: Float[Array, "B N"]) -> Float[Array, "B F C"]:
        """`F = frames(config, N)`, one every 20 ms in the published models.

        Raises:
          ValueError: if the waveform is too short for one.
        """
        needed = receptive_field(self.config)
        if waveform.shape[1] < needed:
            raise ValueError(
                f"a waveform of {waveform.shape[1]} samples is too short for the audio "
                f"tower, whose frames hear {needed}; pad it with zeros"
            )
        x = waveform[..., None]
        for convolution in self.conv_layers:
            x = convolution(x)
        return x


class HubertProjection(nnx.Module):
    """From the convolutions' width to the Transformer's, after a norm or without."""

    def __init__(self, config: HubertConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        width = config.conv_dim[-1]
        norm = None
        if config.feat_proj_layer_norm:
            norm = layer_norm(width, config.layer_norm_eps, rngs=rngs, dtype=dtype)
        self.layer_norm = norm
        self.projection = nnx.Linear(width, config.hidden_size, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B F C"]) -> Float[Array, "B F D"]:
        """Each frame on its own."""
        return self.projection(x if self.layer_norm is None else self.layer_norm(x))


class HubertPositions(nnx.Module):
    """A wide convolution in groups that tells a frame its place by its neighbours.

    Its kernel is under weight norm (Salimans and Kingma, 2016), a gain for each of the
    taps: `gain * kernel / |kernel|`, the length taken over all channels of a tap. Both
    are parameters, as in a checkpoint.
    """

    def __init__(self, config: HubertConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        width, taps = config.hidden_size, config.num_conv_pos_embeddings
        self.groups = config.num_conv_pos_embedding_groups
        self.activation = activation(config.feat_extract_activation)
        self.dtype = dtype
        # Small, because what it makes is added to the frames.
        draw = nnx.initializers.normal((4 / (taps * width)) ** 0.5)
        kernel = draw(rngs.params(), (taps, width // self.groups, width), jnp.float32)
        self.kernel = nnx.Param(kernel)
        self.gain = nnx.Param(_length(kernel))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: Float[Array, "B F D"]) -> Float[Array, "B F D"]:
        """What is to be added to the frames `x`.

        A frame sees `taps // 2` of those before it; an even kernel one fewer after it.
        """
        kernel = self.kernel[...]
        taps = kernel.shape[0]
        y = jax.lax.conv_general_dilated(
            x,
            (self.gain[...] * kernel / _length(kernel)).astype(self.dtype),
            window_strides=(1,),
            padding=[(taps // 2, (taps - 1) // 2)],
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=self.groups,
        )
        return self.activation(y + self.bias.astype(y.dtype)[None, None])


def _length(kernel: Float[Array, "W I O"]) -> Float[Array, "W 1 1"]:
    return jnp.sqrt((kernel**2).sum(axis=(1, 2), keepdims=True))
