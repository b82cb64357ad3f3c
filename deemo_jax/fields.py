"""Nested groups of values read into dataclasses by their type hints, strictly."""

from collections.abc import Mapping
import dataclasses
import difflib
import types
import typing
from typing import Any

from deemo_jax.exits import BAD_USAGE


class ConfigError(ValueError):
    """A setting that cannot stand: says which, its value, and what to do."""

    exit_code = BAD_USAGE


def require(holds: bool, key: str, value: Any, rule: str) -> None:
    """Refuses the value of a key of the configuration that does not hold to a rule."""
    if not holds:
        raise ConfigError(f"config.{key} is {value!r}; it must be {rule}")


def read_group(kinds: list[type], values: Any, key: str) -> Any:
    """A group of values as the dataclass that their `model_type`, if any, names.

    Args:
      kinds: what it may be; several where each has a fixed `model_type`.
      values: nested dicts; the names are those of the fields, none more, none less.
      key: of the group, for what is said of it; "" for the outermost.

    Raises:
      ConfigError: a key that does not exist (with the nearest that does), a missing
        key, or a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"config.{key} is {values!r}; it must be a group")
    by_type = {getattr(kind, "model_type", None): kind for kind in kinds}
    model_type = values.get("model_type")
    if None not in by_type:
        values = {name: v for name, v in values.items() if name != "model_type"}
        if model_type not in by_type:
            raise ConfigError(
                f"config.{key}.model_type is {model_type!r}; it must be "
                f"{' or '.join(map(str, by_type))}"
            )
    return _read(by_type.get(model_type, kinds[0]), values, f"{key}." if key else "")


def check_key(group: type, path: str) -> None:
    """Refuses a dotted key that `group` does not have, with the nearest that it has."""
    hint, prefix = group, ""
    for part in path.split("."):
        fields = {}
        for kind in _kinds(hint):
            fields |= typing.get_type_hints(kind)
        if part not in fields:
            raise ConfigError(_unknown(prefix, part, fields))
        hint, prefix = fields[part], f"{prefix}{part}."


def _unknown(prefix: str, key: str, fields: dict[str, Any]) -> str:
    near = difflib.get_close_matches(key, fields, n=1, cutoff=0)
    hint = f"; did you mean config.{prefix}{near[0]}?" if near else ""
    return f"config.{prefix}{key} does not exist{hint}"


def _read(cls: type, values: dict[str, Any], prefix: str) -> Any:
    fields = typing.get_type_hints(cls)
    for fixed in (field for field in dataclasses.fields(cls) if not field.init):
        del fields[fixed.name]
    for key in values:
        if key not in fields:
            raise ConfigError(_unknown(prefix, key, fields))
    missing = [key for key in fields if key not in values]
    if missing:
        raise ConfigError(f"config.{prefix}{missing[0]} is missing; add it")
    return cls(
        **{
            key: _coerce(hint, values[key], f"{prefix}{key}")
            for key, hint in fields.items()
        }
    )


def _kinds(hint: Any) -> list[type]:
    """The dataclasses that a group may be: several where a part comes in kinds."""
    return [kind for kind in typing.get_args(hint) or [hint] if _is_group(kind)]


def _is_group(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _coerce(hint: Any, value: Any, key: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if value is None and type(None) in args:
        return None
    if groups := _kinds(hint):
        return read_group(groups, value, key)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"config.{key} is {value!r}; it must be a tuple")
        kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(kinds) != len(value):
            raise ConfigError(
                f"config.{key} is {value!r}; it must have {len(kinds)} values"
            )
        return tuple(
            _coerce(kind, item, key) for kind, item in zip(kinds, value, strict=True)
        )
    if isinstance(hint, types.UnionType):
        hint = next(arg for arg in args if arg is not type(None))
        return _coerce(hint, value, key)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(
            f"config.{key} is {value!r}, a {type(value).__name__}; "
            f"it must be of type {hint.__name__}"
        )
    return value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested groups as one dict of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
