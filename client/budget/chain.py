"""An append-only log whose entries vouch for all entries before them.

Covers: entries changed, removed, inserted or reordered behind our back; a file put back from a backup, as far as a
    head of it is remembered (in this process, or by peers, see `contains`); crashes and power cuts at any moment;
    several processes at once; a full disk; a clock that goes backwards.
Does not cover: someone who may write the file and rewrites the whole chain while nobody outside remembers a head.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partsong.common.build import canonical_json
from partsong.common.errors import InputError, Refused, TryAgain
from partsong.common.files import disk_is_awaited, sync_folder

FORMAT = 1
DIGEST_LABEL = b"partsong ledger entry 1\0"

BUSY_TIMEOUT_S = 60.0
"""How long to wait for another process. It holds the log while it computes an epsilon, which takes seconds."""

SCHEMA = (
    """CREATE TABLE entry (
        number INTEGER PRIMARY KEY,
        time_ms INTEGER NOT NULL,
        kind TEXT NOT NULL,
        body TEXT NOT NULL,
        digest BLOB NOT NULL
    ) STRICT""",
    "CREATE TRIGGER entry_is_never_changed BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'append only'); END",
    "CREATE TRIGGER entry_is_never_removed BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'append only'); END",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """The newest entry's number and digest: whoever remembers it can tell a shortened or rewritten log."""

    number: int
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of the log."""

    number: int
    time_ms: int
    """Of the clock, never before that of the entry before."""
    kind: str
    body: str
    """Canonical JSON."""
    digest: str
    """SHA-256 over the digest before and everything above, hexadecimal."""


NOTHING = Head(number=0, digest=bytes(32).hex())
"""What the first entry builds on."""


def digest_of(previous: bytes, *, number: int, time_ms: int, kind: str, body: str) -> bytes:
    """Bind an entry to all entries before it."""
    return hashlib.sha256(DIGEST_LABEL + previous + canonical_json([number, time_ms, kind, body])).digest()


class Chain:
    """The log in one SQLite file.

    Guarantees:
        - `append` returns only after the entry is on the disk, file and folder (`synchronous=EXTRA`), but in a
          simulation (`files.disk_not_awaited`), whose entries outlive a killed process and not a power cut;
        - what `writing` yields sees every entry of every process, and nobody else appends until it is left;
        - an exception inside `writing` leaves no entry.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open or create the log, and check it from its first entry.

        Args:
            path: of the file; its folder exists.
            clock: seconds since 1970.
        Raises:
            Refused: `ledger_damaged`; nothing was changed.
            TryAgain: the disk is full, or another process holds the log.
        """
        self._path, self._clock = path, clock
        self.lock = threading.RLock()
        """Held by whoever reads or writes in this process; take it to do several things at once."""
        self._last = NOTHING
        created = _create(path)
        with self._explained():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
            self._inode = path.stat().st_ino
            durable = ("synchronous=EXTRA", "fullfsync=1") if disk_is_awaited() else ("synchronous=OFF",)
            for pragma in ("journal_mode=DELETE", *durable, "trusted_schema=0"):
                self._db.execute(f"PRAGMA {pragma}").fetchall()
            self._prepare()
        if created:
            sync_folder(path.parent)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Callable[[str, Mapping[str, Any]], Head]]:
        """Hold the log alone; yields `append(kind, body)`. Its entries become durable together, on leaving.

        Read what is new before appending. What was appended is read back, checked, by the next `read_new`.

        Raises:
            Refused: `ledger_damaged`, `ledger_rolled_back`, `ledger_replaced`; nothing was appended.
            TryAgain: the disk is full, or another process holds the log; nothing was appended.
        """
        with self.lock, self._explained():
            self._require_same_file()
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._append
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def read_new(self) -> tuple[Entry, ...]:
        """Check and give the entries since the last call.

        Raises:
            Refused: `ledger_damaged` or `ledger_rolled_back`; the caller must stop.
        """
        with self.lock, self._explained():
            self._require_same_file()
            self._require_known_head()
            entries = self._read(after=self._last)
            if entries:
                self._last = Head(number=entries[-1].number, digest=entries[-1].digest)
            return entries

    @property
    def head(self) -> Head:
        """The newest entry that was read."""
        return self._last

    def now_ms(self) -> int:
        """Give the time of the next entry: the clock's, but never before the newest entry's [ms since 1970]."""
        with self.lock, self._explained():
            return max(self._newest()[1], self._clock_ms())

    def contains(self, head: Head) -> bool:
        """Whether the log still holds what somebody remembers of it."""
        with self.lock, self._explained():
            row = self._db.execute("SELECT digest FROM entry WHERE number = ?", (head.number,)).fetchone()
            return row is not None and row[0] == bytes.fromhex(head.digest)

    def find(self, digest: bytes) -> Head | None:
        """Find an entry by its digest."""
        with self.lock, self._explained():
            row = self._db.execute("SELECT number FROM entry WHERE digest = ?", (digest,)).fetchone()
            return None if row is None else Head(number=row[0], digest=digest.hex())

    def entries(self) -> tuple[Entry, ...]:
        """Give all entries, checked from the first.

        Raises:
            Refused: `ledger_damaged`.
        """
        with self.lock, self._explained():
            return self._read(after=NOTHING)

    def close(self) -> None:
        """Let go of the file."""
        with self.lock:
            self._db.close()

    def _prepare(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in SCHEMA:
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {FORMAT}")
        self._db.execute("COMMIT")
        if version not in (0, FORMAT):
            raise InputError(
                self._path.name, found=f"ledger format {version}", expected=str(FORMAT), remedy="update partsong"
            )

    def _append(self, kind: str, body: Mapping[str, Any]) -> Head:
        last, last_ms, previous = self._newest()
        number, text = last + 1, canonical_json(body).decode()
        time_ms = max(last_ms, self._clock_ms())
        digest = digest_of(previous, number=number, time_ms=time_ms, kind=kind, body=text)
        self._db.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", (number, time_ms, kind, text, digest))
        return Head(number=number, digest=digest.hex())

    def _newest(self) -> tuple[int, int, bytes]:
        row = self._db.execute("SELECT number, time_ms, digest FROM entry ORDER BY number DESC LIMIT 1").fetchone()
        return row or (0, 0, bytes.fromhex(NOTHING.digest))

    def _clock_ms(self) -> int:
        return int(self._clock() * 1000)

    def _read(self, *, after: Head) -> tuple[Entry, ...]:
        rows = self._db.execute(
            "SELECT number, time_ms, kind, body, digest FROM entry WHERE number > ? ORDER BY number", (after.number,)
        ).fetchall()
        entries, number, previous = [], after.number, bytes.fromhex(after.digest)
        for found, time_ms, kind, body, digest in rows:
            number += 1
            try:
                expected = digest_of(previous, number=number, time_ms=time_ms, kind=kind, body=body)
            except (TypeError, ValueError) as err:  # a column of another type
                raise damaged(number) from err
            if found != number or digest != expected:
                raise damaged(number)
            previous = digest
            entries.append(Entry(number=number, time_ms=time_ms, kind=kind, body=body, digest=digest.hex()))
        return tuple(entries)

    def _require_known_head(self) -> None:
        if self._last.number and not self.contains(self._last):
            raise rolled_back(self._last)

    def _require_same_file(self) -> None:
        if _inode_of(self._path) != self._inode:
            raise Refused(
                "ledger_replaced",
                reason=f"{self._path.name} was exchanged or removed while it was in use",
                remedy="stop, and put back the file that this site last used",
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as err:
            raise _explain(err, self._path.name) from err
        except UnicodeDecodeError as err:  # from text in the file, or from SQLite's message that quotes it
            raise _unreadable(self._path.name) from err


def _inode_of(path: Path) -> int | None:
    try:
        return os.stat(path).st_ino  # noqa: PTH116 - asked several times in a query; a Path takes as long as the system
    except (FileNotFoundError, NotADirectoryError):
        return None


def damaged(number: int) -> Refused:
    """Say that the log does not add up from this entry on."""
    return Refused(
        "ledger_damaged",
        reason=f"entry {number} does not follow from the entries before it",
        remedy="keep the file, restore no backup over it, and settle with the other sites what was sent",
    )


def rolled_back(head: Head | None) -> Refused:
    """Say that an entry which somebody remembers, by number or by digest alone, is gone."""
    named = "an entry" if head is None else f"entry {head.number}"
    return Refused(
        "ledger_rolled_back",
        reason=f"{named}, which was seen before, is missing or another: an older copy was put back",
        remedy="put back the newest file; if there is none, count everything since the backup as spent",
    )


def _unreadable(name: str) -> Refused:
    return Refused(
        "ledger_damaged", reason=f"{name} is not a ledger that SQLite can read", remedy="restore no backup over it"
    )


def _explain(err: sqlite3.Error, name: str) -> Exception:
    code = getattr(err, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM):
        return TryAgain(f"{name}: no space left, or the disk failed; nothing was recorded; free space, then try again")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return TryAgain(f"{name}: another process holds it for {BUSY_TIMEOUT_S:.0f} s; nothing was recorded")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR):
        return _unreadable(name)
    return InputError(name, found="no access", expected="a file that this site may read and write")


def _create(path: Path) -> bool:
    """Make the file private to this user before SQLite writes to it; say whether it was not there."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    except OSError as err:
        raise InputError(path.name, found="no access", expected="a folder that this site may write to") from err
    return True
