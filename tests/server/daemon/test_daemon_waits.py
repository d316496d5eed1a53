"""What a run waits for: sites that are expected, persons who decide, an operator who has stopped it."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from office import Office

from partsong.common import wire
from partsong.common.capsule import Environment, make_capsule
from partsong.common.capsule_shelf import CapsuleShelf
from partsong.common.config import PrivacyConfig
from partsong.common.errors import InputError
from partsong.server.daemon.deployed_run import DeployedRun
from partsong.server.daemon.explain import contributions, explain
from partsong.server.exchange import Parcel

Make = Callable[..., Office]

AROUND = Environment(
    python="3.11.7", system="Linux", machine="x86_64", versions={}, gpu=False, memory_gb=16, disk_gb=64
)  # fmt: skip


def rounds_of(run: DeployedRun) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def test_missing_sites_are_named_when_the_deadline_passes(office: Make) -> None:
    """Those that the job expects; the others are not waited for."""
    made = office()
    made.hospitals.there = ["a", "b", "d", "e"]

    late = made.played(expected_sites=("a", "c"), start_timeout_s=0.01)
    fine = made.played(expected_sites=("a", "d"), start_timeout_s=0.01)

    assert late.told().state == "failed"
    assert "4 of 5 sites connected" in late.told().reason
    assert "missing: c; no record was read" in late.told().reason
    assert fine.told().state == "finished"


def test_a_sum_without_an_expected_site_is_reported_as_failed(office: Make) -> None:
    """The run goes on; events, rounds, state and `explain` name it."""
    made = office()
    made.hospitals.lines.before = lambda site, phase, parcel: (
        None if site == "b" and phase == "open" and wire.decode(parcel.header, wire.Open).round == 2 else parcel
    )

    run = made.played(expected_sites=("b",))

    assert (run.told().state, run.told().reason) == ("finished", "round 2 was without b")
    assert contributions(run)[0] == "round 1: a, b, c, d, e contributed"
    assert contributions(run)[1].endswith("FAILED the expected-sites rule: without b")
    assert '"event": "round_incomplete", "round": 2, "missing": ["b"]' in run.events.read_text()
    by_site = {found.site: found for found in explain(run)}
    assert (by_site["b"].rounds, by_site["b"].lost) == ((1, 3), ((2, "silent"),))


def test_refusals_that_waiting_does_not_change_end_the_run_at_once(office: Make) -> None:
    """An expected site whose budget is gone; `explain` has its code."""
    made = office()
    made.hospitals.refusals = {"c": "budget"}

    run = made.played(expected_sites=("c",))

    assert run.told().state == "failed"
    assert "c did not accept the plan" in run.told().reason
    capsule = make_capsule(ValueError("a text that stays"), site="c", run=run.name, round_id=1, environment=AROUND)
    CapsuleShelf(run.capsules).keep(capsule)
    by_site = {found.site: (found.state, found.code) for found in explain(run)}
    assert by_site["c"] == ("refused", "budget")
    assert by_site["a"] == ("accepted", "")
    (released,) = next(found.capsules for found in explain(run) if found.site == "c")
    assert released.startswith(f"{capsule.id} (round 1, ValueError): ")
    assert "a text that stays" not in released


def test_a_plan_that_a_person_has_to_approve_is_proposed_until_it_is(office: Make) -> None:
    """`state` is what a site says meanwhile; the run's own state names where somebody has to act."""
    made = office()
    made.hospitals.refusals = dict.fromkeys("abc", "state")
    asked, connected, said = made.hospitals.lines.asked, made.hospitals.connected, set()

    def look() -> tuple[str, ...]:
        said.add(made.only().told().reason)
        return connected()

    made.hospitals.connected = look

    def approve(site: str, phase: str, parcel: Parcel) -> Parcel:
        if phase == "propose" and len(asked) > 6:
            made.hospitals.refusals = {}
        return parcel

    made.hospitals.lines.before = approve
    run = made.played()

    assert run.told().state == "finished"
    assert said == {"", "waits for approval, or the end of a pause, at a, b, c"}
    assert [phase for phase, site in asked if site == "d"].count("propose") > 1
    assert run.events.read_text().count('"site_refused"') == 3


def test_whoever_is_expected_and_approves_last_shares_keys_with_the_others(office: Make) -> None:
    """Nobody agrees on keys before everybody expected has accepted: otherwise it would be left out of every sum."""
    made = office()
    made.hospitals.refusals = {"c": "state"}

    def approve(site: str, phase: str, parcel: Parcel) -> Parcel:
        if [phase for phase, site in made.hospitals.lines.asked if site == "a"].count("propose") > 1:
            made.hospitals.refusals = {}
        return parcel

    made.hospitals.lines.before = approve
    run = made.played(expected_sites=("c",))

    assert run.told().state == "finished"
    assert {line.split(": ")[1] for line in contributions(run)} == {"a, b, c, d, e contributed"}


def test_a_run_is_stopped_between_two_rounds_and_resumed(office: Make) -> None:
    """No round is asked twice; another start alone does not take it up."""
    made = office()
    daemon = made.daemon()
    run = daemon.submit(made.job(privacy=PrivacyConfig(mode="dp", noise_multiplier=4.0)))

    def stop(site: str, phase: str, parcel: Parcel) -> Parcel:
        if phase == "unmask" and site == "a" and daemon.current:
            daemon.stop(run.name)
        return parcel

    made.hospitals.lines.before = stop
    daemon.step()
    stopped = run.told()
    assert not made.daemon().step()
    made.hospitals.lines.before = lambda _site, _phase, parcel: parcel
    daemon.resume(run.name)
    assert daemon.step()

    assert stopped.state == "stopped"
    assert "stopped after round 1 of 3" in stopped.reason
    assert run.told().state == "finished"
    assert [len(entry["sites"]) for entry in rounds_of(run)] == [5, 5, 5]
    assert [line.split('"round": ')[1][0] for line in (run.path / "opened.jsonl").read_text().splitlines()] == [
        "1",
        "2",
        "3",
    ]


def test_only_what_can_be_stopped_or_resumed_is(office: Make) -> None:
    """A finished run stays finished, and a name that leads elsewhere is no run."""
    made = office()
    run, daemon = made.played(), made.daemon()

    for act, name, words in (
        (daemon.stop, run.name, "is finished"),
        (daemon.resume, run.name, "is finished"),
        (daemon.stop, "../home", "no run named"),
        (daemon.resume, "", "no run named"),
    ):
        with pytest.raises(InputError, match=words):
            act(name)
