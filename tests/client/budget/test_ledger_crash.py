"""After a crash at any point the ledger knows at least what was sent."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("ledger_crash_driver.py")


def drive(scenario: str) -> dict[str, Any]:
    command = [sys.executable, "-P", str(DRIVER), scenario]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_killed_at_every_statement_it_never_knows_less_than_was_sent() -> None:
    """SIGKILL before each SQL statement and around each send: chain whole, all sent committed, the next life works."""
    outcome = drive("statements")

    assert outcome["violations"] == []
    assert outcome["kills"] > 30


def test_sending_before_committing_is_caught_by_the_same_test() -> None:
    """The control: with the two steps exchanged some kill leaves a vector out that the ledger does not count."""
    outcome = drive("wrong-order")

    assert any("was sent and is" in line for line in outcome["violations"])


@pytest.mark.nightly
def test_killed_at_any_moment_it_never_knows_less_than_was_sent() -> None:
    """A timer ends each life wherever it is, also inside a write."""
    outcome = drive("moments")

    assert outcome["violations"] == []
    assert outcome["kills"] == 60
    assert outcome["sent"] > 0


def test_a_full_disk_stops_the_next_query_and_forgets_none() -> None:
    """The file may not grow: TryAgain, what was done stays done, and with space again work goes on."""
    outcome = drive("full-disk")

    assert outcome["violations"] == []
    assert outcome["done"] > 0
    assert "no space left" in outcome["refused"]
