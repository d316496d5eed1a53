"""Scripted drop-outs are read strictly."""

import pytest

from partsong.common.errors import ConfigError
from partsong.simulations.faults import Drop, parse_drop

SITES = ("trauma", "a@b", "c:d")


@pytest.mark.parametrize(
    ("text", "drop"),
    [
        ("trauma@3", Drop(site="trauma", round=3, when="report")),
        ("trauma@3:report", Drop(site="trauma", round=3, when="report")),
        ("trauma@1:train", Drop(site="trauma", round=1, when="train")),
        ("a@b@2:train", Drop(site="a@b", round=2, when="train")),
        ("c:d@2", Drop(site="c:d", round=2, when="report")),
    ],
)
def test_a_drop_names_site_round_and_phase(text: str, drop: Drop) -> None:
    """After READY where no phase is given; a site's name may hold the signs."""
    assert parse_drop(text, sites=SITES, rounds=3) == drop


@pytest.mark.parametrize(
    "text",
    ["", "trauma", "trauma@", "trauma@0", "trauma@4", "trauma@x", "trauma@1:tarin", "burns@1", "@1", "trauma@-1"],
)
def test_a_drop_that_would_never_happen_is_refused(text: str) -> None:
    """A typing error must not give a run without the fault."""
    with pytest.raises(ConfigError, match="drop: found"):
        parse_drop(text, sites=SITES, rounds=3)
