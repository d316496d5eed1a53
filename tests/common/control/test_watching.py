"""Progress is shown with a bar on a terminal and in plain lines elsewhere; texts of others move nothing."""

import io
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from quiet_daemons import LEDGER, PLANS, SITE
from rich.console import Console

from partsong.common.control.feed import ProgressEvent
from partsong.common.control.surfaces import Check
from partsong.common.control.watching import event_json, event_line, show_events
from partsong.common.control.words import LONGEST, plain, site_words
from partsong.common.facts import Scalar

EVENTS = [
    ("round_opened", {"round": 2, "sites": 5}),
    ("step", {"plan": "ab" * 32, "round": 2, "step": 1, "steps": 2}),
    ("step", {"plan": "ab" * 32, "round": 2, "step": 2, "steps": 2}),
    ("round_summed", {"round": 2, "took_s": 1.23456, "ok": True}),
]


def _events() -> list[ProgressEvent]:
    return [ProgressEvent(event=name, time_ms=43_200_000, facts=_facts(facts)) for name, facts in EVENTS]


def _facts(facts: Any) -> dict[str, Scalar]:
    return dict(facts)


def _shown(**console: Any) -> str:
    out = io.StringIO()
    show_events(iter(_events()), console=Console(file=out, width=120, **console))
    return out.getvalue()


def test_without_a_terminal_each_event_is_a_plain_line() -> None:
    """Steps too; no control sequence is in it."""

    assert _shown().splitlines() == [
        "12:00:00Z round_opened round=2 sites=5",
        "12:00:00Z step plan=abababababab round=2 step=1 steps=2",
        "12:00:00Z step plan=abababababab round=2 step=2 steps=2",
        "12:00:00Z round_summed ok=True round=2 took_s=1.235",
    ]


def test_a_terminal_gets_a_bar_instead_of_steps() -> None:
    """The other events stay lines above it."""
    shown = _shown(force_terminal=True)

    assert "abababababab round 2" in shown
    assert "step=1" not in shown
    assert "12:00:00Z round_summed ok=True" in shown


@pytest.mark.parametrize("wish", [{}, {"NO_COLOR": "1"}])
def test_no_color_is_honoured(wish: dict[str, str]) -> None:
    """With NO_COLOR no colour is set; without it the bar has one, so this test can fail."""
    shown = _shown(force_terminal=True, color_system="standard", _environ={"TERM": "xterm", **wish})

    assert bool(re.search(r"\x1b\[(?:[0-9]+;)*(?:3|9)[0-7]m", shown)) is not bool(wish)


def test_as_json_an_event_is_one_object() -> None:
    """Time, name and facts with their types."""

    assert json.loads(event_json(_events()[3])) == {
        "time_ms": 43_200_000,
        "event": "round_summed",
        "round": 2,
        "took_s": 1.23456,
        "ok": True,
    }
    assert "\n" not in event_json(_events()[0])


def test_the_words_name_what_waits_what_fails_and_what_was_spent() -> None:
    """A status in words has each of them."""
    unwell = replace(SITE, connected=False, checks=(Check(name="policy", ok=False, reason="no policy is loaded"),))

    words = site_words(unwell, PLANS, LEDGER)

    for part in ("NOT connected to [::1]:7443", "NOT ready:", "policy: no policy is loaded", "1.25 of 8", "capsule c1"):
        assert part in words
    assert "ready" in site_words(SITE, PLANS, LEDGER).splitlines()


@pytest.mark.parametrize("bad", ["\x1b[2J", "a\nb", "a\r", "\u202egnp", "\u2028", "\x07"])
def test_a_strangers_name_cannot_move_the_cursor(bad: str) -> None:
    """Control and direction marks are shown as `?`; a long name is cut."""

    shown = site_words(SITE, (replace(PLANS[0], run=bad),), LEDGER)

    clean = site_words(SITE, (replace(PLANS[0], run="?"),), LEDGER)
    assert len(shown.splitlines()) == len(clean.splitlines())
    assert not [c for c in bad if not c.isprintable() and c in shown.replace("\n", "", clean.count("\n"))]
    assert len(plain("x" * 1000)) == LONGEST


def test_a_line_of_an_event_has_no_room_for_a_line_break() -> None:
    """Facts are words, so one event is one line."""

    assert all(len(event_line(event).splitlines()) == 1 for event in _events())
