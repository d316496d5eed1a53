"""What an operator sees of a daemon and does to it: standing, approval, pause, readiness, windows."""

import dataclasses
import threading
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
import yaml

from partsong.client.daemon.control import DaemonControl, Link
from partsong.client.daemon.daemon import Stopping
from partsong.client.link.questions import Told
from partsong.client.rules.policy import Policy, PurposePolicy
from partsong.common import wire
from partsong.common.build import to_tree
from partsong.common.errors import DataError, InputError


def control_of(site: Any) -> tuple[DaemonControl, Link]:
    link = Link(site.feed)
    return DaemonControl(site.daemon, home=site.home, ledger=site.ledger, feed=site.feed, link=link), link


def manual(fleet: Any) -> None:
    """Every site asks a person, for canaries too."""
    for site in fleet.sites.values():
        site.policy = Policy(purposes={"canary": PurposePolicy(approval="manual")})
        site.home.policy.write_text(yaml.safe_dump(to_tree(site.policy)))
        site.start()


def test_a_plan_waits_for_a_person_and_runs_once_all_have_approved(fleet: Any) -> None:
    """Approved by the beginning of its hash; the coordinator proposes it again."""
    manual(fleet)
    run = fleet.canary()
    with pytest.raises(Exception, match="0 of 5 sites accepted"):
        run.propose()
    control, _ = control_of(fleet.sites["a"])
    (waiting,) = control.plans()

    for site in fleet.sites.values():
        control_of(site)[0].approve(run.plan.sha256[:8])
    run.play()

    (approved,) = control.plans()
    assert (waiting.decision, waiting.standing, control.status().plans_pending) == ("pending", None, 0)
    assert (approved.decision, approved.by, approved.purpose) == ("approved", "person", "canary")
    assert approved.standing is not None
    assert (approved.standing.round, approved.standing.rounds, approved.standing.phase) == (2, 2, "")
    assert run.is_exact(2)


def test_an_approval_that_is_taken_back_ends_the_next_query(fleet: Any) -> None:
    """The others go on."""
    run = fleet.canary()
    run.propose()
    run.round(1)

    refused = control_of(fleet.sites["c"])[0].refuse(run.plan.sha256, reason="not this week")
    run.round(2)

    assert (refused.decision, refused.by) == ("refused", "person")
    assert run.survivors(2) == ("a", "b", "d", "e")


def test_a_paused_site_ends_what_it_began_and_begins_nothing(fleet: Any) -> None:
    """Paused after READY it reports; then it misses a round, also after a restart, until it is resumed."""
    run = fleet.canary(rounds=3)
    run.propose()
    site = fleet.sites["c"]

    def before(_number: int, phase: str, name: str) -> None:
        if (phase, name) == ("roster", "c") and 2 not in run.outcomes:
            assert control_of(site)[0].pause().state == "paused"

    run.before = before
    run.round(1)
    run.before = lambda _number, _phase, _site: None
    site.start()
    run.round(2)
    control_of(site)[0].resume()
    run.round(3)

    assert [("c" in run.survivors(n)) for n in (1, 2, 3)] == [True, False, True]
    assert all(run.is_exact(n) for n in (1, 2, 3))


def test_a_damaged_decision_to_pause_stops_all_work(fleet: Any) -> None:
    """Nobody knows what was decided."""
    site = fleet.sites["a"]
    site.home.part.write_text("{}}")

    with pytest.raises(DataError, match=r"part\.json"):
        site.daemon.answer(wire.encode(wire.Propose(plan=fleet.canary().plan)))


def test_a_site_is_ready_when_all_four_conditions_are_met(fleet: Any, tmp_path: Path) -> None:
    """Registered, charter current, policy loaded, data readable; each that is missing is named."""
    manual(fleet)
    control, link = control_of(fleet.sites["a"])
    site = fleet.sites["a"]
    assert [c.name for c in control.status().checks if not c.ok] == ["registered"]
    assert control.status().state == "starting"

    link.heard(Told(what="connected"))
    assert (control.status().ready, control.status().connected, control.status().state) == (True, True, "running")
    link.heard(Told(what="unreachable", wait_s=2.0))
    assert (control.status().ready, control.status().connected) == (True, False)

    site.home.policy.write_text("purposes: {train: {}}")
    site.home.charters.mkdir()
    (site.home.charters / "2.json").write_text("{}")
    missing = {c.name: c.reason for c in control.status().checks if not c.ok}
    assert set(missing) == {"policy", "charter"}
    assert str(tmp_path) not in "".join(missing.values())


def test_the_ledger_in_short(fleet: Any) -> None:
    """A canary costs nothing; the head is the ledger's."""
    run = fleet.canary()
    run.play()
    site = fleet.sites["a"]

    found = control_of(site)[0].ledger()

    assert (found.holdings, found.outstanding) == ((), 0)
    assert found.head == f"{site.ledger.head.number}:{site.ledger.head.digest}"


def test_who_watches_is_told(fleet: Any) -> None:
    """Steps, decisions and the connection, in facts that may be told."""
    site = fleet.sites["a"]
    control, link = control_of(site)
    with site.feed.watch() as watcher:
        run = fleet.canary(rounds=1)
        run.play()
        link.heard(Told(what="connected"))
        control.pause()
        seen = []
        while (event := watcher.next(timeout_s=0.01)) is not None:
            seen.append(event)

    assert [event.event for event in seen] == ["step", "connected", "paused"]
    assert dict(seen[0].facts) == {"plan": run.plan.sha256, "round": 1, "step": 1, "steps": 1}


def test_an_unknown_plan_cannot_be_approved(fleet: Any) -> None:
    """Nor can two at once."""
    with pytest.raises(InputError, match="0 plans"):
        control_of(fleet.sites["a"])[0].approve("abc")


class Naps:
    """A clock that waiting moves on."""

    def __init__(self, fleet: Any, *, stop_after: int | None = None) -> None:
        self.fleet, self.naps, self.stop_after = fleet, 0, stop_after

    def __call__(self, event: threading.Event, seconds: float) -> None:
        assert 0 < seconds <= 60
        self.naps += 1
        self.fleet.now += seconds
        if self.naps == self.stop_after:
            event.set()


def test_a_query_for_training_waits_for_its_window_and_a_canary_does_not(fleet: Any, make_plan: Any) -> None:
    """At 22:13 for 23:00; while it waits, the board says so."""
    site, naps = fleet.sites["a"], Naps(fleet)
    site.config = _windowed(site.config)
    site.more = {"zone": UTC, "wait": naps}
    daemon = site.start()
    plan = make_plan()
    query = wire.Open(plan_sha256=plan.sha256, round=1, attempt=1, adapter_sha256="a" * 64, summed=0)

    run = fleet.canary()
    run.play()
    assert naps.naps == 0
    with daemon._turns.of(plan.sha256):
        daemon._await_window(plan, query)

    assert fleet.now == 1_700_002_800.0
    assert naps.naps == 47
    standing = daemon.board.standing(plan.sha256, rounds=3, journal=site.home.path / "none")
    assert standing is not None
    assert standing.phase == "window"


def test_a_daemon_that_stops_leaves_the_waiting_query_unanswered(fleet: Any, make_plan: Any) -> None:
    """It is no failure of the site: the question stays where it was."""
    site = fleet.sites["a"]
    site.config = _windowed(site.config)
    site.more = {"zone": UTC, "wait": Naps(fleet, stop_after=3)}
    daemon = site.start()
    plan = make_plan()
    query = wire.Open(plan_sha256=plan.sha256, round=1, attempt=1, adapter_sha256="a" * 64, summed=0)

    with pytest.raises(Stopping), daemon._turns.of(plan.sha256):
        daemon._await_window(plan, query)

    assert control_of(site)[0].status().state == "stopping"


def _windowed(config: Any) -> Any:
    return dataclasses.replace(config, training_windows=("23:00-05:00",))
