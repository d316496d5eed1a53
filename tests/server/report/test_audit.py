"""An audit beside a claim: of the same settings, over public records, or not at all."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from partsong.common.errors import ConfigError, DataError, PartsongError, Refused
from partsong.server.report.audit import read_audit
from partsong.server.report.beside import Beside
from partsong.server.report.compose import page_of
from partsong.server.report.facts import Facts
from partsong.server.report.render import to_html, to_json, to_markdown
from partsong.server.report.signed import SignedFacts

STEPS = 6
AUDIT: dict[str, Any] = {
    "audit": "rehearsal",
    "passed": True,
    "claim": {"epsilon": 4.0, "delta": 1e-4, "unit": "record"},
    "confidence": 0.999,
    "bounds": [
        {"name": "single steps", "epsilon": 3.25, "claim": 4.0, "delta": 1e-4, "failed": False, "seen": "s",
         "assumes": "the plan's sampling <b>"},
    ],
    "checks": [{"name": "noise of the engine", "promised": 1.0, "bound": 1.01, "failed": False, "seen": "s"}],
    "rehearsed": {"records_are": "public", "steps": STEPS, "noise_multiplier": 1.0, "sampling_rate": 0.1},
    "not_shown": ["that the claim is true"],
}  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write the audit with one value of it changed."""

    def made(*path: Any, value: Any = None) -> Path:
        tree = copy.deepcopy(AUDIT)
        if path:
            place = tree
            for name in path[:-1]:
                place = place[name]
            place[path[-1]] = value
        (tmp_path / "audit.json").write_text(json.dumps(tree))
        return tmp_path / "audit.json"

    return made


def test_the_bound_stands_beside_the_claim(
    facts: Facts, write: Callable[..., Path], sign: Callable[[Facts], SignedFacts]
) -> None:
    """In each format, and marked as no part of what is signed."""
    found = read_audit(write(), facts.privacy, steps=STEPS)
    page = page_of(sign(facts), beside=Beside(audit=found))

    html, markdown, tree = (
        to_html(page),
        to_markdown(page),
        json.loads(to_json(sign(facts), beside=Beside(audit=found))),
    )

    assert "| single steps | 3.250 | 4.000 | 0.0001 | not contradicted |" in markdown
    assert "nothing contradicts the claim" in markdown
    assert "<td>3.250</td><td>4.000</td>" in html
    assert "sampling &lt;b&gt;" in html
    assert "sampling &lt;b&gt;" in markdown
    assert tree["audit"]["bounds"][0]["epsilon"] == 3.25
    assert "not covered by the signature" in html


def test_a_broken_claim_is_shown_as_broken(
    facts: Facts, write: Callable[..., Path], sign: Callable[[Facts], SignedFacts]
) -> None:
    """Not as a bound among others."""
    found = read_audit(write("passed", value=False), facts.privacy, steps=STEPS)

    assert "THE CLAIM IS CONTRADICTED" in to_markdown(page_of(sign(facts), beside=Beside(audit=found)))


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        (("rehearsed", "steps"), 7, ConfigError),
        (("rehearsed", "noise_multiplier"), 1.001, ConfigError),
        (("rehearsed", "sampling_rate"), 0.2, ConfigError),
        (("claim", "delta"), 1e-5, ConfigError),
        (("claim", "unit"), "patient", ConfigError),
        (("rehearsed", "records_are"), "private", Refused),
        (("bounds", 0), {"name": "x"}, DataError),
        (("bounds",), None, DataError),
        (("rehearsed",), None, DataError),
        (("passed",), "yes", DataError),
    ],
)
def test_an_audit_of_something_else_is_refused(
    facts: Facts, write: Callable[..., Path], path: tuple[Any, ...], value: Any, error: type[PartsongError]
) -> None:
    """Other settings, private records, and what is no audit."""
    with pytest.raises(error):
        read_audit(write(*path, value=value), facts.privacy, steps=STEPS)


def test_a_run_without_privacy_has_no_claim_to_audit(write: Callable[..., Path]) -> None:
    """Whatever the audit says."""
    with pytest.raises(ConfigError):
        read_audit(write(), None, steps=STEPS)
