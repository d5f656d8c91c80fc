"""Configurations: small frozen dataclasses, written as JSON beside the weights. An unknown key is an error."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .errors import BadConfig

C = TypeVar("C")


def parse(cls: type[C], values: Mapping[str, Any], where: str) -> C:
    """Build the dataclass `cls` from plain values; `where` names their source in errors.

    Raises BadConfig for an unknown or missing key and for a value of another type.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(values.keys() - fields.keys())
    if unknown:
        raise BadConfig(f"{where}: unknown key {unknown[0]!r}; {cls.__name__} has {', '.join(fields)}")
    missing = sorted(n for n, f in fields.items() if n not in values and f.default is dataclasses.MISSING
                     and f.default_factory is dataclasses.MISSING)
    if missing:
        raise BadConfig(f"{where}: key {missing[0]!r} is missing")
    try:
        return cls(**{name: _value(hints[name], value, f"{where}: {name}") for name, value in values.items()})
    except ValueError as e:
        raise e if isinstance(e, BadConfig) else BadConfig(f"{where}: {e}") from e


def read_toml(cls: type[C], path: Path, changes: Sequence[str] = ()) -> C:
    """`parse` of a TOML file after changes like `optimizer.steps=100`: to a TOML value, to text where it is none, or to
    nothing, which leaves the key out. Raises BadConfig also where it cannot be read, or is not TOML."""
    try:
        values = tomllib.loads(path.read_text())
    except OSError as e:
        raise BadConfig(f"{path}: cannot be read ({e.strerror}); give a configuration as in recipes/train") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise BadConfig(f"{path}: not TOML ({e})") from e
    for change in changes:
        _change(values, change)
    return parse(cls, values, str(path))


def _change(values: dict[str, Any], change: str) -> None:
    key, given, text = change.partition("=")
    *tables, last = key.strip().split(".")
    for name in tables:
        values = values.setdefault(name, {}) if isinstance(values, dict) else {}
    if not given or not last or not isinstance(values, dict):
        raise BadConfig(f"{change!r} is no change to a configuration; give KEY=VALUE, like optimizer.steps=100")
    if not text.strip():
        values.pop(last, None)
        return
    try:
        values[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        values[last] = text


def _value(hint: Any, value: Any, where: str) -> Any:
    for option in _options(hint):
        origin, args = typing.get_origin(option), typing.get_args(option)
        if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
            return parse(option, value, where)  # type: ignore[arg-type]
        if origin is tuple and isinstance(value, list | tuple) and (args[-1] is ... or len(args) == len(value)):
            inner = args[:1] * len(value) if args[-1] is ... else args
            return tuple(_value(one, x, f"{where}[{i}]") for i, (one, x) in enumerate(zip(inner, value, strict=True)))
        if origin is Mapping and isinstance(value, Mapping):
            return {str(key): _value(args[1], item, f"{where}.{key}") for key, item in value.items()}
        if origin is typing.Literal and any(value == one and type(value) is type(one) for one in args):
            return value
        if option is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if origin is None and isinstance(value, option) and not (option is int and isinstance(value, bool)):
            return value
    raise BadConfig(f"{where} is {value!r}; it takes {' or '.join(map(_named, _options(hint)))}")


def _options(hint: Any) -> tuple[Any, ...]:
    """The members of a union; `X | None` is one of two classes, depending on X."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _named(option: Any) -> str:
    """A type as a person would write it."""
    if typing.get_origin(option) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(option)))
    if option is types.NoneType:
        return "null"
    return option.__name__ if typing.get_origin(option) is None else str(option)


def read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except OSError as e:
        raise BadConfig(f"{path}: cannot be read ({e.strerror})") from e
    except ValueError as e:
        raise BadConfig(f"{path}: not JSON ({e})") from e
    if not isinstance(values, dict):
        raise BadConfig(f"{path}: expected a JSON object")
    return values


def to_dict(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config)
