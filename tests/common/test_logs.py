"""A log line holds facts of the list and nothing else, whoever logs."""

import errno
import io
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest

from partsong.common import logs
from partsong.common.build import build
from partsong.common.capsule import Environment
from partsong.common.errors import ConfigError, InputError, Refused
from partsong.common.logs import FILE, EventLog, log_to_folder, log_to_stream

SECRET = "fracture of the left wrist"


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_holds_time_level_event_and_facts() -> None:
    """Bound facts stand in every line; a fact of the call replaces a bound one; the time is UTC."""
    out = io.StringIO()

    with log_to_stream(out):
        EventLog(site="north", run="study-1").bind(round=7).info("round_closed", answered=5, round=8)

    (line,) = _lines(out.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "info",
        "event": "round_closed",
        "site": "north",
        "run": "study-1",
        "round": 8,
        "answered": 5,
    }


@pytest.mark.parametrize(
    "facts", [{"record": SECRET}, {"site": SECRET}, {"place": "/srv/ward/a.jsonl"}, {"round": "7"}]
)
def test_a_fact_that_may_not_be_told_is_refused_and_nothing_written(facts: dict[str, Any]) -> None:
    """An unlisted field, a sentence, a path and a wrong type stop the line where it is made."""
    out = io.StringIO()

    with log_to_stream(out):
        with pytest.raises(InputError) as no:
            EventLog().info("round_closed", **facts)
        with pytest.raises(InputError):
            EventLog(**facts)
        with pytest.raises(InputError):
            EventLog().info(SECRET)

    assert (out.getvalue(), SECRET in str(no.value)) == ("", False)


def test_a_failure_is_told_by_type_and_place() -> None:
    """Neither the text of the exception nor that of its cause is in the line."""
    out = io.StringIO()
    with log_to_stream(out):
        try:
            build(Environment, {"python": 3, SECRET: SECRET})
        except ConfigError as err:
            EventLog(site="north").failure("answer_failed", err, phase="training")
        EventLog().failure("answer_failed", Refused("budget", reason=SECRET, remedy=SECRET))

    first, second = _lines(out.getvalue())
    assert (first["error"], first["phase"], first["place"].partition(":")[0]) == (
        "ConfigError",
        "training",
        "common.build",
    )
    assert (second["error"], second["rule"], "place" in second) == ("Refused", "budget", False)
    assert SECRET not in out.getvalue()


def test_what_a_library_logs_is_counted_by_name_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Its text, its arguments and its traceback may quote a record; none is written, not by its own handlers either."""
    out = io.StringIO()

    with log_to_stream(out, level="debug"):
        logging.getLogger("flwr.client").warning("cannot read %s", SECRET)
        logging.getLogger("flwr").info(SECRET)
        late = logging.StreamHandler(own := io.StringIO())
        logging.getLogger("torch").addHandler(late)
        logging.getLogger("torch").error(SECRET, exc_info=ValueError(SECRET), stack_info=True)

    logging.getLogger("torch").removeHandler(late)
    assert own.getvalue() == "library_message\n"
    lines = _lines(out.getvalue())
    assert [(line["event"], line["library"], line["level"]) for line in lines] == [
        ("library_message", "flwr", "warning"),
        ("library_message", "torch", "error"),
    ]
    assert SECRET not in out.getvalue() + "".join(capsys.readouterr())


def test_the_control_would_show_a_librarys_text() -> None:
    """Without our formatter the same call writes the text, so the test above can fail."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    logger = logging.getLogger("flwr.control")
    logger.addHandler(handler)
    try:
        logger.warning("cannot read %s", SECRET)
    finally:
        logger.removeHandler(handler)

    assert SECRET in out.getvalue()


def test_a_level_below_is_not_written_and_everything_is_put_back() -> None:
    """`warning` leaves information out; after the block the process logs as before."""
    loggers = [logging.getLogger(name) for name in (None, "partsong", "flwr")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    factory = logging.getLogRecordFactory()
    out = io.StringIO()

    with log_to_stream(out, level="warning"):
        EventLog().info("quiet")
        EventLog().debug("quiet")
        EventLog().warning("loud")
        EventLog().error("louder")

    assert [line["event"] for line in _lines(out.getvalue())] == ["loud", "louder"]
    assert [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers] == before
    assert logging.getLogRecordFactory() is factory


def test_the_folder_and_its_file_are_the_owners_alone(tmp_path: Path) -> None:
    """Whatever the umask."""
    mask = os.umask(0)
    try:
        with log_to_folder(tmp_path / "site" / "log"):
            EventLog().info("up")
    finally:
        os.umask(mask)

    modes = [p.stat().st_mode & 0o777 for p in (tmp_path / "site" / "log", tmp_path / "site" / "log" / FILE)]
    assert modes == [0o700, 0o600]


def test_a_file_is_turned_over_and_the_oldest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log's size is bounded; the kept files hold the newest lines, in order and whole."""
    monkeypatch.setattr(logs, "MOST_BYTES", 2000)

    with log_to_folder(tmp_path):
        for number in range(500):
            EventLog(site="north").info("step", step=number)

    files = sorted(tmp_path.iterdir(), key=lambda p: int(p.suffix[1:]) if p.suffix[1:].isdigit() else 0, reverse=True)
    steps = [line["step"] for file in files for line in _lines(file.read_text())]
    assert len(files) == logs.KEPT_FILES + 1
    assert all(file.stat().st_size <= 2000 for file in files)
    assert steps == list(range(steps[0], 500))


def test_a_link_in_place_of_the_log_is_not_followed(tmp_path: Path) -> None:
    """Nothing is written through it, and the daemon goes on."""
    (tmp_path / "log").mkdir(mode=0o700)
    (tmp_path / "log" / FILE).symlink_to(tmp_path / "victim")

    with log_to_folder(tmp_path / "log"):
        EventLog().info("up")

    assert not (tmp_path / "victim").exists()


class _Full(io.StringIO):
    """A stream whose disk is full at first."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    def write(self, text: str) -> int:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.ENOSPC, "full")
        return super().write(text)


def test_lines_that_could_not_be_written_are_counted_and_nothing_stops(capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk costs lines; the next one says how many, the one after it nothing, and stderr stays empty."""
    out = _Full(2)

    with log_to_stream(out):
        for event in ("one", "two", "three", "four"):
            EventLog().info(event)

    assert [(line["event"], line.get("lost")) for line in _lines(out.getvalue())] == [("three", 2), ("four", None)]
    assert capsys.readouterr().err == ""
