"""Learned positions of a grid of patches, resampled for images of another size."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

SHARPNESS = -0.75  # of the cubic, Keys's `a`: PyTorch's, where Pillow has -0.5


@functools.cache
def bicubic(given: int, wanted: int) -> Float[np.ndarray, "{wanted} {given}"]:
    """What each of `wanted` samples takes of `given` ones (Keys, 1981).

    As in PyTorch's `interpolate` with `align_corners=False` and without antialiasing:
    the two span the same length, a sample stands in the middle of its part of it, and
    is made of the four nearest, the edge repeated where there are fewer.

        bicubic(2, 4)   1.105  -0.105   beyond the middle of the first: past it
                        0.895   0.105
                        0.105   0.895
                       -0.105   1.105
    """
    place = (np.arange(wanted) + 0.5) * given / wanted - 0.5
    weights = np.zeros((wanted, given))
    for step in (-1, 0, 1, 2):
        nearest = np.floor(place).astype(int) + step
        x, a = np.abs(place - nearest), SHARPNESS
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        column = np.clip(nearest, 0, given - 1)
        weights[np.arange(wanted), column] += np.where(x <= 1, near, far)
    return weights.astype(np.float32)


def resample(
    positions: Float[Array, "N D"], height: int, width: int, *, before: int = 0
) -> Float[Array, "P D"]:
    """The positions of a square grid of patches, for one of `height` x `width`.

    As `interpolate_pos_encoding=True` does in `transformers`, but in float32 always.
    The first `before` positions are of no patch (CLIP's class token) and stay.
    """
    side = math.isqrt(positions.shape[0] - before)
    if (height, width) == (side, side):
        return positions
    grid = positions[before:].astype(jnp.float32).reshape(side, side, -1)
    grid = jnp.einsum(
        "hr,wc,rcd->hwd",
        bicubic(side, height),
        bicubic(side, width),
        grid,
        precision=jax.lax.Precision.HIGHEST,
    )
    patches = grid.reshape(height * width, -1).astype(positions.dtype)
    return jnp.concatenate([positions[:before], patches])


def check_image(
    pixels: Float[Array, "B H W 3"], size: int, patch: int, *, interpolate: bool
) -> None:
    """Refuses images that a tower of `size` x `size` pixels has no positions for.

    Raises:
      ValueError: if they have another size, or, where positions are interpolated, are
        smaller than a patch.
    """
    height, width = pixels.shape[1:3]
    if interpolate and min(height, width) < patch:
        raise ValueError(
            f"images of {height}x{width} pixels hold no patch of {patch}x{patch}; "
            f"take images of {patch} pixels or more a side"
        )
    if not interpolate and (height, width) != (size, size):
        raise ValueError(
            f"the vision tower takes images of {size}x{size} pixels, these have "
            f"{height}x{width}; set data.image_size to {size}, or call the tower with "
            f"interpolate=True"
        )
