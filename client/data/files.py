"""Readers: a file or folder -> raw rows, each with the number a person would count.

JSONL and CSV are read line by line with the standard library, not with pyarrow, because only so an error knows
its line: pyarrow's JSON reader loses row numbers, and its CSV reader loses them where a quoted field holds a line end.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from partsong.client.data.schema import RawRow
from partsong.common.config import DataConfig
from partsong.common.errors import DataError

Reader = Callable[[Path, frozenset[str]], Iterator[RawRow]]

_ROWS_AT_ONCE = 1024
"""Rows that a columnar source holds as Python values at a time."""


def read_rows(path: Path, config: DataConfig, *, wanted: frozenset[str]) -> Generator[RawRow, None, None]:
    """Read one dataset, row after row; close what is returned when stopping before its end.

    Args:
        path: a `.jsonl`, `.ndjson`, `.csv`, `.parquet` or `.pq` file, or a folder written by `save_to_disk`;
            `config.format` overrules the ending.
        config: says the format.
        wanted: columns to read where the format can leave others unread.
    Raises:
        DataError: nothing there, nothing in it, of no known format, or malformed; names the row.
    """
    if not path.exists():
        raise DataError(str(path), found="nothing", expected="a file or folder with records")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(str(path), found="an empty file", expected="at least one record")
    form = config.format if config.format != "auto" else _format_of(path)
    if path.is_dir() != (form == "dataset"):
        found = "a folder" if path.is_dir() else "a file"
        raise DataError(str(path), found=found, expected="a folder" if form == "dataset" else f"a {form} file")
    reader: Reader = {"jsonl": _jsonl, "csv": _csv, "parquet": _parquet, "dataset": _dataset}[form]
    try:
        yield from reader(path, wanted)
    except OSError as err:
        reason = os.strerror(err.errno) if err.errno else "it may be damaged"
        raise DataError(str(path), found=f"no way to read it ({reason})", expected=f"readable {form} data") from None


def _format_of(path: Path) -> str:
    if path.is_dir():
        if (path / "dataset_dict.json").exists():
            raise DataError(str(path), found="a folder of several splits", expected="one split: add its name")
        if (path / "dataset_info.json").exists() or (path / "state.json").exists():
            return "dataset"
        raise DataError(str(path), found="a folder without dataset_info.json", expected="a file or a saved dataset")
    endings = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}
    ending = path.suffix.lower()
    if ending not in endings:
        raise DataError(
            str(path),
            found=f"the ending {ending!r}" if ending else "no ending",
            expected=f"one of {', '.join(endings)}",
            remedy="or name the format with data.format",
        )
    return endings[ending]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise DataError(str(path), found="UTF-16", expected="UTF-8")
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as err:
                raise DataError(
                    f"{path}, row {number}", found=f"a byte that is not UTF-8 (byte {err.start + 1})", expected="UTF-8"
                ) from None


class _NotJson(Exception):
    """What the JSON of one line must not have; its text is written here and quotes nothing."""


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _NotJson("a key given twice")
    return fields


def _no_constant(_: str) -> object:
    raise _NotJson("NaN or an infinity")


def _jsonl(path: Path, _: frozenset[str]) -> Iterator[RawRow]:
    """Blank lines are passed over and counted; a byte order mark is dropped."""
    for number, line in _lines(path):
        if line.strip():
            fields = _json_object(line, f"{path}, row {number}")
            yield RawRow(number=number, fields=fields, names=fields.keys())


def _json_object(line: str, place: str) -> Mapping[str, object]:
    try:
        value = json.loads(line, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except _NotJson as err:
        raise DataError(place, found=str(err), expected="one JSON object") from None
    except json.JSONDecodeError as err:
        found = f"no valid JSON from column {err.colno} on"
        raise DataError(place, found=found, expected="one JSON object in one line") from None
    except (ValueError, RecursionError) as err:
        found = "a number of too many digits" if isinstance(err, ValueError) else "too many levels"
        raise DataError(place, found=found, expected="one JSON object") from None
    if not isinstance(value, dict):
        raise DataError(place, found="JSON that is no object", expected="one JSON object in each line")
    return value


def _csv(path: Path, _: frozenset[str]) -> Iterator[RawRow]:
    """Every value is text; a row's number is that of its first line; blank lines are passed over and counted."""
    limit = csv.field_size_limit(path.stat().st_size + 1)  # a field longer than the library's default is no fault
    try:
        rows = _csv_rows(path)
        number, header = next(rows, (1, []))
        _no_repeats(header, f"{path}, row {number}")
        if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
            found = "semicolons" if ";" in header[0] else "tabs"
            raise DataError(f"{path}, row {number}", found=f"columns parted by {found}", expected="commas")
        for number, row in rows:
            if len(row) != len(header):
                raise DataError(
                    f"{path}, row {number}", found=f"{len(row)} values", expected=f"{len(header)}, as in the header"
                )
            yield RawRow(number=number, fields=dict(zip(header, row, strict=True)), names=header)
    finally:
        csv.field_size_limit(limit)


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((line for _, line in _lines(path)), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error:
            raise DataError(
                f"{path}, row {start}",
                found="a line that is not CSV",
                expected="commas between values, double quotes around a value that holds commas, quotes or line ends",
            ) from None
        if row is None:
            return
        if row:
            yield start, row


def _no_repeats(names: Sequence[str], place: str) -> None:
    if len(set(names)) != len(names):
        raise DataError(place, found="a column name given twice", expected="columns of different names")


def _parquet(path: Path, wanted: frozenset[str]) -> Iterator[RawRow]:
    try:
        with pq.ParquetFile(path) as file:
            names = tuple(file.schema_arrow.names)
            _no_repeats(names, str(path))
            chosen = [name for name in names if name in wanted]
            start = 1
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=chosen or names[:1]):
                for offset, fields in enumerate(_values(batch, path, start)):
                    yield RawRow(number=start + offset, fields=fields, names=names)
                start += batch.num_rows
    except pa.ArrowException:
        raise DataError(str(path), found="a file that is damaged or not Parquet", expected="Parquet") from None


def _values(batch: Any, path: Path, start: int) -> list[dict[str, object]]:
    try:
        rows: list[dict[str, object]] = batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows > 1:
            for offset in range(batch.num_rows):
                _values(batch.slice(offset, 1), path, start + offset)
        raise DataError(f"{path}, row {start}", found="bytes that are not UTF-8", expected="UTF-8") from None
    return rows


def _dataset(path: Path, wanted: frozenset[str]) -> Iterator[RawRow]:
    """Classes that the dataset stores as numbers (`ClassLabel`) come back as their names."""
    try:
        library: Any = importlib.import_module("datasets")
    except ModuleNotFoundError:
        raise DataError(
            str(path),
            found="a saved dataset, but no package `datasets`",
            expected="that package",
            remedy="pip install 'partsong[hf]', or save the data as Parquet",
        ) from None
    try:
        stored = library.load_from_disk(str(path)).with_format(None)
    except (ValueError, KeyError, TypeError, FileNotFoundError, pa.ArrowException):
        raise DataError(
            str(path), found="a damaged saved dataset", expected="a folder of `Dataset.save_to_disk`"
        ) from None
    names = tuple(stored.column_names)
    chosen = [name for name in names if name in wanted]
    classes = {name: stored.features[name].names for name in chosen if hasattr(stored.features[name], "int2str")}
    number = 0
    for batch in stored.select_columns(chosen or names[:1]).iter(batch_size=_ROWS_AT_ONCE):
        for name, words in classes.items():
            batch[name] = [words[i] if i is not None and 0 <= i < len(words) else None for i in batch[name]]
        for values in zip(*batch.values(), strict=True):
            number += 1
            yield RawRow(number=number, fields=dict(zip(batch, values, strict=True)), names=names)
