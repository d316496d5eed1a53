"""The records of a site's daemon: read when a plan first needs them, read again when their file has changed.

Covers: schema and opt-outs are checked at every reading; one plan is answered from one reading. What was spent stays
spent when records are added or removed: the ledger knows the holding by its name, not by its content.
Does not cover: a change that keeps size and time of the file.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from partsong.client.data.encode import Encoded, Task, encode
from partsong.client.data.table import Table, read_table
from partsong.client.data.tokens import Tokenizer
from partsong.common.config import DataConfig
from partsong.common.errors import ConfigError, DataError
from partsong.common.privacy.accounting import Unit

Stamp = tuple[tuple[str, int, int, int], ...]
"""Name, size, time of change [ns] and inode of each file."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Records as they were read once."""

    table: Table
    stamp: Stamp

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what would be learned. It stays at the site."""
        return self.table.fingerprint()

    @property
    def count(self) -> int:
        """Number of records."""
        return len(self.table)

    @functools.cached_property
    def patients(self) -> int | None:
        """Number of people; None: the data does not say."""
        units = self.table.units
        return None if units is None else len(set(units))

    @property
    def units(self) -> dict[Unit, int | None]:
        """How many there are of what a plan may hide."""
        return {"record": self.count, "patient": self.patients}

    def encoded(self, tokenizer: Tokenizer, config: DataConfig, *, task: Task) -> Encoded:
        """Tokenise; see `partsong.client.data.encode.encode`."""
        return encode(self.table, tokenizer, config, task=task)


class SiteRecords:
    """Where a site's records are."""

    def __init__(self, config: DataConfig) -> None:
        """Read nothing yet.

        Raises:
            ConfigError: the configuration names no file.
        """
        if config.path is None:
            raise ConfigError("data.path", found="nothing", expected="the file or folder of this site's records")
        self._config, self._path = config, Path(config.path).expanduser()
        self._last: Snapshot | None = None

    @property
    def has_changed(self) -> bool:
        """Whether the files are others than those that were read last. Before the first reading nothing has changed."""
        return self._last is not None and self._last.stamp != self._stamp()

    def snapshot(self) -> Snapshot:
        """Give the records as they are now.

        Raises:
            DataError: they cannot be read, or a row breaks the schema; no record was used.
        """
        stamp = self._stamp()
        if self._last is None or self._last.stamp != stamp:
            self._last = Snapshot(table=read_table(self._path, self._config), stamp=stamp)
        return self._last

    def check_readable(self) -> None:
        """Look whether the records are there, without reading them.

        Raises:
            DataError: they are not.
        """
        if not self._stamp():
            raise DataError("data.path", found="nothing that can be read", expected="this site's records")

    def _stamp(self) -> Stamp:
        listed = [] if self._config.opt_out is None else [Path(self._config.opt_out)]
        files = sorted(self._path.rglob("*")) if self._path.is_dir() else [self._path]
        found = []
        for file in (*files, *listed):
            try:
                stat = file.stat()
            except OSError:
                continue
            found.append((str(file), stat.st_size, stat.st_mtime_ns, stat.st_ino))
        return tuple(found)
