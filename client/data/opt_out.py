"""People who do not want to be learned from: their records are dropped while the data are read.

Covers: everything behind the reader, because nothing behind it sees these records: checks, counts, labels, fingerprint,
    sampling, training and evaluation from now on.
Does not cover: adapters trained before. Differential privacy bounds what those tell about anybody, listed or not, and
    takes nothing back; only training again without the records does. Records under another spelling of the value are
    not found either, which is why the number of values found is told.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from partsong.common.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class OptOutReport:
    """What a list did to one source. It describes private records and stays at the site."""

    records: int
    """Records that were dropped."""
    units: int
    """Listed units that had records."""
    listed: int
    """Units on the list."""


class OptOut:
    """A list of units, and a count of what it drops."""

    def __init__(self, listed: frozenset[str]) -> None:
        """Start with nothing dropped."""
        self._listed, self._found, self._records = listed, set[str](), 0

    def drops(self, unit: str) -> bool:
        """Say whether a record of this unit is to be dropped, and count it."""
        same = _same(unit)
        if same not in self._listed:
            return False
        self._found.add(same)
        self._records += 1
        return True

    def report(self) -> OptOutReport:
        """Count what was dropped so far."""
        return OptOutReport(records=self._records, units=len(self._found), listed=len(self._listed))


def read_opt_out(path: Path) -> OptOut:
    """Read a list with one unit on each line; white space around it and blank lines do not matter.

    Raises:
        DataError: no such file, not UTF-8, or nothing in it (rather a list left out than one lost by accident);
            no record was read, and the text quotes none of the list.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        found = "a list that cannot be read" if isinstance(err, OSError) else "bytes that are not UTF-8"
        raise DataError(str(path), found=found, expected="one value of data.unit_field on each line") from None
    listed = frozenset(_same(line) for line in text.splitlines() if line.strip())
    if not listed:
        raise DataError(
            str(path), found="an empty list", expected="at least one value", remedy="leave data.opt_out out"
        )
    return OptOut(listed)


def _same(unit: str) -> str:
    """What two spellings have in common that look alike to a person."""
    return unicodedata.normalize("NFC", unit.strip())
