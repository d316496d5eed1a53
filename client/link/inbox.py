"""Questions that arrived, kept until they are answered.

A transport that hands a message over and forgets it loses the message with the process that took it. So a question is
first announced here (what parts it has), then kept whole, and only then confirmed; a restarted site goes on where the
killed one was.

Covers: a question is whole or it is not there, also after `kill -9` and power cuts; one that was changed on the disk
is not the question that its name says and is removed; names of files are hex digits that this module has made.
Does not cover: secrecy. A question is what the coordinator wrote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from partsong.client.home.private_files import own_folder, write_private
from partsong.common.codec import Hash, pack, unpack
from partsong.common.errors import WireError
from partsong.common.files import sync_folder

T = TypeVar("T")
_ANNOUNCED, _WHOLE = ".notice", ".whole"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of a message."""

    name: Hash
    """SHA-256 of its content."""
    children: tuple[Hash, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """A message that waits at the coordinator for this site."""

    LABEL = "inbox notice"

    message: Hash
    run: int
    node: int
    """What the coordinator's transport calls this site."""
    arrived_ms: int
    """When, by the site's clock."""
    expires_ms: int
    """When nobody waits for an answer any longer, by the same clock, as the transport says."""
    parts: tuple[Part, ...]
    """Each once, children before parents; the last is the message itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """A message, whole."""

    LABEL = "inbox delivery"

    notice: Notice
    contents: tuple[bytes, ...]
    """Of the notice's parts, in their order."""

    def check(self) -> None:
        """Compare each part with its name.

        Raises:
            WireError: they differ.
        """
        names = [part.name for part in self.notice.parts]
        if [hashlib.sha256(content).digest() for content in self.contents] != names or names[-1:] != [
            self.notice.message
        ]:
            raise WireError("message: a part is not what its name says; it was dropped")


class Inbox:
    """Questions as files of one folder, which no other process uses."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, made if there is none."""
        own_folder(folder)
        self._folder = folder

    def announce(self, notice: Notice) -> None:
        """Remember that a message waits at the coordinator; durable when this returns."""
        write_private(self._path(notice, _ANNOUNCED), pack(notice))

    def keep(self, delivery: Delivery) -> None:
        """Remember a message; durable when this returns."""
        write_private(self._path(delivery.notice, _WHOLE), pack(delivery))
        self._path(delivery.notice, _ANNOUNCED).unlink(missing_ok=True)

    def announced(self, *, besides: Collection[bytes] = ()) -> Iterator[Notice]:
        """Give messages that are not here yet, the oldest first.

        Args:
            besides: messages that are left out, unread.
        """
        return self._read(Notice, _ANNOUNCED, besides)

    def deliveries(self, *, besides: Collection[bytes] = ()) -> Iterator[Delivery]:
        """Give messages that are, the oldest first.

        Args:
            besides: messages that are left out, unread.
        """
        for delivery in self._read(Delivery, _WHOLE, besides):
            try:
                delivery.check()
            except WireError:
                self.erase(delivery.notice)
            else:
                yield delivery

    def erase(self, notice: Notice) -> None:
        """Forget a message."""
        for suffix in (_ANNOUNCED, _WHOLE):
            self._path(notice, suffix).unlink(missing_ok=True)
        sync_folder(self._folder)

    def _path(self, notice: Notice, suffix: str) -> Path:
        return self._folder / f"{notice.arrived_ms:016d}-{notice.message.hex()}{suffix}"

    def _read(self, cls: type[T], suffix: str, besides: Collection[bytes]) -> Iterator[T]:
        """Give the whole ones and remove the others."""
        names = frozenset(message.hex() for message in besides)
        for path in sorted(self._folder.glob(f"*{suffix}")):
            if path.stem.rpartition("-")[2] in names:
                continue
            try:
                yield unpack(cls, path.read_bytes())
            except WireError:
                path.unlink()
