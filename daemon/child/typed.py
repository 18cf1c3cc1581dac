"""Frozen records from plain mappings: every key has a type, an unknown one is an error that names the nearest known."""

import difflib
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from features.errors import ConfigurationError


def record_of(name: str, kind: Any, values: Mapping[str, Any]) -> Any:
    assert is_dataclass(kind)
    types = get_type_hints(kind)
    made = {}
    for key, value in values.items():
        if key not in types:
            raise ConfigurationError(f"unknown key {name}.{key}", hint=nearest(key, types))
        made[key] = _typed(f"{name}.{key}", types[key], value)
    return kind(**made)  # type: ignore[operator]


def _typed(name: str, kind: Any, value: Any) -> Any:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ConfigurationError(f"{name} is {value!r}", hint=f"choose one of {', '.join(get_args(kind))}")
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise ConfigurationError(f"{name} must be a list of texts, got {value!r}")
        return tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ConfigurationError(f"{name} must be of type {kind.__name__}, got {value!r}")
    return value


def nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
