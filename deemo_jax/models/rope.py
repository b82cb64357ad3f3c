"""Rotary position embedding, and its constants as `config.json` states them."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from deemo_jax.architecture import RopeScaling
from deemo_jax.pretrained import PretrainedError


def read_rope(values: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """The base and the scaling of the values of a `config.json`.

    Newer files hold both in `rope_parameters`, older ones the base beside a
    `rope_scaling`. A file from before them means 10,000 and no scaling.

    Raises:
      PretrainedError: if the positions are scaled in a way not supported here, or the
        file contradicts itself.
    """
    read = {
        key: _read_object(values, key)
        for key in ("rope_parameters", "rope_scaling")
        if values.get(key)
    }
    found = list(read.values()) or [(_theta(values, {}), None)]
    if found[0] != found[-1]:
        raise PretrainedError(
            f"config.json states rope twice, {values['rope_parameters']} in "
            f"rope_parameters and {values['rope_scaling']} in rope_scaling; keep the "
            f"one the weights belong to"
        )
    return found[0]


def write_rope(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """The inverse of `read_rope`: both keys of `config.json`, for all its readers."""
    values: dict[str, Any] = {"rope_type": "default"}
    if scaling is not None:
        values = dataclasses.asdict(scaling)
    stated = {key: value for key, value in values.items() if value is not None}
    older = None if scaling is None else stated
    if scaling is not None and scaling.rope_type == "linear":
        # The first readers of linear scaling take these two keys and no other.
        older = {"type": "linear", "factor": scaling.factor}
    return {
        "rope_theta": theta,
        "rope_scaling": older,
        "rope_parameters": {**stated, "rope_theta": theta},
    }


def frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | None
) -> Float[Array, " K"]:
    """Radians a position by which each of the `head_dim / 2` pairs turns, in float32.

    Pair `i` turns by `theta ** (-2 i / head_dim)`, slowed as `scaling` says.
    """
    exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    plain = 1.0 / theta**exponents
    if scaling is None:
        return plain
    slow = plain / scaling.factor
    if scaling.rope_type == "linear":
        return slow
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    places = scaling.original_max_position_embeddings
    assert low is not None
    assert high is not None
    assert places is not None
    turns = places * plain / (2 * math.pi)
    kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 - kept) * slow + kept * plain


def rope(
    positions: Int[Array, "B S"],
    head_dim: int,
    theta: float,
    scaling: RopeScaling | None,
) -> tuple[Float[Array, "B S 1 K"], Float[Array, "B S 1 K"]]:
    """Cosines and sines of rotary position embedding (Su et al., 2021), in float32."""
    angles = positions[:, :, None, None].astype(jnp.float32)
    angles = angles * frequencies(head_dim, theta, scaling)[None, None, None]
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


def _read_object(
    values: Mapping[str, Any], key: str
) -> tuple[float, RopeScaling | None]:
    """What one of the two objects says, together with the values beside it."""
    stated = values[key]
    if not isinstance(stated, dict):
        raise PretrainedError(
            f"{key} in config.json is {stated!r}; it must be an object"
        )
    kind = stated.get("rope_type", stated.get("type", "default"))
    for place in (stated, values):
        if (place.get("partial_rotary_factor") or 1.0) != 1.0:
            raise PretrainedError(
                f"partial_rotary_factor {place['partial_rotary_factor']} in "
                f"config.json is not supported; supported: 1.0"
            )
    theta = _theta(values, stated)
    if kind == "default":
        return theta, None
    if kind not in ("linear", "llama3"):
        raise PretrainedError(
            f"rope type {kind!r} in {key} of config.json is not supported; "
            f"supported: default, linear, llama3"
        )
    low = high = places = None
    if kind == "llama3":
        low = _number(stated, key, "low_freq_factor")
        high = _number(stated, key, "high_freq_factor")
        longest = values.get("max_position_embeddings")
        places = stated.get("original_max_position_embeddings", longest)
        if type(places) is not int:
            raise PretrainedError(
                f"original_max_position_embeddings in {key} of config.json is "
                f"{places!r}; it must be an integer"
            )
    try:
        scaling = RopeScaling(
            rope_type=kind,
            factor=_number(stated, key, "factor"),
            low_freq_factor=low,
            high_freq_factor=high,
            original_max_position_embeddings=places,
        )
    except ValueError as error:
        raise PretrainedError(f"{key} in config.json: {error}") from error
    return theta, scaling


def _theta(values: Mapping[str, Any], stated: Mapping[str, Any]) -> float:
    theta = stated.get("rope_theta", values.get("rope_theta"))
    if theta != values.get("rope_theta", theta):
        raise PretrainedError(
            f"config.json states rope_theta twice, {theta} in rope_parameters and "
            f"{values['rope_theta']} beside it; keep the one the weights belong to"
        )
    if theta is None:
        return 10_000.0
    return _number({"rope_theta": theta}, "", "rope_theta")


def _number(stated: Mapping[str, Any], key: str, name: str) -> float:
    value = stated.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        place = f"{key} of config.json" if key else "config.json"
        raise PretrainedError(f"{name} in {place} is {value!r}; it must be a number")
    return float(value)
