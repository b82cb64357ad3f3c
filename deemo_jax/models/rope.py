"""Rotary position embedding, and its constants as `config.json` states them."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from deemo_jax.pretrained import PretrainedError


def read_theta(values: Mapping[str, Any]) -> float:
    """The base: in `rope_parameters` of a newer `config.json`, in an older beside it.

    A file from before both means 10,000.

    Raises:
      PretrainedError: if the positions are scaled in a way not supported here.
    """
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise PretrainedError(
            f"rope_parameters in config.json is {rope!r}; it must be an object"
        )
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise PretrainedError(
            f"rope type {kind!r} in config.json is not supported; supported: default"
        )
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise PretrainedError(
            f"partial_rotary_factor {rope['partial_rotary_factor']} in config.json is "
            f"not supported; supported: 1.0"
        )
    theta = rope.get("rope_theta", values.get("rope_theta"))
    if theta != values.get("rope_theta", theta):
        raise PretrainedError(
            f"config.json states rope_theta twice, {theta} in rope_parameters and "
            f"{values['rope_theta']} beside it; keep the one the weights belong to"
        )
    if theta is None:
        return 10_000.0
    if type(theta) not in (int, float):
        raise PretrainedError(
            f"rope_theta in config.json is {theta!r}; it must be a number"
        )
    return float(theta)


def rope(
    positions: Int[Array, "B S"], head_dim: int, theta: float
) -> tuple[Float[Array, "B S 1 K"], Float[Array, "B S 1 K"]]:
    """Cosines and sines of rotary position embedding (Su et al., 2021), in float32.

    Feature pair `i` of `head_dim / 2` turns by `position * theta ** (-2 i / head_dim)`.
    """
    exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    frequencies = 1.0 / theta**exponents
    angles = positions[:, :, None, None].astype(jnp.float32)
    angles = angles * frequencies[None, None, None]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x: Float[Array, "B S H D"],
    cosines: Float[Array, "B S 1 K"],
    sines: Float[Array, "B S 1 K"],
) -> Float[Array, "B S H D"]:
    """Turns each pair `(x[i], x[i + D / 2])`: halves, not neighbours, are a pair."""
    cosines, sines = cosines.astype(x.dtype), sines.astype(x.dtype)
    left, right = jnp.split(x, 2, axis=-1)
    return jnp.concatenate(
        [left * cosines - right * sines, right * cosines + left * sines], axis=-1
    )
