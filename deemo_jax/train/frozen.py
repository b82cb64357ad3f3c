"""Records that frozen towers have encoded: known, and refused where they do not fit."""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import re
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from deemo_jax.config import Config, ConfigError, to_dict
from deemo_jax.data.encoded import DTYPES, MANIFEST, Encoding, read_encoding
from deemo_jax.fields import flatten
from deemo_jax.sharding import constrain
from deemo_jax.storage import locate
from deemo_jax.train.optimizer import split_params
from deemo_jax.train.step import split_model

TOWERS = ("vision_tower", "audio_tower")
# What features follow from, besides the towers' parameters.
SETTINGS = (
    r"data\.(num_frames|image_size|audio_seconds)|"
    r"model\.((vision|audio)_tower\..*|vision_feature_layer|image_mean|image_std)"
)
# Odd numbers without a pattern, for hashing.
SALTS = (0x85EBCA77, 0xC2B2AE3D)
FACTORS = (0x9E3779B1, 0x7FEB352D, 0x846CA68B)
AGAIN = "make them equal, or pack the features again (deemo pack --features)"


def recognised(config: Config) -> Config:
    """The run with `data.features` as the folder of its data says, where it is there.

    Raises:
      ConfigError: the run cannot be one on features, or what the folder says of them is
        damaged.
    """
    if config.data.path:
        folder = locate(config.data.path)
        try:
            encoding = read_encoding(folder)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        # A folder that is not there is planned with; who reads it will say so.
        if encoding is not None or (folder / "dataset_info.json").exists():
            features = encoding.dtype if encoding is not None else ""
            data = dataclasses.replace(config.data, features=features)
            config = dataclasses.replace(config, data=data)
    if config.data.features:
        check_frozen(config)
    return config


def check_encoding(config: Config, encoding: Encoding | None) -> None:
    """Refuses records that were encoded otherwise than the run would encode them.

    Raises:
      ConfigError: naming what differs.
    """
    stated, path = encoding.dtype if encoding is not None else "", config.data.path
    if config.data.features != stated:
        raise ConfigError(
            f"config.data.features is {config.data.features!r}, and the records of "
            f"{path or 'a generated corpus'} hold "
            f"{f'features in {stated}' if stated else 'media'}; set it to {stated!r}, "
            f"or choose another config.data.path"
        )
    if encoding is None:
        return
    wanted = settings(config)
    differing = [
        f"config.{key} was {encoding.settings.get(key)!r} and is {wanted.get(key)!r}"
        for key in sorted(wanted.keys() | encoding.settings.keys())
        if wanted.get(key) != encoding.settings.get(key)
    ]
    if differing:
        raise ConfigError(
            f"{path} holds features that were made otherwise than this run makes them "
            f"({'; '.join(differing)}); {AGAIN}"
        )
    check_frozen(config)


def check_frozen(config: Config) -> None:
    """Refuses a run that trains its towers: what they make changes with them.

    Raises:
      ConfigError: naming a parameter that it trains; or features of no such dtype.
    """
    if config.data.features not in ("", *DTYPES):
        raise ConfigError(
            f"config.data.features is {config.data.features!r}; it must be empty, or "
            f"among {', '.join(DTYPES)}"
        )
    trained, _ = split_params(config.train.stage, split_model(config)[1])
    for path, _ in nnx.to_flat_state(trained):
        if path[0] in TOWERS:
            raise ConfigError(
                f"features are made by frozen towers, and this run trains "
                f"{'/'.join(map(str, path))}; choose config.train.stage align or tune, "
                f"without config.lora.targets in the towers, or data with media"
            )


def check_towers(encoding: Encoding | None, params: nnx.State, folder: Any) -> None:
    """Refuses features that were made by towers with other parameters than these.

    Raises:
      ConfigError: naming the tower.
    """
    if encoding is None:
        return
    for name, found in digests(params).items():
        if found != encoding.digests[name]:
            raise ConfigError(
                f"{folder} holds features of another {name} than this run has: "
                f"{MANIFEST} has the digest {encoding.digests[name]}, its parameters "
                f"have {found}; name the same in config.pretrained or "
                f"config.init_from, or pack the features again (deemo pack --features)"
            )


def settings(config: Config) -> dict[str, Any]:
    """The keys of a configuration that features follow from, as JSON has them."""
    flat = flatten(json.loads(json.dumps(to_dict(config))))
    return {key: value for key, value in flat.items() if re.fullmatch(SETTINGS, key)}


def digests(params: nnx.State) -> dict[str, str]:
    """The `digest` of each tower."""
    return {name: digest(params[name]) for name in TOWERS}


def digest(params: Any) -> str:
    """32 hexadecimal digits for parameters, the same on any mesh.

    SHA-256 over path, shape and two sums of each, over its bits mixed with their place.
    Sums of integers do not depend on their order: nothing is gathered from devices.
    """
    sums: Mapping[tuple, Any] = dict(nnx.to_flat_state(jax.device_get(_sums(params))))
    parts = hashlib.sha256()
    for path, variable in nnx.to_flat_state(params):
        found = np.asarray(sums[path].get_value(), "<u4").tobytes().hex()
        parts.update(f"{'/'.join(map(str, path))} {variable.shape} {found}\n".encode())
    return parts.hexdigest()[:32]


@jax.jit
def _sums(params):
    return jax.tree.map(_mixed, params)


def _mixed(values: jax.Array) -> jax.Array:
    """Two numbers of 32 bits: sums over all values, each hashed with its place."""
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.uint32)
    place = jnp.zeros(values.shape, jnp.uint32)
    for axis, size in enumerate(values.shape):
        at = jax.lax.broadcasted_iota(jnp.uint32, values.shape, axis)
        place = place * np.uint32(size) + at
    sums = [_hashed(bits, place, salt).sum(dtype=jnp.uint32) for salt in SALTS]
    return constrain(jnp.stack(sums), (None,))  # all of it in every process


def _hashed(bits: jax.Array, place: jax.Array, salt: int) -> jax.Array:
    """Numbers of which half the bits differ where one bit of the others does."""
    mixed = bits ^ (place * np.uint32(FACTORS[0]) + np.uint32(salt))
    for factor in FACTORS[1:]:
        mixed = (mixed ^ (mixed >> np.uint32(16))) * np.uint32(factor)
    return mixed ^ (mixed >> np.uint32(15))
