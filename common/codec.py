"""Messages as bytes: one encoding for each value, and everything else refused.

A message class is a frozen dataclass with a `LABEL`; its bytes are the length of the label in one byte, the label,
and the fields in order. Integers take 8 bytes, big-endian. Byte strings of fixed length stand as they are, others
and lists follow their length or count in 4 bytes. There are no optional fields, no defaults and no padding, so
equal values have equal bytes and a decoder has nothing to forgive.

A field whose length depends on the suite is annotated with a `BySuite`. A message that holds one of suite F, at any
depth, says so in its label; all such fields of one message are of one suite.

Specification: PROTOCOL.md section 2.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeVar

from partsong.common.errors import WireError
from partsong.common.identity.suite import SUITES, BySuite, SuiteName

T = TypeVar("T")
Hash = Annotated[bytes, 32]
Payload = bytes | memoryview
"""A long byte string, written from where it lies and read as a view of the message, which lives as long."""

_INT_BYTES, _COUNT_BYTES = 8, 4


class _Sized:
    """The suite that a message turns out to be of while it is written or read; None while nothing depends on it."""

    suite: SuiteName | None = None


class _Reader(_Sized):
    """A place in received bytes."""

    def __init__(self, data: bytes, what: str, *, named: SuiteName) -> None:
        self._view, self._at, self._what, self._named = memoryview(data), 0, what, named

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

    def take_sized(self, sizes: BySuite) -> bytes:
        self.suite = self._named
        return self.take(sizes.of(self._named))

    def end(self) -> None:
        if self._named != (self.suite or "A"):
            raise WireError(f"message {self._what}: found the label of a suite that nothing depends on; it was dropped")
        if self._at != len(self._view):
            left = len(self._view) - self._at
            raise WireError(f"message {self._what}: found {left} bytes too many; it was dropped")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Codec:
    write: Callable[[Any, _Sized], Iterator[Payload]]
    read: Callable[[_Reader], Any]


def pack(message: object) -> bytes:
    """Encode a message."""
    cls: Any = type(message)
    sized = _Sized()
    parts = list(_codec_of(cls).write(message, sized))
    return b"".join([_prefix(cls, sized.suite or "A"), *parts])


def unpack(cls: type[T], data: bytes) -> T:
    """Decode a message of class `cls`.

    Guarantees:
        - `pack` of the result is `data`.
    Raises:
        WireError: another message, another version, too short, too long; it was dropped.
    """
    kind: Any = cls
    for suite in SUITES:
        prefix = _prefix(kind, suite)
        if data[: len(prefix)] == prefix:
            reader = _Reader(data, kind.LABEL, named=suite)
            reader.take(len(prefix))
            message = _codec_of(kind).read(reader)
            reader.end()
            return typing.cast(T, message)
    raise WireError(f"message {kind.LABEL}: found another message or version; it was dropped")


@functools.cache
def _prefix(cls: type[Any], suite: SuiteName) -> bytes:
    label = f"partsong/1 {cls.LABEL}" if suite == "A" else f"partsong/1/{suite} {cls.LABEL}"
    return bytes([len(label)]) + label.encode()


@functools.cache
def _codec_of(kind: Any) -> _Codec:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _of_dataclass(kind)
    if origin is Annotated:
        size = typing.get_args(kind)[1]
        return _of_suite(size) if isinstance(size, BySuite) else _of_fixed(size)
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

    def write(value: object, sized: _Sized) -> Iterator[Payload]:
        for name, codec in fields.items():
            yield from codec.write(getattr(value, name), sized)

    def read(reader: _Reader) -> object:
        return cls(**{name: codec.read(reader) for name, codec in fields.items()})

    return _Codec(write=write, read=read)


def _of_suite(sizes: BySuite) -> _Codec:
    def write(value: bytes, sized: _Sized) -> Iterator[bytes]:
        suite = sizes.suite_of(len(value))
        if suite is None or sized.suite not in (None, suite):
            raise ValueError(f"expected {sizes.A} or {sizes.F} bytes, of one suite in the whole message")
        sized.suite = suite
        yield value

    return _Codec(write=write, read=lambda reader: reader.take_sized(sizes))


def _of_fixed(size: int) -> _Codec:
    def write(value: bytes, _: _Sized) -> Iterator[bytes]:
        if len(value) != size:
            raise ValueError(f"expected {size} bytes, not {len(value)}")
        yield value

    return _Codec(write=write, read=lambda reader: reader.take(size))


def _of_list(item: _Codec) -> _Codec:
    def write(values: tuple[object, ...], sized: _Sized) -> Iterator[Payload]:
        yield len(values).to_bytes(_COUNT_BYTES, "big")
        for value in values:
            yield from item.write(value, sized)

    return _Codec(write=write, read=lambda reader: tuple(item.read(reader) for _ in range(reader.count())))


def _write_int(value: int, _: _Sized) -> Iterator[bytes]:
    yield value.to_bytes(_INT_BYTES, "big")


def _write_bytes(value: Payload, _: _Sized) -> Iterator[Payload]:
    yield len(value).to_bytes(_COUNT_BYTES, "big")
    yield value
