"""A table and a tokenizer make records that a model can be trained on.

T: tokens of one record.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from partsong.client.data.causal import Sequenced, causal_sequences
from partsong.client.data.table import Table
from partsong.client.data.tokens import IGNORED, IntVec, Tokenizer, frame_of, part_ids
from partsong.common.config import DataConfig
from partsong.common.errors import ConfigError, DataError, Refused
from partsong.common.privacy.accounting import Unit

Task = Literal["causal_lm", "classification"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Record:
    """One record as arrays; they are read-only."""

    input_ids: IntVec
    """(T,) with 1 <= T <= max_length."""
    labels: IntVec
    """(T,) the token to be predicted at this place from those before it, or -100: no loss is taken."""
    label: int
    """Class, as its place in `data.labels`; -1 where there is none."""
    unit: str | None
    """Whose record it is."""


def fingerprint(records: Sequence[Record]) -> str:
    """Name records as they are now: SHA-256 over all that a model sees of them, in order. It stays at the site.

    Args:
        records: encoded, in the order of their table.
    """
    seen = hashlib.sha256(b"partsong records")
    for record in records:
        unit = "" if record.unit is None else record.unit
        for part in (record.input_ids.tobytes(), record.labels.tobytes(), unit.encode(), str(record.label).encode()):
            seen.update(len(part).to_bytes(8, "big") + part)
    return seen.hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodingReport:
    """What encoding did to the records of one site. It describes private records and stays there."""

    records: int
    truncated: int
    """Records that lost tokens."""
    tokens: int
    """Tokens that were kept."""
    tokens_cut: int
    without_loss: int
    """Records whose learned tokens were all cut off. They stay and count when a sample is drawn, with a gradient of
    zero: were they left out, the number of records would depend on their content and on `max_length`."""
    longest: int
    """Tokens of the longest record before it was cut."""
    max_length: int
    """Where records were cut [tokens]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """All records of a table, in its order."""

    records: tuple[Record, ...]
    report: EncodingReport

    def count(self, unit: Unit) -> int | None:
        """Count the records, or the patients; None if not every record says whose it is."""
        if unit == "record":
            return len(self.records)
        found = [record.unit for record in self.records if record.unit is not None]
        return len(set(found)) if len(found) == len(self.records) else None

    def lengths(self) -> IntVec:
        """Count the tokens of every record: (R,), what `by_length` sorts by."""
        return np.fromiter((len(r.input_ids) for r in self.records), dtype=np.int32, count=len(self.records))


def encode(table: Table, tokenizer: Tokenizer, config: DataConfig, *, task: Task) -> Encoded:
    """Tokenise a table and say which tokens are learned.

    causal_lm: see `partsong.client.data.causal.causal_sequences`. classification: the special tokens that the
    tokenizer puts around a text stay, the text between them is cut on the right; a label is looked up by its text in
    `config.labels`, also where the data give it as a number (`3` is the label named "3", never the fourth label:
    a list in another order would relabel everything in silence).

    Guarantees: one record for each row, in order, none left out; no record is longer than `max_length`.
    Args:
        table: what `read_table` returned.
        tokenizer: of the base model.
        config: `max_length`, which tokens are learned, the closed list of labels.
        task: what the model does.
    Raises:
        Refused: `packing` was asked for; nothing was encoded.
        DataError: names the row; nothing was encoded.
        ConfigError: fewer than two labels, or `max_length` without room for text.
        ModelError: the tokenizer lacks an end-of-sequence token or a chat template.
    """
    if config.packing:
        raise Refused(
            "packing",
            reason="records that share a sequence share a gradient, so none of them could be clipped by itself",
            remedy="set data.packing=false",
        )
    if task == "classification":
        classes = _classes(table, config)
        sequences = _classified(table, tokenizer, config)
    else:
        classes = [-1] * len(table)
        sequences = causal_sequences(table, tokenizer, config)
    return _encoded(table, list(sequences), classes, task, max_length=config.max_length)


def _encoded(table: Table, sequences: list[Sequenced], classes: list[int], task: Task, *, max_length: int) -> Encoded:
    records = []
    for row, sequence, label in zip(table.rows, sequences, classes, strict=True):
        sequence.ids.setflags(write=False)
        sequence.labels.setflags(write=False)
        records.append(Record(input_ids=sequence.ids, labels=sequence.labels, label=label, unit=row.unit))
    return Encoded(
        records=tuple(records),
        report=EncodingReport(
            records=len(records),
            truncated=sum(s.cut > 0 for s in sequences),
            tokens=sum(len(s.ids) for s in sequences),
            tokens_cut=sum(s.cut for s in sequences),
            without_loss=sum(not (s.labels != IGNORED).any() for s in sequences) if task == "causal_lm" else 0,
            longest=max((len(s.ids) + s.cut for s in sequences), default=0),
            max_length=max_length,
        ),
    )


def _classes(table: Table, config: DataConfig) -> list[int]:
    if table.kind != "text_label":
        expected = f"{config.text_field} and {config.label_field} for classification"
        raise DataError(table.source, found=f"{table.kind} records", expected=expected)
    if len(config.labels) < 2:
        raise ConfigError("data.labels", found=f"{len(config.labels)} labels", expected="the closed list of classes")
    index = {label: i for i, label in enumerate(config.labels)}
    classes = []
    for row in table.rows:
        label = row.parts[1][1]
        if label not in index:
            raise _unknown_label(table, row.number, label, config)
        classes.append(index[label])
    return classes


def _unknown_label(table: Table, number: int, label: str, config: DataConfig) -> DataError:
    close = difflib.get_close_matches(label, config.labels, n=1)  # of the public list: what was found is private
    return DataError(
        f"{table.source}, row {number}, field {config.label_field}",
        found="a label outside data.labels",
        expected=f"one of its {len(config.labels)} labels",
        remedy=f"did you mean {close[0]!r}?" if close else None,
    )


def _classified(table: Table, tokenizer: Tokenizer, config: DataConfig) -> Iterator[Sequenced]:
    frame = frame_of(tokenizer)
    around = len(frame.prefix) + len(frame.suffix)
    if around >= config.max_length:
        raise ConfigError("data.max_length", found=str(config.max_length), expected=f"more than {around}")
    for body in part_ids(table, tokenizer, part=0, field=config.text_field):
        kept = body[: config.max_length - around]
        ids_T = np.asarray([*frame.prefix, *kept, *frame.suffix], dtype=np.int32)
        yield Sequenced(ids_T, np.full_like(ids_T, IGNORED), len(body) - len(kept))
