"""What a row must hold: the kind of its records and the type of each field.

Every kind is kept in one shape, a sequence of named texts:

    chat               (role, content), ... one pair for each turn
    prompt_completion  ("prompt", ...), ("completion", ...)
    text               ("text", ...)
    text_label         ("text", ...), ("label", ...)
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from partsong.common.config import DataConfig
from partsong.common.errors import DataError

Kind = Literal["chat", "prompt_completion", "text", "text_label"]

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Roles a turn may have; another one is more often a misspelling than a new idea."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRow:
    """One row as a file holds it, unchecked."""

    number: int
    """Counted as a person does, from 1: the line of a JSONL or CSV file, else the row of the table."""
    fields: Mapping[str, object]
    names: Collection[str]
    """All columns of the source, also those that were not read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One checked record."""

    number: int
    """Where it stands in its source, from 1."""
    parts: tuple[tuple[str, str], ...]
    """Named texts, as the kind says."""
    unit: str | None
    """Whose record it is."""
    kept: tuple[str, ...] = ()
    """Values of further columns that were asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schema:
    """What every row of one source must look like."""

    source: str
    kind: Kind
    config: DataConfig
    keep: tuple[str, ...] = ()

    def place(self, number: int, field: str) -> str:
        """Name a field of a row, the way every error here does."""
        return place_of(self.source, number, field)


def place_of(source: str, number: int, field: str) -> str:
    """Name a field of a row of a source."""
    return f"{source}, row {number}, field {field}"


def kind_of(names: Collection[str], config: DataConfig) -> Kind | None:
    """Infer the kind from the columns: messages, then prompt and completion, then text and label, then text."""
    if config.messages_field in names:
        return "chat"
    if config.prompt_field in names and config.completion_field in names:
        return "prompt_completion"
    if config.text_field in names:
        return "text_label" if config.label_field in names else "text"
    return None


def fields_of(kind: Kind, config: DataConfig) -> tuple[str, ...]:
    """Columns that hold the texts of a kind, under the names they have in the source."""
    return {
        "chat": (config.messages_field,),
        "prompt_completion": (config.prompt_field, config.completion_field),
        "text": (config.text_field,),
        "text_label": (config.text_field, config.label_field),
    }[kind]


def wanted_fields(config: DataConfig, keep: Iterable[str]) -> frozenset[str]:
    """Every column that may be used; no other one has to be read."""
    unit = () if config.unit_field is None else (config.unit_field,)
    known = (config.messages_field, config.prompt_field, config.completion_field, config.text_field)
    return frozenset((*known, config.label_field, *unit, *keep))


def schema_of(first: RawRow, config: DataConfig, *, source: str, keep: tuple[str, ...] = ()) -> Schema:
    """Fix the schema of a source by its first row.

    Raises:
        DataError: the columns fit no kind; proposes the setting that would fit. Columns are counted and not
            listed, because the first line of a CSV file without a header is a record.
    """
    kind = kind_of(first.names, config)
    if kind is None:
        raise DataError(
            f"{source}, row {first.number}",
            found=f"{len(first.names)} columns that fit no kind of record",
            expected=f"{config.messages_field}, or {config.prompt_field} and {config.completion_field}, "
            f"or {config.text_field} and {config.label_field}, or {config.text_field}",
            remedy=_proposal(first.names, config),
        )
    return Schema(source=source, kind=kind, config=config, keep=keep)


def _proposal(names: Collection[str], config: DataConfig) -> str:
    settings = ("messages_field", "prompt_field", "completion_field", "text_field")
    missing = [s for s in settings if getattr(config, s) not in names]
    if config.prompt_field not in names and config.completion_field not in names:
        missing = ["text_field", *missing]
    lowered = {name.lower(): name for name in names}
    for setting in missing:
        close = difflib.get_close_matches(getattr(config, setting).lower(), lowered, n=1)
        if close:
            return f"did you mean data.{setting}={lowered[close[0]]}?"
    return "name the columns with " + ", ".join(f"data.{setting}" for setting in settings)


def check_row(raw: RawRow, schema: Schema) -> Row:
    """Turn a raw row into a record of the schema's kind.

    Guarantees: every text of the result has a visible character and can be written as UTF-8; a label, a unit and a
        kept value given as a whole number become its decimal digits.
    Raises:
        DataError: names source, row, field, the type found and what was expected.
    """
    config = schema.config
    for field in (*fields_of(schema.kind, config), *((config.unit_field,) if config.unit_field else ()), *schema.keep):
        if field not in raw.fields:
            raise _missing(field, raw, schema.place(raw.number, field))
    if kind_of(raw.names, config) != schema.kind:
        raise DataError(
            f"{schema.source}, row {raw.number}",
            found=f"the fields of {kind_of(raw.names, config)} records",
            expected=f"those of {schema.kind} records, as in the rows before",
        )
    return Row(
        number=raw.number,
        parts=_parts(raw, schema),
        unit=None if config.unit_field is None else unit_of(raw, config.unit_field, source=schema.source),
        kept=tuple(_name(raw, field, schema.place(raw.number, field)) for field in schema.keep),
    )


def unit_of(raw: RawRow, unit_field: str, *, source: str) -> str:
    """Say whose record a raw row is, whatever else it holds.

    Raises:
        DataError: the field is missing, or neither text nor a whole number.
    """
    place = place_of(source, raw.number, unit_field)
    if unit_field not in raw.fields:
        raise _missing(unit_field, raw, place)
    return _name(raw, unit_field, place)


def _missing(field: str, raw: RawRow, place: str) -> DataError:
    close = difflib.get_close_matches(field, [name for name in raw.names if name != field], n=1)
    hint = f"did you mean {close[0]!r}?" if close else None
    return DataError(place, found="nothing", expected="this field in every row", remedy=hint)


def _parts(raw: RawRow, schema: Schema) -> tuple[tuple[str, str], ...]:
    if schema.kind == "chat":
        return _turns(raw, schema)
    names = schema.kind.split("_")
    parts = []
    for name, field in zip(names, fields_of(schema.kind, schema.config), strict=True):
        place = schema.place(raw.number, field)
        parts.append((name, _name(raw, field, place) if name == "label" else _text(raw.fields[field], place)))
    return tuple(parts)


def _turns(raw: RawRow, schema: Schema) -> tuple[tuple[str, str], ...]:
    place = schema.place(raw.number, schema.config.messages_field)
    messages = raw.fields[schema.config.messages_field]
    if not isinstance(messages, list | tuple):
        remedy = "CSV holds no chats: use JSONL or Parquet" if schema.source.endswith(".csv") else None
        raise DataError(place, found=_type(messages), expected="a list of messages", remedy=remedy)
    if not messages:
        raise DataError(place, found="an empty list", expected="at least one message")
    return tuple(_turn(message, f"{place}[{i}]") for i, message in enumerate(messages))


def _turn(message: object, place: str) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise DataError(place, found=_type(message), expected="an object with role and content")
    # Tables fill the fields that a message does not have with null.
    given = {key for key, value in message.items() if value is not None}
    if given - {"role", "content"}:
        raise DataError(
            place,
            found=f"{len(given - {'role', 'content'})} fields besides role and content",
            expected="role and content alone",
            remedy="tool calls, names and images cannot be trained on here",
        )
    role = _text(message.get("role"), f"{place}.role")
    if role not in ROLES:
        close = difflib.get_close_matches(role.lower(), ROLES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else None
        raise DataError(f"{place}.role", found="an unknown role", expected=f"one of {', '.join(ROLES)}", remedy=hint)
    return role, _text(message.get("content"), f"{place}.content")


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise DataError(place, found=_type(value), expected="text")
    if not value.strip():
        raise DataError(place, found="empty text", expected="text with a visible character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise DataError(place, found="half of a surrogate pair", expected="text in Unicode") from None
    return value


def _name(raw: RawRow, field: str, place: str) -> str:
    value = raw.fields[field]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return _text(value, place)
    raise DataError(place, found=_type(value), expected="text or a whole number")


def _type(value: object) -> str:
    names: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (str, "text"),
        (bool, "true or false"),
        (int, "a whole number"),
        (float, "a number"),
        ((list, tuple), "a list"),
        (Mapping, "an object"),
        (bytes, "bytes"),
    )
    if value is None:
        return "null"
    return next((name for kind, name in names if isinstance(value, kind)), f"a {type(value).__name__}")
