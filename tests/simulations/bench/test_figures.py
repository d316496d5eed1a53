"""What a benchmark prints in the end."""

import datetime as dt

from partsong.simulations.bench.figures import report


def test_a_report_names_its_command_and_day() -> None:
    """So that it can be put among the measurements as it is."""
    tree = report("secure-sum", [], packages=())

    assert tree["command"] == "partsong bench secure-sum --json"
    assert abs(dt.datetime.now(dt.UTC).date() - dt.date.fromisoformat(tree["date"])) <= dt.timedelta(days=1)
