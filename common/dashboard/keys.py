"""Who may look: a key for each start of a daemon, and sessions that it opens.

Covers: the key and every session are 256 bits of the operating system's randomness and are compared in constant time;
    the key lies in a file for its owner alone, which goes with the daemon; sessions are kept as digests, expire, and
    are never more than `MOST_SESSIONS`; what a page sends along with a form differs from what its cookie holds.
Does not cover: another program of the same user, or of root; they own the daemon's keys anyway.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from partsong.common.build import build, to_tree
from partsong.common.control.loopback import LOOPBACK
from partsong.common.errors import ConfigError, DataError, InputError
from partsong.common.private_files import require_private, write_private

LIFETIME_S = 12 * 3600.0
"""A session lasts a working day."""
MOST_SESSIONS = 16
FILE = "dashboard.json"
"""Beside the daemon's socket, whose folder is the owner's alone."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Key:
    """Where a dashboard is served, and what opens it."""

    port: int
    key: str

    @property
    def url(self) -> str:
        """Address with the key behind `#`, which browsers keep to themselves."""
        return f"http://{LOOPBACK}:{self.port}/#{self.key}"


@contextlib.contextmanager
def kept(file: Path, key: Key) -> Iterator[None]:
    """Keep a key in a file of mode 0600 while this holds.

    Raises:
        TryAgain: the disk is full; there is no file.
    """
    write_private(file, json.dumps(to_tree(key)).encode())
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def read_key(file: Path) -> Key:
    """Read the key of a running daemon.

    Raises:
        InputError: no dashboard is served here, or others may read the file.
        DataError: the file is damaged.
    """
    if not file.is_file():
        raise InputError(
            "dashboard",
            found="none that is served from this directory",
            expected="a running daemon with a dashboard_port",
            remedy="set dashboard_port in site.yaml or coordinator.yaml, then start the daemon again",
        )
    require_private(file)
    try:
        return build(Key, json.loads(file.read_bytes()), where=FILE)
    except (ValueError, RecursionError, ConfigError) as err:
        raise DataError(FILE, found="a damaged file", expected="it as it was written", remedy="restart") from err


class Sessions:
    """Browsers that have shown the key. Any thread may ask."""

    def __init__(self, key: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with none.

        Args:
            key: that opens a session.
            clock: seconds that only go forward.
        """
        self._key, self._clock, self._lock = key.encode(), clock, threading.Lock()
        self._until_s: dict[bytes, float] = {}

    def open(self, shown: str) -> str | None:
        """Open a session for whoever shows the key; None: it is another one.

        Guarantees: the oldest session makes room where there are `MOST_SESSIONS`.
        """
        if not hmac.compare_digest(shown.encode(), self._key):
            return None
        made = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._until_s) >= MOST_SESSIONS:
                del self._until_s[next(iter(self._until_s))]
            self._until_s[_digest(made)] = self._clock() + LIFETIME_S
        return made

    def holds(self, session: str) -> bool:
        """Say whether a session is open."""
        with self._lock:
            return self._until_s.get(_digest(session), -1.0) > self._clock()

    def close(self, session: str) -> None:
        """End a session."""
        with self._lock:
            self._until_s.pop(_digest(session), None)


def form_word(session: str) -> str:
    """Give the word that forms of a session carry: it follows from the cookie and does not show it."""
    return hmac.digest(session.encode(), b"partsong dashboard form", hashlib.sha256).hex()


def is_form_word(session: str, shown: str) -> bool:
    """Say whether a form carries the word of its session."""
    return hmac.compare_digest(form_word(session).encode(), shown.encode())


def _digest(session: str) -> bytes:
    return hashlib.sha256(session.encode()).digest()
