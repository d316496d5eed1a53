"""One run as its page shows it, from the run's files: what a person would otherwise put together from five commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from partsong.common import wire
from partsong.common.control.surfaces import RunStatus
from partsong.common.plain_text import without_paths
from partsong.common.plan import Plan
from partsong.server.daemon.canary_job import read_canary
from partsong.server.daemon.deployed_run import DeployedRun
from partsong.server.daemon.explain import Explained, explain, status_of
from partsong.server.daemon.job import read_config
from partsong.server.dashboard.answers import rows_of
from partsong.server.dashboard.refusals import LOST, Meaning, meaning_of
from partsong.server.dashboard.spread import margin_of
from partsong.server.event_log import read_events
from partsong.server.report import charts
from partsong.server.report.charts import Chart
from partsong.server.report.facts import RoundFacts
from partsong.server.report.signed import FACTS
from partsong.server.report.sources import read_rounds
from partsong.server.rounds import MASKED, PLAIN

ADAPTER_FILES: tuple[str, ...] = get_args(wire.AdapterFile)
ROUND_HEAD = ("round", "sites in the sum", "loss", "epsilon so far", "bytes from the sites", "not in it")
SITE_HEAD = ("site", "state", "sums", "bytes out", "adapter", "lost in rounds")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One phase of the round that is under way."""

    name: str
    is_now: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """One site that refused the plan."""

    site: str
    code: str
    meaning: Meaning


@dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """A run."""

    name: str
    status: RunStatus
    reason: str
    asked_ms: int
    privacy: str
    """What is planned, in words."""
    steps: tuple[Step, ...]
    """Empty where no round is under way."""
    deadline_ms: int | None
    """Until when the present phase waits for its sites."""
    sites: tuple[tuple[str, ...], ...]
    rounds: tuple[tuple[str, ...], ...]
    margin: float | None
    refusals: tuple[Refusal, ...]
    capsules: tuple[tuple[str, str], ...]
    """Site, and what it released about a failure."""
    answer: tuple[tuple[str, ...], ...]
    """Figures with their intervals, where the run asked a question."""
    charts: tuple[Chart, ...]
    has_report: bool
    adapter_files: tuple[str, ...]


def view_of(run: DeployedRun) -> RunView:
    """Put a run together.

    Raises:
        DataError: one of its files is damaged.
    """
    status, plan, sites, rounds = status_of(run), run.read_plan(), explain(run), read_rounds(run.metrics)
    margin = margin_of([entry.loss for entry in rounds if entry.loss is not None])
    is_open = status.state == "running" and bool(status.standing.phase)
    return RunView(
        name=run.name,
        status=status,
        reason=without_paths(status.reason),
        asked_ms=run.about().asked_ms,
        privacy=privacy_words(plan),
        steps=_steps(plan, status.standing.phase) if is_open else (),
        deadline_ms=_deadline_ms(run) if is_open else None,
        sites=tuple(_site_row(site, rounds) for site in sites),
        rounds=tuple(_round_row(entry, margin) for entry in reversed(rounds)),
        margin=margin,
        refusals=tuple(Refusal(site=s.site, code=s.code, meaning=meaning_of(s.code)) for s in sites if s.code),
        capsules=tuple((site.site, capsule) for site in sites for capsule in site.capsules),
        answer=rows_of(run.path),
        charts=_charts(plan, rounds, margin),
        has_report=(run.path / FACTS).is_file(),
        adapter_files=tuple(name for name in ADAPTER_FILES if (run.adapter / name).is_file()),
    )


def privacy_words(plan: Plan) -> str:
    """Say what a plan promises each record, in words."""
    if plan.dp is None:
        return "NONE: no differential privacy"
    words = f"epsilon {plan.dp.epsilon:g} at delta {plan.dp.delta:g} planned at each site, for one {plan.dp.unit}"
    return words if plan.dp.on_sum is None else f"{words}; only as part of a sum of {plan.dp.on_sum.minimum_sum} sites"


def _steps(plan: Plan, phase: str) -> tuple[Step, ...]:
    phases = MASKED if plan.masked else PLAIN
    return tuple(Step(name=one.value, is_now=one.value == phase) for one in phases)


def _deadline_ms(run: DeployedRun) -> int | None:
    """Add what the job allows a phase to when the newest one began."""
    began: Sequence[Mapping[str, Any]] = [line for line in read_events(run.events) if line["event"] == "phase_began"]
    if not began:
        return None
    waits_s = read_canary(run.job).report_timeout_s if run.is_canary else read_config(run.job).cohort.report_timeout_s
    return int(began[-1]["time_ms"] + waits_s * 1000)


def _site_row(site: Explained, rounds: Sequence[RoundFacts]) -> tuple[str, ...]:
    lost = "; ".join(f"{number}: {LOST.get(why, why)}" for number, why in site.lost[-5:])
    adapter = "stored there" if site.stored else "found right" if site.checked else ""
    left = sum(entry.bytes_out.get(site.site, 0) for entry in rounds)
    return site.site, site.state, str(len(site.rounds)), f"{left:,}", adapter, lost


def _round_row(entry: RoundFacts, margin: float | None) -> tuple[str, ...]:
    epsilon = "" if entry.epsilon is None else f"{entry.epsilon:.3f}"
    lost = "; ".join(f"{site}: {LOST.get(why, why)}" for site, why in entry.lost.items())
    if not entry.sites:
        return str(entry.round), "no sum", "", epsilon, "", without_paths(entry.reason)
    within = "" if margin is None else f" \N{PLUS-MINUS SIGN} {margin:.3f}"
    loss = "" if entry.loss is None else f"{entry.loss:.3f}{within}"
    return str(entry.round), str(len(entry.sites)), loss, epsilon, f"{sum(entry.bytes_out.values()):,}", lost


def _charts(plan: Plan, rounds: Sequence[RoundFacts], margin: float | None) -> tuple[Chart, ...]:
    losses = [(entry.round, entry.loss) for entry in rounds if entry.loss is not None]
    spent = [(entry.round, entry.epsilon) for entry in rounds if entry.epsilon is not None]
    sums = [(entry.round, float(len(entry.sites))) for entry in rounds]
    most = None if plan.dp is None else (plan.dp.epsilon, f"plan {plan.dp.epsilon:g}")
    fewest = (float(plan.minimum_cohort), f"fewest {plan.minimum_cohort}")
    found = (
        charts.line_chart("chart-loss", "Loss", "loss", losses, limit=None, words="{:.3f}", margin=margin or 0.0),
        charts.line_chart("chart-budget", "Budget spent at each site", "epsilon", spent, limit=most, words="{:.3f}"),
        charts.line_chart("chart-sites", "Sites in each sum", "sites", sums, limit=fewest, words="{:.0f}"),
    )
    return tuple(chart for chart in found if chart is not None)
