"""The coordinator's daemon: jobs become runs, and runs survive it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from office import NAMES, Office
from wiring import Killed

from partsong.common.config import CohortConfig, PrivacyConfig
from partsong.common.errors import ConfigError, DataError
from partsong.common.questions.settings import VoteConfig
from partsong.common.thresholds import Floors
from partsong.server.daemon.deployed_run import DeployedRun
from partsong.server.daemon.explain import explain
from partsong.simulations.commands.export import export_adapter
from partsong.simulations.verify.run import verify

Make = Callable[..., Office]


def rounds_of(run: DeployedRun) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def test_a_job_becomes_an_adapter_that_verifies_and_every_site_stores_it(office: Make) -> None:
    """Plan, three rounds, the sites' last word, publication: the directory holds all that `verify` asks for."""
    made = office()

    run = made.played()

    found = verify(run.path, charter_sha256=run.charter and made.hospitals.made.consortium.charter.hash.hex())
    assert (run.told().state, run.told().reason) == ("finished", "")
    assert [entry["sites"] for entry in rounds_of(run)] == [list(NAMES)] * 3
    assert not found.wrong
    plan = run.read_plan()
    assert (plan.masked, plan.minimum_cohort, plan.run) == (True, 3, run.name)
    assert all(plan.sha256 in shelf for shelf in made.hospitals.shelves.values())
    assert "5 of 5 sites recomputed the adapter" in run.report.read_text()


def test_rounds_of_a_job_are_voted_on_where_it_asks_for_it(office: Make) -> None:
    """Six rounds for three: every second one decides about the one before it, is told, and verifies."""
    made = office()
    daemon = made.daemon()
    run = daemon.submit(made.job(vote=VoteConfig(mode="holdout", most_votes=5)))

    with daemon.feed.watch() as watcher:
        assert daemon.step()
        told = list(iter(lambda: watcher.next(timeout_s=0), None))

    votes = [event.facts for event in told if event.event == "round_voted"]
    assert [(vote["round"], vote["kept"]) for vote in votes] == [(2, True), (4, True), (6, True)]
    assert [entry.get("vote", {}).get("of") for entry in rounds_of(run)] == [None, 1, None, 3, None, 5]
    assert run.read_plan().rounds == 6
    assert verify(run.path).wrong == ()
    assert "round 5: votes +" in run.report.read_text()


def test_a_job_may_ask_for_medians_over_groups(office: Make) -> None:
    """Nine sites, three steps: every site follows the sums of all groups, its own and the others', and signs the end."""
    names = tuple("abcdefghi")
    made = office(names=names, floors=Floors(minimum_cohort=3, minimum_honest=3, corrupt_tolerance=0))

    run = made.played(cohort=CohortConfig(report_timeout_s=10.0, groups=3), expected_sites=names)

    plan = run.read_plan()
    assert plan.groups is not None
    assert [tuple(entry["sites"]) for entry in rounds_of(run)] == [plan.groups.asked(number) for number in range(1, 10)]
    assert sorted(name for group in plan.groups.sites for name in group) == list(names)
    assert verify(run.path).wrong == ()
    assert not any("missing" in entry for entry in rounds_of(run))
    assert "9 of 9 sites recomputed the adapter" in run.report.read_text()


def test_a_job_for_more_groups_than_the_charter_s_floors_allow_is_refused(office: Make) -> None:
    """Five sites have no three groups for a sum."""
    made = office()
    with pytest.raises(ConfigError, match=r"cohort\.groups: found 3 with 5 sites"):
        made.daemon().submit(made.job(cohort=CohortConfig(groups=3)))


def test_report_and_export_take_a_deployed_run(office: Make, tmp_path: Path) -> None:
    """The same commands as for a simulated one; before its end there is nothing to export."""
    made = office()
    assert killed_at(made, 30)
    with pytest.raises(DataError, match="no adapter in it"):
        export_adapter(made.only().path, tmp_path / "out")
    assert made.daemon().step()

    out = export_adapter(made.only().path, tmp_path / "out")

    assert {f.name: f.read_bytes() for f in out.iterdir()} == {
        f.name: f.read_bytes() for f in made.only().adapter.iterdir()
    }
    assert made.only().report.read_text().startswith(f"partsong run {made.only().name}")


def test_verify_notices_an_adapter_that_was_changed_after_the_run(office: Make) -> None:
    """The control for the one above."""
    run = office().played()
    file = run.adapter / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)

    assert verify(run.path).wrong


def test_the_cohort_is_at_least_the_charter_s(office: Make) -> None:
    """A job may ask for more sites, never for fewer."""
    made = office()
    charter = made.hospitals.made.consortium.charter

    low, high = (made.played(cohort=CohortConfig(minimum=n, report_timeout_s=10.0)) for n in (1, 5))

    assert low.read_plan().minimum_cohort == charter.minimum_cohort
    assert high.read_plan().minimum_cohort == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"expected_sites": ("z",)}, r"expected_sites: found 'z', expected sites of the charter"),
        ({"cohort": CohortConfig(minimum=6)}, r"cohort\.minimum: found 6 with 5 sites"),
        ({"privacy": PrivacyConfig(noise_multiplier=0.2)}, r"privacy\.noise_multiplier"),
    ],
)
def test_a_job_that_cannot_be_is_refused_and_leaves_nothing(office: Make, changes: dict[str, Any], words: str) -> None:
    """No folder of a run is there, and the daemon has nothing to do."""
    made = office()
    daemon = made.daemon()

    with pytest.raises(ConfigError, match=words):
        daemon.submit(made.job(**changes))

    assert list(made.home.runs.iterdir()) == []
    assert not daemon.step()


@pytest.mark.parametrize("name", ["job.yaml", "base.json", "start.safetensors"])
def test_a_damaged_job_is_refused(office: Make, name: str) -> None:
    """One byte more in any of its files."""
    made = office()
    job = made.job()
    (job / name).write_bytes((job / name).read_bytes() + b"\nx: [")

    with pytest.raises(DataError):
        made.daemon().submit(job)


def test_without_a_charter_there_is_no_run(office: Make) -> None:
    """Before all sites have signed one."""
    made = office()
    made.signed = None

    with pytest.raises(ConfigError, match="charter: found none"):
        made.daemon().submit(made.job())


def test_runs_are_carried_out_in_the_order_in_which_they_were_asked_for(office: Make) -> None:
    """One at a time; each has keys of its own."""
    made = office()
    daemon = made.daemon()
    first, second = daemon.submit(made.job(study="one")), daemon.submit(made.job(study="two"))

    assert daemon.step()
    states = first.told().state, second.told().state
    assert daemon.step()

    assert states == ("finished", "waiting")
    assert second.told().state == "finished"
    assert not verify(second.path).wrong


def killed_at(made: Office, message: int, **changes: Any) -> bool:
    """Carry out a job and kill the coordinator before this message; False: it was over before."""
    made.hospitals.lines.kill_at = message
    daemon = made.daemon()
    daemon.submit(made.job(**changes))
    try:
        daemon.step()
    except Killed:
        return True
    finally:
        made.hospitals.lines.kill_at = None
    return False


ONE_OF_EACH = (2, 8, 27, 33, 38, 43, 47, 88)
"""Messages in each phase: the plan, set-up, four of round 1, the beginning of round 2, the last check."""


@pytest.mark.parametrize("private", [False, True], ids=["open", "private"])
@pytest.mark.parametrize("messages", [ONE_OF_EACH, pytest.param(range(1, 91), marks=pytest.mark.nightly)])
def test_after_a_kill_in_any_phase_the_next_daemon_goes_on(
    office: Make, messages: tuple[int, ...], *, private: bool
) -> None:
    """Under the same plan; every sum holds, no round is missing, and under privacy a lost one is named as spent."""
    privacy = PrivacyConfig(mode="dp", noise_multiplier=4.0) if private else PrivacyConfig(mode="none")
    phases = set()
    for message in messages:
        made = office(f"kill-{message}")
        if not killed_at(made, message, privacy=privacy):
            continue
        phases.add(made.hospitals.lines.asked[-1][0])
        run = made.only()
        before = run.plan.read_bytes()
        assert run.told().state == "running"

        assert made.daemon().step()

        assert (run.told().state, run.plan.read_bytes()) == ("finished", before)
        assert not verify(run.path).wrong
        rounds = rounds_of(run)
        assert [entry["round"] for entry in rounds] == [1, 2, 3]
        lost = [entry for entry in rounds if not entry["sites"]]
        assert all("its budget is spent" in entry["reason"] for entry in lost)
        assert len(lost) <= private
    assert phases == {"propose", "keys", "open", "roster", "confirm", "unmask", "result"}


def test_a_site_that_connects_while_the_run_goes_on_takes_part_from_the_next_round(office: Make) -> None:
    """It has keys; the coordinator was restarted while it was away."""
    made = office()
    assert killed_at(made, 48, privacy=PrivacyConfig(mode="dp", noise_multiplier=4.0), rounds=4)
    made.hospitals.there.remove("e")
    made.hospitals.late = {len(made.hospitals.lines.asked) + 12: "e"}

    assert made.daemon().step()

    sites = [entry["sites"] for entry in rounds_of(made.only())]
    assert sites == [list(NAMES), [], list(NAMES[:4]), list(NAMES)]
    assert not verify(made.only().path).wrong


def test_another_charter_than_the_run_s_ends_it_by_name(office: Make) -> None:
    """Its keys are of the old one; a new run is asked for."""
    made = office()
    assert killed_at(made, 40)
    other = office("other", settle_s=0.0)
    made.signed = other.signed

    assert made.daemon().step()

    assert made.only().told().state == "failed"
    assert "start a new run" in made.only().told().reason


def test_a_site_that_was_away_is_offered_the_adapter_when_it_connects(office: Make) -> None:
    """Once for each connection, and nothing is sent that it has."""
    made = office()
    made.hospitals.there.remove("e")
    run = made.played()
    sha256 = run.read_plan().sha256
    assert sha256 not in made.hospitals.shelves["e"]

    made.hospitals.there.append("e")
    daemon = made.daemon()
    assert not daemon.step()

    assert made.hospitals.shelves["e"][sha256] == made.hospitals.shelves["a"][sha256]
    assert {found.site for found in explain(run) if found.stored} == set(NAMES)


def test_a_thread_carries_runs_out_and_ends_when_it_is_told_to(office: Make) -> None:
    """As the command runs it."""
    made = office()
    daemon = made.daemon()
    daemon.start()
    with daemon.feed.watch() as watcher:
        run = daemon.submit(made.job())
        ends = ("finished", "failed")
        events = iter(lambda: watcher.next(timeout_s=60), None)
        assert next(e.facts["state"] for e in events if e.facts.get("state") in ends) == "finished"
    daemon.close()

    assert not daemon.alive
    assert run.told().state == "finished"


def test_events_hold_names_and_released_numbers_only(office: Make) -> None:
    """Every line is of the list; what a site would show at its own screen is not on it."""
    run = office().played()
    lines = [json.loads(line) for line in run.events.read_text().splitlines()]

    allowed = {"time_ms", "event", "run", "sites", "rounds", "round", "phase", "site", "code", "bytes_out", "why"}
    allowed |= {"loss", "epsilon", "update_norm", "missing", "reason", "of"}
    assert all(line.keys() <= allowed for line in lines)
    assert "local_loss" not in run.events.read_text()
    assert len(lines) > 30


@pytest.mark.parametrize("module", ["daemon.daemon", "daemon.up", "publication"])
def test_the_daemon_loads_no_torch(module: str) -> None:
    """The coordinator's machine needs no model and no GPU libraries."""
    code = f"import sys, partsong.server.{module}; sys.exit(any(m in sys.modules for m in ('torch', 'peft', 'hydra')))"

    assert subprocess.run([sys.executable, "-P", "-W", "ignore", "-c", code], check=False).returncode == 0
