"""From plain data to frozen dataclasses, strictly; and back.

One door for every document that comes from outside: the composed configuration, a site's policy, the header
of a message. Unknown keys, missing keys and values of another type stop it, with the path of the key.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from partsong.common.errors import ConfigError

T = TypeVar("T")

_SCALARS = frozenset({str, int, float, bool, type(None)})
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

LATER: Mapping[str, bool] = types.MappingProxyType({"later": True})
"""Metadata of a field that came after its class was first written to disk or signed; its default is None."""


def build(cls: type[T], data: object, *, where: str = "") -> T:
    """Make a `cls` from nested mappings, lists and scalars.

    Guarantees:
        - the result holds only declared fields, each of its declared type (an int is accepted for a float,
          a bool never for a number; NaN and infinities are refused);
        - lists become tuples, so the result is immutable as far as its fields are;
        - a dataclass's own `__post_init__` has accepted the values.
    Args:
        cls: a dataclass; fields may be scalars, `Literal`, `X | None`, tuples, mappings and dataclasses.
        data: what a YAML or JSON document holds.
        where: path that error texts start with.
    Raises:
        ConfigError: names the key, the value found and what was expected; nothing was built.
    """
    return typing.cast(T, _value(cls, data, where))


def _value(kind: Any, data: object, where: str) -> object:
    origin = typing.get_origin(kind)
    if kind is Any or kind is object:
        return data
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, data, where)
    if origin is typing.Literal:
        return _literal(typing.get_args(kind), data, where)
    if origin in (types.UnionType, typing.Union):
        return _optional(typing.get_args(kind), data, where)
    if origin is tuple:
        return _tuple(typing.get_args(kind), data, where)
    if origin in (dict, Mapping):
        return _mapping(typing.get_args(kind), data, where)
    return _scalar(kind, data, where)


def _dataclass(cls: type[Any], data: object, where: str) -> object:
    if not isinstance(data, Mapping):
        raise ConfigError(where or "configuration", found=_show(data), expected=f"the keys of {cls.__name__}")
    fields = _fields(typing.cast(Any, cls))
    hints = _hints(typing.cast(Any, cls))
    for key in data:
        if key not in fields:
            raise unknown_key(str(key), fields, where=where)
    values = {k: _value(hints[k], v, _join(where, str(k))) for k, v in data.items()}
    for name, required in fields.items():
        if required and name not in values:
            raise ConfigError(_join(where, name), found="nothing", expected=f"a {_name(hints[name])}")
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as err:
        raise ConfigError(where or cls.__name__, found="values that do not fit together", expected=str(err)) from err


@functools.cache
def _fields(cls: type[Any]) -> dict[str, bool]:
    """Names of a class's fields, and whether each has to be given."""
    missing = dataclasses.MISSING
    return {f.name: f.default is missing and f.default_factory is missing for f in dataclasses.fields(cls) if f.init}


@functools.cache
def _field_names(cls: type[Any]) -> tuple[str, ...] | None:
    """Names of all fields; None: no dataclass."""
    return tuple(f.name for f in dataclasses.fields(cls)) if dataclasses.is_dataclass(cls) else None


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    """Types of a class's fields; reading them anew took a fifth of the time of a message."""
    return typing.get_type_hints(cls)


def _literal(allowed: Sequence[object], data: object, where: str) -> object:
    for item in allowed:
        if type(item) is type(data) and item == data:
            return item
    words = [str(a) for a in allowed]
    close = difflib.get_close_matches(str(data), words, n=1)
    hint = f"did you mean {close[0]!r}?" if close else None
    raise ConfigError(where, found=_show(data), expected=f"one of {', '.join(words)}", remedy=hint)


def _optional(kinds: Sequence[Any], data: object, where: str) -> object:
    if data is None and type(None) in kinds:
        return None
    rest = [k for k in kinds if k is not type(None)]
    for kind in rest[:-1]:
        try:
            return _value(kind, data, where)
        except ConfigError:
            continue
    return _value(rest[-1], data, where)


def _tuple(kinds: Sequence[Any], data: object, where: str) -> object:
    if isinstance(data, (str, bytes)) or not isinstance(data, Sequence):
        raise ConfigError(where, found=_show(data), expected="a list")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_value(kinds[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if len(kinds) != len(data):
        raise ConfigError(where, found=f"{len(data)} items", expected=f"{len(kinds)} items")
    return tuple(_value(k, item, f"{where}[{i}]") for i, (k, item) in enumerate(zip(kinds, data, strict=True)))


def _mapping(kinds: Sequence[Any], data: object, where: str) -> object:
    if not isinstance(data, Mapping):
        raise ConfigError(where, found=_show(data), expected="a mapping")
    return {_value(kinds[0], k, where): _value(kinds[1], v, _join(where, str(k))) for k, v in data.items()}


def _scalar(kind: Any, data: object, where: str) -> object:
    if kind is float and isinstance(data, (int, float)) and not isinstance(data, bool) and math.isfinite(data):
        return float(data)
    if kind in (int, str, bool, bytes) and type(data) is kind:
        return data
    raise ConfigError(where, found=_show(data), expected=f"a {_name(kind)}")


def unknown_key(key: str, known: Iterable[str], *, where: str = "") -> ConfigError:
    """Say that `key` does not exist and which known key comes closest."""
    known = sorted(known)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    remedy = f"did you mean {_join(where, close[0])!r}?" if close else f"known keys: {', '.join(known)}"
    return ConfigError(_join(where, key), found="an unknown key", expected="a key of the schema", remedy=remedy)


@functools.cache
def _later_names(kind: Any) -> frozenset[str]:
    return frozenset(f.name for f in dataclasses.fields(kind) if f.metadata == LATER)


def to_tree(value: object) -> Any:
    """Turn a dataclass back into mappings, lists and scalars; the inverse of `build`.

    A field marked `LATER` is left out where it is None, so what was written and signed before it came stays as it was.
    """
    kind: Any = type(value)
    if kind in _SCALARS:
        return value
    if (names := _field_names(kind)) is not None:
        later = _later_names(kind)
        said = ((name, getattr(value, name)) for name in names)
        return {name: to_tree(found) for name, found in said if found is not None or name not in later}
    if isinstance(value, Mapping):
        return {str(k): to_tree(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_tree(v) for v in value]
    return value


def canonical_json(value: object) -> bytes:
    """Encode a tree so that equal trees give equal bytes: sorted keys, no spaces, UTF-8, no NaN."""
    return _CANONICAL.encode(to_tree(value)).encode()


def sha256_of(value: object) -> str:
    """Hash a tree by its canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind)) if not typing.get_origin(kind) else str(kind).replace("typing.", "")


def _show(data: object) -> str:
    text = repr(data)
    return text if len(text) <= 60 else f"{text[:57]}..."
