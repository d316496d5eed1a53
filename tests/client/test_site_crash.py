"""Whenever the process of a site is killed, its ledger counts at least what has left it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("site_crash_driver.py")


def drive(*scenarios: str) -> dict[str, Any]:
    command = [sys.executable, "-P", str(DRIVER), *scenarios]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
def test_killed_at_every_write_a_site_never_knows_less_than_it_sent() -> None:
    """After each kill it is sent again what it was sent, and no order but commit, seal, send passes the same looks.

    A look: each report that was received is committed and one only, epsilon is at least theirs, nothing that was
    masked is uncommitted, the chain is whole, each sum is exact and a site that is not in it is named.
    """
    outcomes = drive("set-up", "rounds", "send first")

    assert outcomes["set-up"]["violations"] == outcomes["rounds"]["violations"] == []
    assert len(outcomes["set-up"]["killed_in"]) >= 15
    assert set(outcomes["set-up"]["killed_in"]) >= {"propose", "keys"}
    assert len(outcomes["rounds"]["killed_in"]) >= 50
    assert set(outcomes["rounds"]["killed_in"]) == {"open", "roster", "confirm", "unmask"}
    assert outcomes["rounds"]["received"] > 30
    control = "\n".join(outcomes["send first"]["violations"])
    assert "was received and is released" in control or "was received and is reserved" in control
    assert "is masked in the vault and is reserved" in control
    assert "less epsilon than was sent" in control


@pytest.mark.nightly
def test_a_site_that_stays_away_after_a_kill_is_named_and_comes_back() -> None:
    """Nothing is sent again; and a process that dies once more where it settles what the first one left."""
    outcomes = drive("first round, silent", "second round, silent", "restart", "seal first")

    control = "\n".join(outcomes.pop("seal first")["violations"])
    assert [line for outcome in outcomes.values() for line in outcome["violations"]] == []
    assert min(len(outcome["killed_in"]) for outcome in outcomes.values()) >= 8
    assert "is masked in the vault and is reserved" in control
    assert "was received and is released" in control  # sent by the next process, which has no charge to show for it


@pytest.mark.nightly
def test_a_site_that_keeps_its_work_is_in_the_sum_of_the_round_in_which_it_was_killed() -> None:
    """In most of the lives, after the same looks: nothing is masked twice or uncommitted, each sum is exact."""
    outcome = drive("unfinished")["unfinished"]

    assert outcome["violations"] == []
    assert set(outcome["killed_in"]) == {"open", "roster", "confirm", "unmask"}
    assert len(outcome["killed_in"]) >= 40
    assert outcome["came_through"] > len(outcome["killed_in"]) / 2


@pytest.mark.nightly
def test_kept_work_whose_round_went_on_without_the_site_is_given_up() -> None:
    """Nothing is sent again after the kill; the next query ends what was left."""
    outcome = drive("unfinished, silent")["unfinished, silent"]

    assert outcome["violations"] == []
    assert len(outcome["killed_in"]) >= 20
