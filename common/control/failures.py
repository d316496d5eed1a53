"""Errors across the socket: the caller gets the same class with the same parts, and of a foreign error its type alone.

Covers: the text of an exception that this package did not raise never crosses.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf.message import DecodeError

from partsong.common.control import control_pb2 as pb
from partsong.common.errors import (
    ConfigError,
    DataError,
    InputError,
    ModelError,
    PartsongError,
    Refused,
    RoundAborted,
    TryAgain,
    WireError,
)
from partsong.common.facts import word

TRAILER = "partsong-failure-bin"
LONGEST_PART = 500
"""Characters of one part; a trailer as a whole must stay under gRPC's 8 KiB."""

_INPUT: Mapping[str, type[InputError]] = {
    kind.__name__: kind for kind in (InputError, ConfigError, DataError, ModelError)
}
_PLAIN: Mapping[str, type[PartsongError]] = {kind.__name__: kind for kind in (TryAgain, WireError, RoundAborted)}


def to_failure(error: Exception) -> tuple[grpc.StatusCode, pb.Failure]:
    """Put an error into its message."""
    if isinstance(error, InputError):
        kind = next(name for name in (k.__name__ for k in type(error).__mro__) if name in _INPUT)
        parts = {name: _cut(getattr(error, name) or "") for name in ("place", "found", "expected", "remedy")}
        return grpc.StatusCode.INVALID_ARGUMENT, pb.Failure(kind=kind, **parts)
    if isinstance(error, Refused):
        parts = {name: _cut(getattr(error, name)) for name in ("rule", "reason", "remedy")}
        return grpc.StatusCode.FAILED_PRECONDITION, pb.Failure(kind="Refused", **parts)
    if isinstance(error, PartsongError):
        kind = next((k.__name__ for k in type(error).__mro__ if k.__name__ in _PLAIN), "PartsongError")
        code = grpc.StatusCode.UNAVAILABLE if isinstance(error, TryAgain) else grpc.StatusCode.ABORTED
        return code, pb.Failure(kind=kind, text=_cut(str(error)))
    return grpc.StatusCode.INTERNAL, pb.Failure(kind="PartsongError", text=f"the daemon failed: {_type(error)}")


def from_failure(data: bytes) -> PartsongError | None:
    """Read an error from its message; None where it is none."""
    try:
        failure = pb.Failure.FromString(data)
    except DecodeError:
        return None
    if (kind := _INPUT.get(failure.kind)) is not None:
        return kind(
            failure.place, found=failure.found, expected=failure.expected, remedy=failure.remedy or None
        )  # the parts are those of our own error at the daemon
    if failure.kind == "Refused":
        return Refused(failure.rule, reason=failure.reason, remedy=failure.remedy)
    return _PLAIN.get(failure.kind, PartsongError)(failure.text)


def _type(error: Exception) -> str:
    return word(type(error).__name__)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_PART else f"{text[: LONGEST_PART - 3]}..."
