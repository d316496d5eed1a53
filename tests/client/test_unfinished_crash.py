"""A site that is killed anywhere in a round finishes it with the same words, or drops out cleanly."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("unfinished_driver.py")
STEPS = 3
ROUNDS = 2
DRAWS_OF_A_STEP = 2
"""One for the gradient, one for the loss."""


def drive(*scenarios: str) -> dict[str, list[dict[str, Any]]]:
    command = [sys.executable, "-P", str(DRIVER), *scenarios]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def found() -> dict[str, list[dict[str, Any]]]:
    """One start of the driver for all that is asked here."""
    return drive("steps", "private steps", "nothing kept")


def assert_clean(lives: list[dict[str, Any]]) -> None:
    """Whatever became of the round: nothing is left of it, and the next one is answered."""
    assert [life["deaths"] for life in lives] == [1] * (len(lives) - 1) + [0]
    for life in lives:
        assert (life["broken"], life["left"], life["second"]) == ("", [], "report")
        assert life["first"] == "report" or (life["first"] == "refuse" and life["words"] == "")
        assert life["state"] == "committed" or (life["first"], life["state"]) == ("refuse", "released")


@pytest.mark.slow
def test_killed_after_any_step_a_site_repeats_no_step_and_no_noise(found: dict[str, list[dict[str, Any]]]) -> None:
    """The words of the round are those of a life without a death; where nothing is kept, the round is lost."""
    for name in ("steps", "private steps"):
        lives = found[name]
        assert_clean(lives)
        assert len(lives) == STEPS + 1
        assert {life["first"] for life in lives} == {"report"}
        assert [life["steps"] for life in lives] == [[1, 2, 3] * ROUNDS] * len(lives)
    assert len({life["words"] for life in found["steps"]}) == 1
    assert {life["draws"] for life in found["private steps"]} == {ROUNDS * STEPS * DRAWS_OF_A_STEP}
    control = found["nothing kept"]
    assert [life["first"] for life in control] == ["refuse"] * STEPS + ["report"]


@pytest.mark.nightly
def test_killed_at_any_write_a_site_finishes_the_round_or_drops_out() -> None:
    """Also between a note and its taking the place of the last one: that step alone is taken again."""
    lives = drive("writes")["writes"]

    assert_clean(lives)
    finished = [life for life in lives if life["first"] == "report"]
    assert len(lives) >= 20
    assert len(finished) > len(lives) / 2
    assert len({life["words"] for life in finished}) == 1
    told = [life["steps"] for life in finished]
    assert all(len(steps) >= ROUNDS * STEPS - 1 and steps.count(1) <= ROUNDS for steps in told)


@pytest.mark.nightly
def test_noise_that_was_noted_is_never_drawn_again() -> None:
    """Killed at any write of a private round: one step's noise may die with its process, and no more is drawn."""
    lives = drive("private writes")["private writes"]

    assert_clean(lives)
    finished = [life for life in lives if life["first"] == "report"]
    whole = ROUNDS * STEPS * DRAWS_OF_A_STEP
    assert {life["draws"] for life in finished} == {whole, whole + DRAWS_OF_A_STEP}
    lost = [life for life in finished if life["draws"] > whole]
    assert len(lost) == STEPS
    assert all(life["steps"] == [1, 2, 3] * ROUNDS for life in lost)
