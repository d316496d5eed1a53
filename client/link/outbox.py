"""Answers on their way, and which questions were answered.

Covers: an answer is on disk, whole, before its first byte is sent, so that whatever happens later the same bytes are
sent again; a question that was answered here is known for `MEMORY_S`, so that it is answered once.
Does not cover: secrecy. Sealed vectors are masked words, so the files lie in clear, readable by the site's user; their
bytes are erased when the coordinator goes on to the run's next question.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from partsong.client.home.private_files import own_folder, write_private
from partsong.common.codec import Hash, pack, unpack
from partsong.common.errors import WireError
from partsong.common.files import append_line, read_lines, sync_folder

MEMORY_S = 30 * 24 * 3600
"""How long an answered question is known; the connection takes none that is older than a part of this."""
_WAITING, _SENT = ".answer", ".sent"
_RECORD = "answered.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealed:
    """One part of an answer."""

    name: Hash
    """SHA-256 of its content."""
    content: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Outgoing:
    """An answer in the very bytes that go out."""

    LABEL = "outbox answer"

    question: Hash
    run: int
    node: int
    """What the coordinator's transport calls this site."""
    expires_ms: int
    """When nobody waits for it any longer, by the site's clock."""
    envelope: bytes
    """The transport's description of the message."""
    tree: bytes
    """The transport's description of how the parts hang together."""
    parts: tuple[Sealed, ...]
    """Children before parents."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Departure:
    """One answer that went out."""

    at_s: int
    """Since 1970."""
    bytes_out: int
    """Of the answer as it was kept here: what was sent, and a few bytes about it."""


class Outbox:
    """Answers as files of one folder, which no other process uses. Any thread may."""

    def __init__(self, folder: Path, *, clock: Callable[[], float]) -> None:
        """Use `folder`, made if there is none; records older than `MEMORY_S` are taken off.

        Args:
            folder: of this outbox alone.
            clock: seconds since 1970.
        Raises:
            DataError: the record of answered questions is damaged; nothing is answered any more.
        """
        own_folder(folder)
        self._folder, self._clock = folder, clock
        self._lock = threading.RLock()
        self._answered = self._recall()

    def answered(self, question: bytes) -> bool:
        """Whether this question was answered, or given up."""
        with self._lock:
            return question in self._answered or self._find(question) is not None

    def keep(self, answer: Outgoing) -> None:
        """Take an answer; durable when this returns. The bytes of older answers of its run are erased."""
        data = pack(answer)
        with self._lock:
            write_private(self._folder / f"{answer.run:020d}-{answer.question.hex()}{_WAITING}", data)
            for older in self._folder.glob(f"{answer.run:020d}-*{_SENT}"):
                older.unlink()

    def waiting(self) -> Iterator[Outgoing]:
        """Give the answers that are not all sent. Only while no other thread sends."""
        for path in sorted(self._folder.glob(f"*{_WAITING}")):
            answer = _read(path)
            if answer is None:  # damaged on the disk: it cannot be sent, and must not be made a second time
                self.drop(_question_of(path))
            else:
                yield answer

    def find(self, question: bytes) -> Outgoing | None:
        """Give the answer to a question, sent or not, if its bytes are still here."""
        with self._lock:
            path = self._find(question)
            return None if path is None else _read(path)

    def sent(self, question: bytes) -> None:
        """Note that an answer went out, and how long it was."""
        with self._lock:
            path = self._find(question)
            self._remember(question, bytes_out=0 if path is None else path.stat().st_size)
            if path is not None:
                path.replace(path.with_suffix(_SENT))
                sync_folder(self._folder)

    def drop(self, question: bytes) -> None:
        """Note that a question gets no answer (any more), and erase what was to go out."""
        with self._lock:
            self._remember(question)
            if (path := self._find(question)) is not None:
                path.unlink()
                sync_folder(self._folder)

    def tidy(self) -> None:
        """Erase bytes of answers that nobody can ask for any longer."""
        with self._lock:
            for path in self._folder.glob(f"*{_SENT}"):
                answer = _read(path)
                if answer is None or answer.expires_ms < self._clock() * 1000:
                    path.unlink()

    def _remember(self, question: bytes, *, bytes_out: int = 0) -> None:
        if question not in self._answered:
            line = {"question": question.hex(), "at": int(self._clock()), "bytes": bytes_out}
            append_line(self._folder / _RECORD, line)
            self._answered.add(question)

    def _recall(self) -> set[bytes]:
        record = self._folder / _RECORD
        lines = read_lines(record)
        young = [line for line in lines if line["at"] > self._clock() - MEMORY_S]
        if len(young) < len(lines):
            write_private(record, "".join(json.dumps(line) + "\n" for line in young).encode())
        return {bytes.fromhex(line["question"]) for line in young}

    def _find(self, question: bytes) -> Path | None:
        return next(
            (path for suffix in (_WAITING, _SENT) for path in self._folder.glob(f"*-{question.hex()}{suffix}")), None
        )


def sent_lately(folder: Path) -> tuple[Departure, ...]:
    """List the answers of the last `MEMORY_S`, the oldest first, without disturbing the outbox of `folder`.

    Raises:
        DataError: the record of answered questions is damaged.
    """
    lines = [line for line in read_lines(folder / _RECORD) if line.get("bytes")]
    return tuple(Departure(at_s=line["at"], bytes_out=line["bytes"]) for line in lines)


def _question_of(path: Path) -> bytes:
    return bytes.fromhex(path.stem.rpartition("-")[2])


def _read(path: Path) -> Outgoing | None:
    """Read an answer; None if the disk has changed it."""
    try:
        answer = unpack(Outgoing, path.read_bytes())
    except WireError:
        return None
    intact = all(hashlib.sha256(part.content).digest() == part.name for part in answer.parts)
    return answer if intact and answer.question == _question_of(path) else None
