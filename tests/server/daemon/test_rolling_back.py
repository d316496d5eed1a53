"""An earlier round's adapter is published in place of the last, and everybody can see that and from where."""

import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from partsong.common.adapters.adapter import digest
from partsong.common.errors import InputError
from partsong.common.identity.charter import read as read_charter
from partsong.server.adapter_file import read_adapter
from partsong.server.daemon.rolling_back import publish_earlier
from partsong.server.report.signed import read_facts
from partsong.server.rollback import roll_back
from partsong.server.run_files import ROLLBACK
from partsong.simulations.verify.run import verify

Make = Callable[..., Any]


def back(made: Any, run: Any, number: int) -> str:
    """Roll back with the coordinator's key."""
    return publish_earlier(run, number, signer=made.hospitals.made.consortium.coordinator, now_ms=7)


def weights(run: Any) -> np.ndarray:
    """The trained part that is published."""
    return read_adapter(run.adapter / "adapter_model.safetensors", run.read_plan().layout)[0]


def test_the_adapter_of_an_earlier_round_is_published_signed_and_verifies(office: Make) -> None:
    """It is the one that the run had then, by its checkpoint; facts, report and `verify` name the round."""
    made = office()
    run = made.played()
    last_P = weights(run)
    then_P = load_file(run.path / "checkpoint" / "round-0001.safetensors")["adapter"].astype(np.float32)

    sha256 = back(made, run, 1)

    assert digest(weights(run)) == sha256 == digest(then_P)
    assert (weights(run) != last_P).any()
    found = verify(run.path)
    assert found.wrong == ()
    assert any(finding.place == ROLLBACK for finding in found.findings)
    facts = read_facts(run.path / "facts.json").facts
    assert (facts.adapter.sha256, facts.adapter.rolled_back_to) == (sha256, 1)
    assert facts.secure_sum is not None
    assert facts.secure_sum.checked_by == ()
    assert "ROLLED BACK: this is the adapter after round 1" in run.report.read_text()


def test_sites_that_are_connected_are_offered_it_and_take_it(office: Make) -> None:
    """A daemon that runs sees the rollback; whoever had the last adapter now has the earlier one."""
    made = office()
    run, daemon = made.played(), made.daemon()
    daemon.step()
    plan_sha256 = run.read_plan().sha256
    before = {site: shelf[plan_sha256].adapter_sha256 for site, shelf in made.hospitals.shelves.items()}

    sha256 = back(made, run, 1)
    daemon.step()

    after = {site: shelf[plan_sha256].adapter_sha256 for site, shelf in made.hospitals.shelves.items()}
    assert set(after.values()) == {sha256}
    assert sha256 not in before.values()


def test_a_daemon_that_looks_between_decision_and_publication_looks_again(office: Make) -> None:
    """The decision is on the disk for seconds before the adapter is; what is then offered is the one before."""
    made = office()
    run, daemon = made.played(), made.daemon()
    plan = run.read_plan()
    daemon.step()
    charter = read_charter(run.charter.read_bytes()).charter
    roll_back(run, 1, charter=charter, now_ms=7)
    written = (run.path / ROLLBACK).stat().st_mtime_ns
    daemon.step()

    sha256 = back(made, run, 1)
    os.utime(run.path / ROLLBACK, ns=(written, written))
    daemon.step()

    assert {shelf[plan.sha256].adapter_sha256 for shelf in made.hospitals.shelves.values()} == {sha256}


def test_what_a_run_has_handed_over_is_not_offered_again(office: Make) -> None:
    """The end of a run is no rollback: its sites hear one offer, the run's own."""
    made = office()
    daemon, answer, heard = made.daemon(), made.hospitals.answer, []
    made.hospitals.answer = lambda site, phase, parcel: heard.append(phase) or answer(site, phase, parcel)
    daemon.step()
    run = daemon.submit(made.job())
    daemon.step()
    assert heard.count("offer") == len(made.hospitals.there)

    daemon.step()

    assert heard.count("offer") == len(made.hospitals.there)
    back(made, run, 1)
    daemon.step()
    assert heard.count("offer") == 2 * len(made.hospitals.there)


def test_a_rollback_while_another_run_is_under_way_is_offered_after_it(office: Make) -> None:
    """The other run's end hands on what that run has published, and nothing else."""
    made = office()
    run, daemon, answer, rolled = made.played(), made.daemon(), made.hospitals.answer, []
    daemon.step()

    def meanwhile(site: str, phase: str, parcel: Any) -> Any:
        if phase == "roster" and not rolled:
            rolled.append(back(made, run, 1))
        return answer(site, phase, parcel)

    made.hospitals.answer = meanwhile
    daemon.submit(made.job())
    daemon.step()
    daemon.step()

    (sha256,) = rolled
    plan = run.read_plan()
    assert {shelf[plan.sha256].adapter_sha256 for shelf in made.hospitals.shelves.values()} == {sha256}


def test_the_last_round_takes_a_rollback_back(office: Make) -> None:
    """Everything is as it was, the sites' word on the last adapter among it."""
    made = office()
    run = made.played()
    last, facts = digest(weights(run)), json.loads((run.path / "facts.json").read_text())["facts"]

    back(made, run, 0)
    start = digest(weights(run))
    again = back(made, run, 3)

    assert start == run.read_plan().start_sha256
    assert again == last
    assert json.loads((run.path / "facts.json").read_text())["facts"] == facts
    assert not (run.path / ROLLBACK).exists()
    assert verify(run.path).wrong == ()


def test_an_adapter_that_no_rollback_names_does_not_verify(office: Make) -> None:
    """Control: without the file the earlier adapter is one that does not follow from the sums."""
    made = office()
    run = made.played()
    back(made, run, 1)

    (run.path / ROLLBACK).unlink()

    assert any("adapter_model.safetensors" in finding.place for finding in verify(run.path).wrong)


def test_a_round_without_a_sum_is_refused_and_nothing_changes(office: Make) -> None:
    """The rounds that there are, are named."""
    made = office()
    run = made.played()
    before = {file.name: file.read_bytes() for file in run.adapter.iterdir()}

    for number in (-1, 4, 99):
        with pytest.raises(InputError, match="0, or a round with a sum: 1, 2, 3"):
            back(made, run, number)

    assert {file.name: file.read_bytes() for file in run.adapter.iterdir()} == before
    assert not (run.path / ROLLBACK).exists()


def test_a_run_that_is_not_finished_is_refused(office: Make) -> None:
    """It has nothing to go back from."""
    made = office()
    daemon = made.daemon()
    run = daemon.submit(made.job())

    with pytest.raises(InputError, match="a run that is waiting"):
        back(made, run, 1)
