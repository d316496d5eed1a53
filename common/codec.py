"""Messages as bytes: one encoding for each value, and everything else refused.

A message class is a frozen dataclass with a `LABEL`; its bytes are the length of the label in one byte, the label,
and the fields in order. Integers take 8 bytes, big-endian. Byte strings of fixed length stand as they are, others
and lists follow their length or count in 4 bytes. There are no optional fields, no defaults and no padding, so
equal values have equal bytes and a decoder has nothing to forgive.

Specification: PROTOCOL.md section 2.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeVar

from partsong.common.errors import WireError

T = TypeVar("T")
Hash = Annotated[bytes, 32]
Payload = bytes | memoryview
"""A long byte string, written from where it lies and read as a view of the message, which lives as long."""

_INT_BYTES, _COUNT_BYTES = 8, 4


class _Reader:
    """A place in received bytes."""

    def __init__(self, data: bytes, what: str) -> None:
        self._view, self._at, self._what = memoryview(data), 0, what

    def take(self, size: int) -> bytes:
        return bytes(self.take_view(size))

    def take_view(self, size: int) -> memoryview:
        left = len(self._view) - self._at
        if size > left:
            raise WireError(f"message {self._what}: found {left} bytes left, expected {size}; it was dropped")
        self._at += size
        return self._view[self._at - size : self._at]

    def count(self) -> int:
        return int.from_bytes(self.take(_COUNT_BYTES), "big")

    def end(self) -> None:
        if self._at != len(self._view):
            left = len(self._view) - self._at
            raise WireError(f"message {self._what}: found {left} bytes too many; it was dropped")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Codec:
    write: Callable[[Any], Iterator[Payload]]
    read: Callable[[_Reader], Any]


def pack(message: object) -> bytes:
    """Encode a message."""
    cls: Any = type(message)
    return b"".join([_prefix(cls), *_codec_of(cls).write(message)])


def unpack(cls: type[T], data: bytes) -> T:
    """Decode a message of class `cls`.

    Guarantees:
        - `pack` of the result is `data`.
    Raises:
        WireError: another message, another version, too short, too long; it was dropped.
    """
    label = str(getattr(cls, "LABEL"))  # noqa: B009 - every message class has one, which a type variable cannot say
    reader, prefix = _Reader(data, label), _prefix(cls)
    if data[: len(prefix)] != prefix:
        raise WireError(f"message {label}: found another message or version; it was dropped")
    reader.take(len(prefix))
    kind: Any = cls
    message = _codec_of(kind).read(reader)
    reader.end()
    return typing.cast(T, message)


def _prefix(cls: type[Any]) -> bytes:
    label = f"partsong/1 {cls.LABEL}".encode()
    return bytes([len(label)]) + label


@functools.cache
def _codec_of(kind: Any) -> _Codec:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _of_dataclass(kind)
    if origin is Annotated:
        return _of_fixed(typing.get_args(kind)[1])
    if origin is tuple:
        return _of_list(_codec_of(typing.get_args(kind)[0]))
    if kind is int:
        return _Codec(write=_write_int, read=lambda reader: int.from_bytes(reader.take(_INT_BYTES), "big"))
    if kind is bytes:
        return _Codec(write=_write_bytes, read=lambda reader: reader.take(reader.count()))
    if kind == Payload:
        return _Codec(write=_write_bytes, read=lambda reader: reader.take_view(reader.count()))
    raise TypeError(f"no encoding for {kind}")


def _of_dataclass(cls: type[Any]) -> _Codec:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {field.name: _codec_of(hints[field.name]) for field in dataclasses.fields(cls)}

    def write(value: object) -> Iterator[Payload]:
        for name, codec in fields.items():
            yield from codec.write(getattr(value, name))

    def read(reader: _Reader) -> object:
        return cls(**{name: codec.read(reader) for name, codec in fields.items()})

    return _Codec(write=write, read=read)


def _of_fixed(size: int) -> _Codec:
    def write(value: bytes) -> Iterator[bytes]:
        if len(value) != size:
            raise ValueError(f"expected {size} bytes, not {len(value)}")
        yield value

    return _Codec(write=write, read=lambda reader: reader.take(size))


def _of_list(item: _Codec) -> _Codec:
    def write(values: tuple[object, ...]) -> Iterator[Payload]:
        yield len(values).to_bytes(_COUNT_BYTES, "big")
        for value in values:
            yield from item.write(value)

    return _Codec(write=write, read=lambda reader: tuple(item.read(reader) for _ in range(reader.count())))


def _write_int(value: int) -> Iterator[bytes]:
    yield value.to_bytes(_INT_BYTES, "big")


def _write_bytes(value: Payload) -> Iterator[Payload]:
    yield len(value).to_bytes(_COUNT_BYTES, "big")
    yield value
