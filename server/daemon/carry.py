"""Carrying one run out: from its files, over whatever connects the sites, to its published adapter."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from partsong.common import events
from partsong.common.control.feed import Feed
from partsong.common.errors import DataError, PartsongError, RoundAborted
from partsong.common.facts import word
from partsong.common.files import read_lines
from partsong.common.identity.charter import SignedCharter
from partsong.common.identity.charter import read as read_charter
from partsong.common.identity.keys import Signer
from partsong.server.adapter_file import read_adapter
from partsong.server.coordinator import RunNotStarted
from partsong.server.daemon.canary_job import CanaryJob, require_right
from partsong.server.daemon.capsules import KeepingCapsules
from partsong.server.daemon.delivery import deliver
from partsong.server.daemon.deployed_run import DeployedRun, read_asked
from partsong.server.daemon.gathering import SitesMissing, Wanted, gather, wanted_by
from partsong.server.daemon.job import BaseFacts
from partsong.server.daemon.progress import tell_progress
from partsong.server.event_log import RunLog
from partsong.server.exchange import Exchange
from partsong.server.publication import publish_run
from partsong.server.run import Result, Run, Terms
from partsong.server.secure_sum.masked_sums import Trust

_FINAL = frozenset({"plan", "policy", "budget", "data", "model"})
"""Refusals that no waiting changes; `state` is also said while a person has not decided yet."""

_FIRST_RETRY_S = 2.0
"""Doubled with every try: who approves a plan at once does not wait."""


class Link(Protocol):
    """What carries messages; `EmbeddedSuperlink` in production."""

    def connected(self) -> tuple[str, ...]:
        """Ids of the sites that can be reached now."""
        ...

    def exchange(self, *, run: str, signer: Signer, identity_keys: Mapping[str, bytes]) -> Exchange:
        """Begin to talk about a run."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How long the daemon waits for what; tests take less."""

    settle_s: float = 25.0
    """Nobody new for so long, and a run begins without those that are not expected. Longer than the longest pause
    between two tries of a site that has lost the coordinator (20 s), so that an outage costs nobody a round."""
    retry_s: float = 20.0
    """Between two tries to have the plan accepted, once the first ones have failed."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Means:
    """What it takes to carry runs out."""

    link: Link
    signer: Signer
    """With the coordinator's key of the charter."""
    charter: Callable[[], SignedCharter]
    """The one in force."""
    feed: Feed
    pace: Pace
    stopping: Callable[[str], bool]
    """Whether the run of this name is to stop."""
    pause: Callable[[str, float], bool]
    """Waits so many seconds for the run of this name; raises `RunStopped` when it is to stop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """What a job asks for; the adapter's start lies in the run's directory."""

    base: BaseFacts | None
    """None: a canary has no model."""
    expected_sites: tuple[str, ...]
    start_timeout_s: float
    report_timeout_s: float
    check_window: int


def carry_out(run: DeployedRun, means: Means) -> Result:
    """Carry a run out to its published adapter, new or from where it is; a canary to its sum, which has to be right.

    Raises:
        RunStopped: it was told to; it can be resumed.
        SitesMissing: the deadline passed before enough sites were there.
        TryAgain: the disk is full; it can be resumed.
        CanaryWrong: a canary's sum is not what it had to be.
        PartsongError: it cannot go on.
    """
    job, signed = _asked_for(run), _charter_of(run, means)
    refused: dict[str, str] = {}
    before: dict[str, str] = {}
    tell = listener(run, means.feed)

    def listen(event: events.Event) -> None:
        if isinstance(event, events.SiteRefused):
            refused[event.site] = event.code
            if before.get(event.site) == event.code:
                return  # a plan may be proposed for days before a person has decided
            before[event.site] = event.code
        tell(event)

    terms = _terms(run, job, Trust(charter=signed.charter, signer=means.signer))
    engine = Run(terms, run, listen=listen, stopping=lambda: means.stopping(run.name))
    engine.begin()
    wanted = wanted_by(terms.plan, signed.charter, expected=terms.expected)
    try:
        result, exchange = _played(run, engine, wanted, refused, means, timeout_s=job.start_timeout_s)
    except RoundAborted as err:
        raise RoundAborted(_why_no_sum(run) or str(err)) from err
    if job.base is None:
        require_right(result)
    else:
        _publish(run, job.base, result, means)
    if job.base is not None and terms.plan.question is None:
        hand_over(exchange, [run], means.feed, timeout_s=terms.report_timeout_s)
    return result


def _why_no_sum(run: DeployedRun) -> str:
    """Say why the last round of a run had no sum."""
    lines = read_lines(run.metrics)
    return f"run {run.name}: no round ended with a sum; the last: {lines[-1]['reason']}" if lines else ""


def _publish(run: DeployedRun, base: BaseFacts, result: Result, means: Means) -> None:
    publish_run(
        run,
        result,
        base_name=base.name,
        peft=base.peft,
        config_sha256=run.about().config_sha256,
        marks=run.about().marks,
        signer=means.signer,
    )


def hand_over(exchange: Exchange, runs: list[DeployedRun], feed: Feed, *, timeout_s: float) -> None:
    """Offer published adapters to the sites; whoever does not get one is offered it again when it connects."""
    tell = {run.path: listener(run, feed) for run in runs}
    try:
        deliver(
            exchange,
            runs,
            timeout_s=timeout_s,
            stored=lambda files, site: tell[files.path](events.AdapterStored(site=site)),
        )
    except PartsongError as err:
        feed.tell("adapter_not_delivered", run=word(runs[-1].name), error=type(err).__name__)


def exchange_for(run: DeployedRun, means: Means) -> Exchange:
    """Begin to talk to the sites of the charter in force about a run."""
    keys = {site.id: bytes.fromhex(site.key) for site in means.charter().charter.sites}
    return means.link.exchange(run=run.name, signer=means.signer, identity_keys=keys)


def listener(run: DeployedRun, feed: Feed) -> events.Listener:
    """Write a run's events down and tell whoever watches."""
    log = RunLog(run.events)

    def listen(event: events.Event) -> None:
        log(event)
        tell_progress(feed, event, run=run.name)

    return listen


def _played(
    run: DeployedRun, engine: Run, wanted: Wanted, refused: dict[str, str], means: Means, *, timeout_s: float
) -> tuple[Result, Exchange]:
    """Wait for the sites, and try until they have accepted and the run is played."""
    deadline_s, retry_s = time.monotonic() + timeout_s, _FIRST_RETRY_S
    while True:
        _gathered(run, wanted, means, deadline_s=deadline_s)
        refused.clear()
        exchange = KeepingCapsules(exchange_for(run, means), run)
        run.tell("running")
        means.feed.tell("run_state", run=word(run.name), state="running")
        try:
            return engine.play(exchange), exchange
        except RunNotStarted as err:
            final = {site for site, code in refused.items() if code in _FINAL}
            if final & set(wanted.expected) or len(set(wanted.members) - final) < wanted.needed:
                raise
            if time.monotonic() >= deadline_s:
                raise SitesMissing(str(err)) from err
        run.tell("waiting", reason=_waits_for(refused))
        means.feed.tell("run_state", run=word(run.name), state="waiting")
        means.pause(run.name, min(means.pace.retry_s, retry_s))
        retry_s *= 2


def _gathered(run: DeployedRun, wanted: Wanted, means: Means, *, deadline_s: float) -> None:
    """Wait until enough sites are connected, and say for whom."""
    missing = wanted.missing(means.link.connected())
    if missing:
        run.tell("waiting", reason=f"waits for sites to connect: {', '.join(missing)}")
    gather(
        wanted,
        means.link.connected,
        deadline_s=deadline_s,
        settle_s=means.pace.settle_s,
        pause=lambda seconds: means.pause(run.name, seconds),
    )


def _charter_of(run: DeployedRun, means: Means) -> SignedCharter:
    """Read the run's charter, which has to be the one in force.

    Raises:
        DataError: another one is.
    """
    signed, newest = read_charter(run.charter.read_bytes()), means.charter()
    if newest.charter.hash != signed.charter.hash:
        raise DataError(
            str(run.charter),
            found=f"charter {signed.charter.version}, while another (version {newest.charter.version}) is in force",
            expected="the charter that all sites have pinned now",
            remedy="start a new run",
        )
    return signed


def _asked_for(run: DeployedRun) -> _Asked:
    """Read the job without keeping its vectors.

    Raises:
        DataError: it cannot be read.
    """
    job = read_asked(run.job)
    return _Asked(
        base=None if isinstance(job, CanaryJob) else job.base,
        expected_sites=job.expected_sites,
        start_timeout_s=job.start_timeout_s,
        report_timeout_s=job.report_timeout_s,
        check_window=job.check_window,
    )


def _terms(run: DeployedRun, job: _Asked, trust: Trust) -> Terms:
    plan = run.read_plan()
    return Terms(
        plan=plan,
        adapter=lambda: read_adapter(run.start, plan.layout),
        trust=trust,
        report_timeout_s=job.report_timeout_s,
        check_window=job.check_window,
        expected=job.expected_sites,
    )


def _waits_for(refused: Mapping[str, str]) -> str:
    """Say to whoever asked for the run what the sites have answered so far."""
    undecided = [word(site) for site, code in sorted(refused.items()) if code not in _FINAL]
    parts = [f"waits for approval, or the end of a pause, at {', '.join(undecided)}"] if undecided else []
    parts += [f"refused by {word(site)} ({code})" for site, code in sorted(refused.items()) if code in _FINAL]
    return "; ".join(parts) or "waits for more sites to accept the plan"
