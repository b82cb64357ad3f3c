"""What the loader hands to the model, and the legend of dimensions.

Dimensions, the same letters in every signature of the package:

    B  rows of a batch               S  tokens of a row (text and media places)
    T  frames of a clip              H, W  height and width of a frame, pixels
    N  audio samples at 16 kHz       M  mel bins
    F  audio frames                  P  patches (with the class token, if any)
    Q  tokens a connector emits      D  width of hidden states
    L  length of a sequence of features, whatever it is made of
    V  vocabulary                    C  classes (labels)
"""

import dataclasses
from typing import TYPE_CHECKING

import jax
from jaxtyping import Array, Bool, Float, Int, UInt8
import numpy as np

if TYPE_CHECKING:
    Leaf = Array | np.ndarray
else:  # a step is compiled for shapes, before there is data
    Leaf = Array | np.ndarray | jax.ShapeDtypeStruct


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of fixed shapes; numpy from the loader, `jax.Array` once placed.

    A row is one clip with its conversation. What a clip lacks is masked: no frames
    means `frame_mask` all False and no video places among the tokens, no audio means
    `audio_length` 0 and no audio places.

        tokens       <s> <video> … <video> <audio> … USER ASSISTANT yes </s> <pad>
        segment_ids   1     1    …    1       1    …  1       1      1    1     0
        positions     0     1    …                            17     18   19    0
        loss_mask     .     .    …    .       .    …  .       .      1    1     .

    `loss_mask[b, s]` says that token `s` is to be predicted (from the tokens before
    it). Rows that only fill the batch have `index` -1 and `segment_ids` all 0.
    """

    tokens: Int[Leaf, "B S"]
    positions: Int[Leaf, "B S"]
    segment_ids: Int[Leaf, "B S"]
    loss_mask: Bool[Leaf, "B S"]
    frames: UInt8[Leaf, "B T H W 3"]
    frame_mask: Bool[Leaf, "B T"]
    audio: Float[Leaf, "B N"]
    audio_length: Int[Leaf, " B"]
    index: Int[Leaf, " B"]
