"""Who waits for a run learns where it is and how long it may take, and is told nothing twice."""

from dataclasses import replace

from quiet_daemons import RUN

from partsong.common.control.surfaces import RunStatus, Standing
from partsong.simulations.commands.outlook import Outlook


def at(number: int, phase: str = "") -> RunStatus:
    """A run of ten rounds in this one."""
    return replace(RUN, state="running", reason="", standing=Standing(round=number, rounds=10, phase=phase))


def test_the_rest_follows_from_the_rounds_that_were_seen_whole() -> None:
    """Rounds 4 and 5 took 20 s each, so five rounds take 100; round 3 had begun before the first look."""
    now_s = [100.0]
    outlook = Outlook(clock=lambda: now_s[0])
    lines = [outlook.line(at(0)), outlook.line(at(3)), outlook.line(at(3, "roster"))]
    for number, time_s in ((4, 105.0), (5, 125.0), (6, 145.0)):
        now_s[0] = time_s
        lines.append(outlook.line(at(number)))

    assert lines == [
        "",
        "study-1: round 3 of 10",
        "",
        "study-1: round 4 of 10",
        "study-1: round 5 of 10, about 120 s left",
        "study-1: round 6 of 10, about 100 s left",
    ]


def test_what_it_waits_for_is_said_once() -> None:
    """And again when it is something else; a run that goes on says its round."""
    outlook = Outlook(clock=lambda: 0.0)
    waiting = replace(RUN, state="waiting", reason="waits for sites to connect: north")
    other = replace(waiting, reason="waits for approval at: north")

    lines = [outlook.line(run) for run in (waiting, waiting, other, replace(waiting, reason=""), at(1))]

    assert lines == [
        "study-1: waits for sites to connect: north",
        "",
        "study-1: waits for approval at: north",
        "",
        "study-1: round 1 of 10",
    ]
