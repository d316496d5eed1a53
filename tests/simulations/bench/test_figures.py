"""What a benchmark says while it measures, and what it prints in the end."""

import datetime as dt

from partsong.simulations.bench.figures import Figure, in_turn, quiet, report


def test_stages_are_measured_in_turn_and_announced() -> None:
    """Each before it begins, with its place and the time of those before it; figures keep their order."""
    said: list[str] = []
    times = iter((0.0, 0.0, 42.0))

    found = in_turn(
        {
            "one": lambda: [Figure(name="a", value=1.0, unit="s"), Figure(name="b", value=2.0, unit="s")],
            "other": lambda: [Figure(name=f"after {len(said)}", value=3.0, unit="s")],
        },
        say=said.append,
        clock=lambda: next(times),
    )

    assert [figure.name for figure in found] == ["a", "b", "after 2"]
    assert said == ["1 of 2: one; 0 s so far", "2 of 2: other; 42 s so far"]


def test_a_report_names_its_command_and_day() -> None:
    """So that it can be put among the measurements as it is."""
    tree = report("secure-sum", in_turn({}, say=quiet), packages=())

    assert tree["command"] == "partsong bench secure-sum --json"
    assert abs(dt.datetime.now(dt.UTC).date() - dt.date.fromisoformat(tree["date"])) <= dt.timedelta(days=1)
