"""Questions that another program on this machine has fetched: the ClientApp of a stock SuperNode.

Stock Flower starts a process of the coordinator's bundle for every message. Keys of a set-up live in one process's
memory, and so does the model, so the site's daemon runs beside it and answers over a Unix socket of its own folder.

Covers: no port; only the socket's owner and root can ask (`partsong.common.control.socket_file`); a question is
bounded in size and in the time that it may take to arrive. What it says is checked as over any transport: signatures
first, then the site's rules.
Does not cover: what stock Flower loses. A question that was on its way when a process died is not asked again, and
an answer that could not be handed over is gone; see docs/flower.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from partsong.client.link.questions import Handle, Question, Reply, Told
from partsong.common.control.socket_file import (
    SocketName,
    claimed,
    foreign_users,
    listener,
    opened_folder,
    require_private_socket,
)
from partsong.common.errors import TryAgain, WireError
from partsong.common.identity.envelope import Letter

MOST_BYTES = 1 << 29
"""Of a question's or an answer's longest part."""
_MOST_TEXT = 1 << 12
_LOOK_S, _PART_S, _CONNECT_S = 0.2, 30.0, 5.0
_OK, _FAILED = b"ok", b"failed"


class SiteFailed(Exception):
    """The site could not or would not answer; why stays in its log."""


class LocalPost:
    """Takes questions from a socket; stands where `FleetConnection` stands."""

    def __init__(self, path: Path, *, listen: Callable[[Told], None]) -> None:
        """Set up; nothing is opened before `run`.

        Args:
            path: of the socket, in a folder that nothing else uses.
            listen: told what happens.
        """
        self._path, self._listen = path, listen

    def run(self, handle: Handle, *, stop: threading.Event) -> None:
        """Answer questions, one at a time, until `stop` is set.

        Args:
            handle: see `Handle`.
            stop: may be set from anywhere.
        Raises:
            TryAgain: another daemon uses the folder.
            Refused: `control_folder`: the folder is not the owner's alone.
        """
        with claimed(self._path) as name, _bound(name) as door:
            self._listen(Told(what="connected"))
            while not stop.is_set():
                try:
                    caller, _ = door.accept()
                except TimeoutError:
                    continue
                with Connection(caller.detach()) as connection:
                    if foreign_users(name):
                        self._listen(Told(what="dropped", reason="a program of another user asked"))
                        continue
                    self._serve(connection, handle)

    def _serve(self, connection: Connection, handle: Handle) -> None:
        """Answer one question."""
        try:
            question = _read_question(connection)
        except EOFError:  # somebody looked whether the daemon runs
            return
        except (WireError, OSError) as err:
            self._listen(Told(what="dropped", reason=type(err).__name__))
            return
        self._listen(Told(what="arrived", message=question.message))
        reply = self._handled(handle, question)
        with contextlib.suppress(OSError):
            _send_reply(connection, reply)
            self._listen(Told(what="sent", message=question.message))

    def _handled(self, handle: Handle, question: Question) -> Reply | None:
        try:
            return handle(question)
        except Exception as err:  # noqa: BLE001 - every kind of error, so that none reaches the coordinator
            self._listen(Told(what="failed", message=question.message, error=err))
            return None


def ask(path: Path, question: Question) -> Reply:
    """Hand a question to the daemon of a site and wait for its answer, however long that takes.

    Args:
        path: of the daemon's socket.
        question: as it arrived.
    Raises:
        TryAgain: no daemon runs there.
        SiteFailed: it could not or would not answer.
        WireError: the question is not of the form that a site takes; it was not handed over.
    """
    try:
        with opened_folder(path) as name:
            require_private_socket(name)
            listener(name, timeout_s=_CONNECT_S)
            end = socket.socket(socket.AF_UNIX)
            end.connect(name.path)
        with Connection(end.detach()) as connection:
            _send_question(connection, question)
            return _read_reply(connection)
    except (OSError, EOFError) as err:
        raise TryAgain(
            "the site's daemon does not answer; start it with `partsong site up --behind-supernode`"
        ) from err


@contextlib.contextmanager
def _bound(name: SocketName) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as door:
        before = os.umask(0o177)
        try:
            door.bind(name.path)
        finally:
            os.umask(before)
        door.listen()
        door.settimeout(_LOOK_S)
        try:
            yield door
        finally:
            Path(name.path).unlink(missing_ok=True)


def _send_question(connection: Connection, question: Question) -> None:
    letter = Letter.read(question.fields, kind=question.kind, vector=question.vector, note=question.note)
    _send_letter(connection, letter, message=question.message, flower_run=question.run, kind=question.kind)


def _read_question(connection: Connection) -> Question:
    letter, more = _read_letter(connection)
    message, flower_run = more.get("message"), more.get("flower_run")
    if not isinstance(message, str) or type(flower_run) is not int:
        raise WireError("local post: no name and run of the message")
    return Question(
        message=message,
        run=flower_run,
        kind=letter.kind,
        fields=letter.fields(),
        vector=letter.vector,
        note=letter.note,
    )


def _send_reply(connection: Connection, reply: Reply | None) -> None:
    if reply is None:
        connection.send_bytes(_FAILED)
        return
    connection.send_bytes(_OK)
    _send_letter(connection, Letter.read(reply.fields, kind="", vector=reply.vector, note=reply.note))


def _read_reply(connection: Connection) -> Reply:
    if connection.recv_bytes(_MOST_TEXT) != _OK:
        raise SiteFailed("the site failed")
    letter, _ = _read_letter(connection)
    return Reply(fields=letter.fields(), vector=letter.vector, note=letter.note)


def _send_letter(connection: Connection, letter: Letter, **more: str | int) -> None:
    """Send a letter in five parts: what is short, then header, signature, vector and note."""
    short = {"version": letter.version, "run": letter.run, "site": letter.site, **more}
    connection.send_bytes(json.dumps(short).encode())
    for part in (letter.header, letter.signature, letter.vector, letter.note):
        connection.send_bytes(part)


def _read_letter(connection: Connection) -> tuple[Letter, dict[str, object]]:
    """Read a letter, and what else was short."""
    if not connection.poll(_PART_S):
        raise WireError("local post: nothing came")
    data = connection.recv_bytes(_MOST_TEXT)
    try:
        short = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise WireError("local post: not JSON") from err
    if not isinstance(short, dict):
        raise WireError("local post: no fields")
    header, signature, vector, note = (_part(connection) for _ in range(4))
    fields = {**short, "header": header, "signature": signature}
    return Letter.read(fields, kind=str(short.get("kind", "")), vector=vector, note=note), short


def _part(connection: Connection) -> bytes:
    """Read one part; whoever takes too long to begin it is cut off."""
    if not connection.poll(_PART_S):
        raise WireError("local post: the rest did not come")
    return connection.recv_bytes(MOST_BYTES)
