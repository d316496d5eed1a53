"""The daemons' log: one JSON object a line, and in it facts of a closed list.

    {"time":"2026-03-01T12:00:00.000Z","level":"info","event":"round_closed","run":"study-1","round":7,"answered":5}

Covers: a line holds facts of `partsong.common.facts` only; one that is not of the list is refused where the line is
    made, and nothing is written. Of an exception it holds the type and the place in this package, never the text. Of
    what a library logs it holds the library's name and the level, since its text may quote anything; that text is
    dropped before any handler sees it. The file and its folder are the owner's alone, and their size is bounded.
Does not cover: what a library prints by itself, past Python's logging. A full disk: lines are lost then, and counted in
    the next that can be written; a daemon does not stop for its log.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO, Any, Literal

from partsong.common.blame import blame
from partsong.common.facts import Scalar, checked, word
from partsong.common.files import make_folder

Level = Literal["debug", "info", "warning", "error"]
FILE = "daemon.jsonl"
MOST_BYTES = 10 << 20
"""Of one file; then it is turned over."""
KEPT_FILES = 5
_OURS = "partsong"
_FACTS = "partsong_facts"


class EventLog:
    """Writes events with facts; what was bound to it stands in each of its lines."""

    def __init__(self, **bound: Scalar) -> None:
        """Bind facts such as `site`, `run` and `round`.

        Raises:
            InputError: a fact that may not be told.
        """
        self._bound = checked(bound)

    def bind(self, **more: Scalar) -> EventLog:
        """Give a log with these facts beside the ones bound here; the newer value of a name counts."""
        return EventLog(**{**self._bound, **more})

    def debug(self, event: str, **facts: Scalar) -> None:
        """Tell what only a developer wants to know."""
        self._write(logging.DEBUG, event, facts)

    def info(self, event: str, **facts: Scalar) -> None:
        """Tell that something happened as it should."""
        self._write(logging.INFO, event, facts)

    def warning(self, event: str, **facts: Scalar) -> None:
        """Tell what an operator should look at."""
        self._write(logging.WARNING, event, facts)

    def error(self, event: str, **facts: Scalar) -> None:
        """Tell that something failed."""
        self._write(logging.ERROR, event, facts)

    def failure(self, event: str, error: BaseException, **facts: Scalar) -> None:
        """Tell that something failed with this exception: its type, its rule, and where in this package."""
        found = blame(error)
        told: dict[str, Scalar] = {"error": found.errors[0]}
        told |= {"rule": found.rule} if found.rule else {}
        told |= {"place": found.places[-1]} if found.places else {}
        self._write(logging.ERROR, event, told | facts)

    def _write(self, level: int, event: str, facts: Mapping[str, Scalar]) -> None:
        """Check a line and hand it to Python's logging.

        Raises:
            InputError: the event is not one word, or a fact may not be told; nothing was written.
        """
        name = checked({"state": event})["state"]
        logging.getLogger(_OURS).log(level, name, extra={_FACTS: checked({**self._bound, **facts})})


class JsonLines(logging.Formatter):
    """Makes one line of a record; what this package did not log gives its library's name alone."""

    def format(self, record: logging.LogRecord) -> str:
        """Compose the line."""
        facts: Mapping[str, Scalar] | None = record.__dict__.get(_FACTS)
        if facts is None:
            event, facts = "library_message", {"library": word(record.name.partition(".")[0])}
        else:
            event = str(record.msg)
        time = datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds")
        head = {"time": time.replace("+00:00", "Z"), "level": record.levelname.lower(), "event": event}
        return json.dumps({**head, **facts}, separators=(",", ":"), allow_nan=False)


class _CountsLost(logging.Handler):
    """What cannot be written is counted and told with the next line; Python's own way would print the record."""

    lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        before, facts = self.lost, record.__dict__.get(_FACTS)
        if before and facts is not None:
            record.__dict__[_FACTS] = checked({**facts, "lost": before})
        super().emit(record)
        if self.lost == before:
            self.lost = 0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - logging names it
        """Count a record that was not written."""
        self.lost += 1


class _Lines(_CountsLost, logging.StreamHandler[IO[str]]):
    """To a stream."""


class _RotatingLines(_CountsLost, RotatingFileHandler):
    """To a file that is turned over."""

    def _open(self) -> IO[str]:  # type: ignore[override]  # the base class promises the narrower TextIOWrapper
        """Open the file for its owner alone, and follow no link."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.fdopen(os.open(self.baseFilename, flags, 0o600), "a", encoding="utf-8")


@contextlib.contextmanager
def log_to_stream(stream: IO[str] | None = None, *, level: Level = "info") -> Iterator[None]:
    """Write everything that is logged in this process as lines to a stream.

    Args:
        stream: None: stderr.
        level: the lowest that is written.
    """
    with _installed(_Lines(sys.stderr if stream is None else stream), level):
        yield


@contextlib.contextmanager
def log_to_folder(folder: Path, *, level: Level = "info") -> Iterator[None]:
    """Write everything that is logged in this process as lines to `daemon.jsonl` in a folder, which is made.

    Args:
        folder: `SiteHome.log` or `CoordinatorHome.log`.
        level: the lowest that is written.
    """
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    lines = _RotatingLines(folder / FILE, maxBytes=MOST_BYTES, backupCount=KEPT_FILES, delay=True)
    with _installed(lines, level):
        yield


@contextlib.contextmanager
def _installed(handler: logging.Handler, level: Level) -> Iterator[None]:
    """Put a handler in the place of all others, also those that libraries gave themselves, and everything back."""
    named = logging.getLogger().manager.loggerDict.values()
    loggers = [logging.getLogger(), *(logger for logger in named if isinstance(logger, logging.Logger))]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    make_record = logging.getLogRecordFactory()
    for logger in loggers:
        logger.handlers[:], logger.propagate = [], True
    handler.setFormatter(JsonLines())
    handler.addFilter(_is_written)
    logging.getLogger().addHandler(handler)
    logging.getLogger(_OURS).setLevel(level.upper())
    logging.setLogRecordFactory(_without_text)
    try:
        yield
    finally:
        logging.setLogRecordFactory(make_record)
        for logger, handlers, old_level, propagate in before:
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(old_level)
        handler.close()


def _is_written(record: logging.LogRecord) -> bool:
    """Whether a record makes a line: all of ours, and a library's warnings."""
    return _FACTS in record.__dict__ or record.levelno >= logging.WARNING


def _without_text(name: str, level: int, path: str, line: int, *rest: Any, **extra: Any) -> logging.LogRecord:
    """Make a record; of what a library says, nothing is left for any handler, also one that it installs later."""
    if name == _OURS:
        return logging.LogRecord(name, level, path, line, *rest, **extra)
    return logging.LogRecord(name, level, path, line, "library_message", (), None)
