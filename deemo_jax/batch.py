"""What the loader hands to the model, and the legend of dimensions.

Dimensions, the same letters in every signature of the package:

    B  rows of a batch               S  tokens of a row (text and media places)
    G  clips of a batch, as many a row
    T  frames of a clip              H, W  height and width of a frame, pixels
    N  audio samples at 16 kHz       M  mel bins
    F  audio frames                  P  patches (with the class token, if any)
    Q  tokens a connector emits      D  width of hidden states (Dv, Da: a tower's)
    L  length of a sequence of features, whatever it is made of
    V  vocabulary                    C  classes (labels)
"""

import dataclasses

import jax
from jaxtyping import Array, Bool, Float, Int, UInt8
import numpy as np


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of fixed shapes; numpy from the loader, `jax.Array` once placed.

    A row is one clip with its conversation, or several one after another: the k-th of
    row b is clip `b * G / B + k` of the batch and has `segment_ids` k + 1. What a clip
    lacks is masked: no frames means `frame_mask` all False and no video places among
    the tokens, no audio means `audio_length` 0 and no audio places.

    Records that frozen towers have encoded hold no media: `frames` are then of no
    pixels and `audio` of no samples, what the towers made of them stands in
    `video_features` and `audio_features`, and `audio_length` counts the latter.

        tokens       <s> <video> … <video> <audio> … USER ASSISTANT yes </s> <pad>
        segment_ids   1     1    …    1       1    …  1       1      1    1     0
        positions     0     1    …                            17     18   19    0
        loss_mask     .     .    …    .       .    …  .       .      1    1     .

    `loss_mask[b, s]` says that token `s` is to be predicted (from the tokens before
    it). Clips that only fill the batch have `index` -1 and no tokens.
    """

    tokens: Int[Array, "B S"] | Int[np.ndarray, "B S"]
    positions: Int[Array, "B S"] | Int[np.ndarray, "B S"]
    segment_ids: Int[Array, "B S"] | Int[np.ndarray, "B S"]
    loss_mask: Bool[Array, "B S"] | Bool[np.ndarray, "B S"]
    frames: UInt8[Array, "G T H W 3"] | UInt8[np.ndarray, "G T H W 3"]
    frame_mask: Bool[Array, "G T"] | Bool[np.ndarray, "G T"]
    audio: Float[Array, "G N"] | Float[np.ndarray, "G N"]
    audio_length: Int[Array, " G"] | Int[np.ndarray, " G"]
    index: Int[Array, " G"] | Int[np.ndarray, " G"]
    video_features: Float[Array, "G T P Dv"] | Float[np.ndarray, "G T P Dv"] | None = (
        None
    )
    audio_features: Float[Array, "G F Da"] | Float[np.ndarray, "G F Da"] | None = None

    def tree_flatten_with_keys(self):
        """The arrays in order, by name; there is nothing else."""
        names = [field.name for field in dataclasses.fields(self)]
        keys = map(jax.tree_util.GetAttrKey, names)
        return [(key, getattr(self, key.name)) for key in keys], None

    @classmethod
    def tree_unflatten(cls, _, leaves) -> "Batch":
        """A batch of anything: JAX puts shapes, shardings and marks of its own here."""
        batch = object.__new__(cls)  # so that none is taken for an array that is wrong
        for field, leaf in zip(dataclasses.fields(cls), leaves, strict=True):
            object.__setattr__(batch, field.name, leaf)
        return batch
