"""The report of a run that a coordinator's daemon carried out, with sites that have no model."""

import json
from collections.abc import Callable
from pathlib import Path

from office import NAMES, Office

from partsong.common.plan import Plan
from partsong.server.report.command import read_run, report
from partsong.simulations.verify.run import verify


def test_a_deployed_run_has_a_report_that_verifies(tmp_path: Path, make_masked_plan: Callable[..., Plan]) -> None:
    """Signed with the daemon's key, no ledger head known, every fact recomputed from the run's directory."""
    run = Office(tmp_path, make_masked_plan()).played(rounds=2)

    signed = read_run(run.path)

    found = verify(run.path)
    assert found.wrong == ()
    assert [line.verdict for line in found.findings if line.place == "facts.json"] == ["right"] * 3
    assert signed.signature is not None
    assert (signed.facts.simulated, signed.facts.contributors) == (False, NAMES)
    assert {s.ledger_head for s in signed.facts.sites} == {None}
    assert "failure capsule" in report(run.path, form="md")


def test_the_report_names_no_path_and_no_key(tmp_path: Path, make_masked_plan: Callable[..., Plan]) -> None:
    """Of all secrets of the sites and the coordinator not one byte string is in any output."""
    office = Office(tmp_path, make_masked_plan())
    run = office.played(rounds=1)
    consortium = office.hospitals.made.consortium
    secrets = [key.secret_bytes() for key in (consortium.coordinator, *consortium.identities)]

    outputs = [report(run.path, form=form) for form in ("html", "md", "json", "text")]

    for text in outputs:
        assert str(tmp_path) not in text
        assert not [secret for secret in secrets if secret.hex() in text]
    assert consortium.coordinator.public_key.hex() in outputs[2]
    assert json.loads(outputs[2])["facts"]["run"] == run.name
