"""One source of checked records, whatever file it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from partsong.client.data.files import read_rows
from partsong.client.data.opt_out import OptOutReport, read_opt_out
from partsong.client.data.schema import Kind, RawRow, Row, check_row, schema_of, unit_of, wanted_fields
from partsong.common.build import canonical_json
from partsong.common.config import DataConfig
from partsong.common.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Records of one kind, in the order of their source."""

    kind: Kind
    source: str
    """Path, or a name for rows that came from memory; error texts start with it."""
    rows: tuple[Row, ...]
    kept_names: tuple[str, ...] = ()
    """Further columns that every row holds in `kept`."""
    opted_out: OptOutReport | None = None
    """What the list of those who opted out did to the source; None: there is no list."""

    def __len__(self) -> int:
        """Count the records."""
        return len(self.rows)

    @property
    def units(self) -> tuple[str, ...] | None:
        """Whose record each one is; None where no unit column was named."""
        found = tuple(row.unit for row in self.rows if row.unit is not None)
        return found if self.rows and len(found) == len(self.rows) else None

    def kept(self, name: str) -> tuple[str, ...]:
        """Return a column that was asked for with `keep`.

        Raises:
            KeyError: it was not asked for.
        """
        if name not in self.kept_names:
            raise KeyError(name)
        index = self.kept_names.index(name)
        return tuple(row.kept[index] for row in self.rows)

    def groups(self, config: DataConfig) -> tuple[str, ...] | None:
        """Return which group each record is of; None where no column says it."""
        return None if config.group_field is None else self.kept(config.group_field)

    def select(self, indices: Iterable[int]) -> Table:
        """Return the records at `indices`, in that order; they keep their row numbers. May be empty."""
        return replace(self, rows=tuple(self.rows[i] for i in indices))

    def fingerprint(self) -> str:
        """Hash what would be learned from, and whose it is: SHA-256 in hex.

        Guarantees: equal for equal records in equal order, whatever the file format, the column names, the row
            numbers or the columns that are not used; different otherwise, up to collisions of SHA-256.
        """
        digest = hashlib.sha256(canonical_json(["partsong table 1", self.kind]))
        for row in self.rows:
            digest.update(b"\n" + canonical_json([row.parts, row.unit]))
        return digest.hexdigest()


def read_table(path: Path, config: DataConfig, *, keep: Sequence[str] = ()) -> Table:
    """Read and check one dataset.

    The kind follows from the columns of the first row: `messages`, then `prompt` and `completion`, then `text` and
    `label`, then `text`, each under the name that `config` gives it. Other columns are not read or are dropped.

    Guarantees:
        - all rows are of the same kind and pass `check_row`, or none is returned;
        - of a row whose unit stands in `config.opt_out` nothing is looked at but the unit.
    Args:
        path: see `partsong.client.data.files.read_rows`.
        config: format and column names.
        keep: further columns to carry along, of text or whole numbers (to split by hospital, for example).
    Raises:
        DataError: names source, row, field, what was found and what was expected; never quotes a record.
    """
    kept = _with_group(config, keep)
    with closing(read_rows(path, config, wanted=wanted_fields(config, kept))) as raw:
        return _table(raw, config, source=str(path), keep=kept)


def table_from_rows(
    rows: Iterable[Mapping[str, object]], config: DataConfig, source: str, *, keep: Sequence[str] = ()
) -> Table:
    """Check rows that are in memory, as `read_table` checks those of a file; they are numbered from 1.

    Raises:
        DataError: as `read_table`.
    """
    raw = (RawRow(number=n, fields=fields, names=fields.keys()) for n, fields in enumerate(rows, start=1))
    return _table(raw, config, source=source, keep=_with_group(config, keep))


def _with_group(config: DataConfig, keep: Sequence[str]) -> tuple[str, ...]:
    """The column of groups is carried along wherever one is named."""
    return tuple(dict.fromkeys((*keep, *([config.group_field] if config.group_field else []))))


def _table(raw: Iterable[RawRow], config: DataConfig, *, source: str, keep: tuple[str, ...]) -> Table:
    schema = None
    checked: list[Row] = []
    opted_out = None if config.opt_out is None else read_opt_out(Path(config.opt_out))
    for row in raw:
        if opted_out is not None and opted_out.drops(_unit(row, config, source)):
            continue
        if schema is None:
            schema = schema_of(row, config, source=source, keep=keep)
        checked.append(check_row(row, schema))
    if schema is None:
        found = "no rows" if opted_out is None else "no rows but those of data.opt_out"
        raise DataError(source, found=found, expected="at least one record")
    report = None if opted_out is None else opted_out.report()
    return Table(kind=schema.kind, source=source, rows=tuple(checked), kept_names=keep, opted_out=report)


def _unit(row: RawRow, config: DataConfig, source: str) -> str:
    if config.unit_field is None:
        raise AssertionError("a configuration with opt_out has a unit_field")
    return unit_of(row, config.unit_field, source=source)
