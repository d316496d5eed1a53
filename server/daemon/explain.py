"""How a run stands and how each site fared in it, from its files alone: the daemon need not run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from partsong.common.capsule_shelf import CapsuleShelf
from partsong.common.control.surfaces import RunStatus, SiteInRun, Standing
from partsong.common.errors import DataError
from partsong.common.facts import word
from partsong.common.files import read_lines
from partsong.common.identity.charter import read as read_charter
from partsong.server.daemon.deployed_run import DeployedRun
from partsong.server.event_log import read_events


@dataclass(frozen=True, kw_only=True, slots=True)
class Explained:
    """One site in one run."""

    site: str
    state: str
    """`missing`: never accepted. `refused`, `accepted`: no round yet. `reported`, `lost`: in its last round."""
    code: str
    """Why it refused; empty otherwise."""
    rounds: tuple[int, ...]
    """Sums that it is in."""
    lost: tuple[tuple[int, str], ...]
    """Rounds that it dropped out of, and how."""
    checked: bool
    """Whether it signed that the last sum and the adapter are right."""
    stored: bool
    """Whether it said that it has stored the adapter."""
    capsules: tuple[str, ...]
    """Failure capsules that it released: id, round, error and remedy."""


def explain(run: DeployedRun) -> tuple[Explained, ...]:
    """Say of every site of the charter how it fared.

    Raises:
        DataError: the run's charter, rounds or events are damaged.
    """
    members = _members(run)
    history, told = _history(run), read_events(run.events)
    accepted, refused = _answers(told)
    checked = {site for line in told if line["event"] == "result_checked" for site in line["sites"]}
    stored = {line["site"] for line in told if line["event"] == "adapter_stored"}
    return tuple(
        _one(
            site,
            history,
            accepted=site in accepted,
            code=refused.get(site, ""),
            checked=site in checked,
            stored=site in stored,
            capsules=_capsules(run, site),
        )
        for site in members
    )


def status_of(run: DeployedRun) -> RunStatus:
    """Say how a run stands, as `status` shows it.

    Raises:
        DataError: one of its files is damaged.
    """
    told, about = run.told(), run.about()
    sites = tuple(
        SiteInRun(site=found.site, state=found.state, rounds=len(found.rounds), code=found.code)
        for found in explain(run)
    )
    return RunStatus(
        run=run.name,
        study=about.study,
        state=told.state,
        standing=_standing(run, open_=told.state == "running"),
        sites=sites,
        reason=told.reason,
    )


def contributions(run: DeployedRun) -> list[str]:
    """Say in a line for each round who is in its sum, and who should be and is not."""
    lines = []
    for entry in _history(run):
        if entry["sites"]:
            line = f"round {entry['round']}: {', '.join(entry['sites'])} contributed"
        else:
            line = f"round {entry['round']}: no sum ({entry['reason']})"
        if missing := entry.get("missing"):
            line += f"; FAILED the expected-sites rule: without {', '.join(missing)}"
        lines.append(line)
    return lines


def incomplete(history: Sequence[dict[str, Any]]) -> str:
    """Name the rounds that lack expected sites; empty where none does."""
    return "; ".join(
        f"round {entry['round']} was without {', '.join(entry['missing'])}" for entry in history if entry.get("missing")
    )


def _one(site: str, history: Sequence[dict[str, Any]], *, accepted: bool, code: str, **more: Any) -> Explained:
    rounds = tuple(entry["round"] for entry in history if site in entry["sites"])
    lost = tuple((entry["round"], entry["lost"][site]) for entry in history if site in entry["lost"])
    if lost and lost[-1][0] > max(rounds, default=0):
        state = "lost"
    elif rounds:
        state = "reported"
    elif accepted:
        state = "accepted"
    else:
        state = "refused" if code else "missing"
    return Explained(site=site, state=state, code=code, rounds=rounds, lost=lost, **more)


def _answers(told: Sequence[dict[str, Any]]) -> tuple[set[str], dict[str, str]]:
    """Give those that had accepted when the run last went on or waited, and the newest refusals of the others."""
    accepted: set[str] = set()
    refused: dict[str, str] = {}
    for line in told:
        if line["event"] in ("run_started", "sites_awaited"):
            accepted = set(line["sites"])
            refused = {site: code for site, code in refused.items() if site not in accepted}
        elif line["event"] == "site_refused":
            refused[line["site"]] = line["code"]
    return accepted, refused


def _standing(run: DeployedRun, *, open_: bool) -> Standing:
    told = read_events(run.events)
    rounds = [line["round"] for line in told if line["event"] in ("round_opened", "round_summed", "round_abandoned")]
    last = next((line for line in reversed(told) if line["event"] in _PLACES), None)
    phase = "" if last is None or not open_ or last["event"] != "phase_began" else str(last["phase"])
    return Standing(round=max(rounds, default=0), rounds=run.read_plan().rounds, phase=phase)


_PLACES = ("phase_began", "round_summed", "round_abandoned", "result_checked")


def _members(run: DeployedRun) -> tuple[str, ...]:
    try:
        data = run.charter.read_bytes()
    except OSError as err:
        raise DataError(str(run.charter), found="no file that can be read", expected="the run's charter") from err
    return tuple(site.id for site in read_charter(data).charter.sites)


def _history(run: DeployedRun) -> list[dict[str, Any]]:
    """Read the rounds so far."""
    lines = read_lines(run.metrics)
    if not all(isinstance(line, dict) and {"round", "sites", "lost", "reason"} <= line.keys() for line in lines):
        raise DataError(str(run.metrics), found="a line that is no round", expected="round, sites and lost on each")
    return lines


def _capsules(run: DeployedRun, site: str) -> tuple[str, ...]:
    """Give what a site released about failures in this run, in a line each."""
    released = CapsuleShelf(run.capsules).of_run(word(run.name))
    return tuple(
        f"{capsule.id} (round {capsule.round}, {capsule.errors[0]}): {capsule.remedy}"
        for capsule in released
        if capsule.site == word(site)
    )
