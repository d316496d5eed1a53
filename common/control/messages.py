"""From the values of surfaces.py to the messages of control.proto, and back through the strict door `build`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from partsong.common.build import build, to_tree
from partsong.common.control import control_pb2 as pb
from partsong.common.control.feed import ProgressEvent
from partsong.common.errors import ConfigError, InputError, WireError
from partsong.common.facts import Scalar

M = TypeVar("M", bound=Message)
T = TypeVar("T")

_FACT_FIELDS: Mapping[type, str] = {str: "text", int: "integer", float: "number", bool: "flag"}


def to_message(kind: type[M], value: object) -> M:
    """Turn a dataclass into the message with the same fields."""
    fields: M = kind(**_message_fields(to_tree(value), kind.DESCRIPTOR))
    return fields


def from_message(kind: type[T], message: Message) -> T:
    """Turn a message into the dataclass with the same fields.

    Raises:
        WireError: a field that must be there is not, or holds a value the dataclass does not take.
    """
    try:
        return build(kind, _tree(message))
    except ConfigError as err:
        raise WireError(f"the daemon's answer is not what {kind.__name__} says: {err.place}") from err


def progress_message(event: ProgressEvent) -> pb.ProgressEvent:
    """Turn an event into its message."""
    message = pb.ProgressEvent(event=event.event, time_ms=event.time_ms)
    for name, value in event.facts.items():
        setattr(message.facts.add(name=name), _FACT_FIELDS[type(value)], value)
    return message


def progress_event(message: pb.ProgressEvent) -> ProgressEvent:
    """Turn a message into its event.

    Raises:
        WireError: a fact that is not of the list, or twice there.
    """
    facts: dict[str, Scalar] = {}
    for fact in message.facts:
        chosen = fact.WhichOneof("value")
        if chosen is None or fact.name in facts:
            raise WireError("the daemon told an event with a fact twice, or without a value")
        facts[fact.name] = getattr(fact, chosen)
    try:
        return ProgressEvent(event=message.event, time_ms=message.time_ms, facts=facts)
    except InputError as err:
        raise WireError("the daemon told an event with a fact that is not of the list") from err


def _message_fields(tree: Mapping[str, Any], described: Descriptor) -> dict[str, Any]:
    known = described.fields_by_name
    return {name: _message_value(value, known[name]) for name, value in tree.items() if value is not None}


def _message_value(value: Any, field: FieldDescriptor) -> Any:
    if isinstance(value, list):
        return [_message_value(item, field) for item in value]
    if field.message_type is not None:
        return _message_fields(value, field.message_type)
    if field.enum_type is not None:
        return f"{_prefix(field)}{value.upper()}"
    return value


def _tree(message: Message) -> dict[str, Any]:
    return {field.name: _tree_value(message, field) for field in message.DESCRIPTOR.fields}


def _tree_value(message: Message, field: FieldDescriptor) -> Any:
    if field.has_presence and not message.HasField(field.name):
        return None
    value = getattr(message, field.name)
    if field.is_repeated:
        return [_tree_item(item, field) for item in value]
    return _tree_item(value, field)


def _tree_item(value: Any, field: FieldDescriptor) -> Any:
    if field.message_type is not None:
        return _tree(value)
    if field.enum_type is not None:
        found = field.enum_type.values_by_number.get(value)
        return found.name.removeprefix(_prefix(field)).lower() if found else str(value)
    return value


def _prefix(field: FieldDescriptor) -> str:
    """Give what every value of an enum begins with: DaemonState -> DAEMON_STATE_."""
    unspecified: str = field.enum_type.values[0].name
    return unspecified.removesuffix("UNSPECIFIED")
