"""What a daemon tells Prometheus: its state when it is asked, and counts of what has happened since it started.

    partsong_ready 1.0
    partsong_epsilon_spent{holding="cardiology"} 2.25
    partsong_rounds_total{outcome="summed"} 7.0

Covers: only the metrics of this file; labels are names of sites, runs and holdings, and words of closed lists. No text
    of a record, no count of records, no site's own loss, no path. What is counted comes from the facts of
    `common.facts`.
Does not cover: who reads it. Like /readyz it is answered to every user of this machine, and a site's epsilon stands in
    it; so it is off until `metrics` is set. Epsilon is rounded up to hundredths: its last digits depend on how many
    records a site has.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

from partsong.common.control.feed import ProgressEvent
from partsong.common.control.surfaces import (
    CoordinatorControl,
    CoordinatorStatus,
    LedgerStatus,
    RunStatus,
    SiteControl,
    SiteStatus,
)
from partsong.common.errors import InputError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ROUND_S = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
"""Limits of the histogram of rounds: an empty one takes a second, one through a night's window some hours."""
_OUTCOMES = {"round_summed": "summed", "round_abandoned": "abandoned"}
_LOOK_S = 1.0
_CENT = 100

Control = SiteControl | CoordinatorControl
Values = list[tuple[tuple[str, ...], float]]
Family = tuple[str, str, tuple[str, ...], Values]
"""Name, help, names of the labels, and a value for each of their values."""


@contextlib.contextmanager
def measuring(control: Control) -> Iterator[Callable[[], bytes]]:
    """Count what the daemon tells while this holds; give what writes all metrics in Prometheus' text format.

    Raises:
        InputError: the extra `metrics` is not installed; nothing was opened.
    """
    try:
        import prometheus_client as prometheus  # noqa: PLC0415 - an extra
    except ImportError as err:
        raise InputError(
            "metrics", found="no prometheus_client", expected="it", remedy="pip install 'partsong[metrics]'"
        ) from err
    registry = prometheus.CollectorRegistry()
    registry.register(_State(control))
    counts = _Counts(prometheus, registry)
    watcher = control.feed.watch()

    def count() -> None:
        while not watcher.ended:
            if (event := watcher.next(timeout_s=_LOOK_S)) is not None:
                counts.take(event)

    reader = threading.Thread(target=count, name="metrics", daemon=True)
    with watcher:
        reader.start()
        try:
            yield lambda: bytes(prometheus.generate_latest(registry))
        finally:
            watcher.end()
            reader.join()


class _Counts:
    """Counts events."""

    def __init__(self, prometheus: Any, registry: Any) -> None:
        def counter(name: str, text: str, *labels: str) -> Any:
            return prometheus.Counter(f"partsong_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Any:
            return prometheus.Gauge(f"partsong_{name}", text, labels, registry=registry)

        self._events = counter("events", "What happened, by name.", "event")
        self._rounds = counter("rounds", "Rounds that ended.", "outcome")
        self._bytes = counter("update_bytes", "Bytes of sealed vectors that arrived.", "site")
        self._lost = counter("sites_lost", "Times that a site was not in a sum.", "site")
        self._refused = counter("refusals", "Refusals, by their public code.", "code")
        self._took = prometheus.Histogram(
            "partsong_round_duration_seconds", "From query to sum.", buckets=ROUND_S, registry=registry
        )
        self._loss = gauge("run_loss", "Released loss of the last sum, noised under privacy.", "run")
        self._epsilon = gauge("run_epsilon", "Spent at each site by this run, at most.", "run")
        self._opened_ms: dict[object, int] = {}

    def take(self, event: ProgressEvent) -> None:
        """Count an event."""
        facts, name = event.facts, event.event
        self._events.labels(name).inc()
        if name == "round_opened":
            self._opened_ms[facts.get("run")] = event.time_ms
        if name in _OUTCOMES:
            self._rounds.labels(_OUTCOMES[name]).inc()
            began_ms = self._opened_ms.pop(facts.get("run"), None)
            if began_ms is not None and name == "round_summed":
                self._took.observe(max(0.0, (event.time_ms - began_ms) / 1000))
        if name == "site_reported":
            self._bytes.labels(facts["site"]).inc(float(facts["bytes_out"]))
        if name == "site_lost":
            self._lost.labels(facts["site"]).inc()
        if name in {"site_refused", "refused"}:
            self._refused.labels(facts["code"]).inc()
        if name == "round_summed":
            for gauge, fact in ((self._loss, "loss"), (self._epsilon, "epsilon")):
                if fact in facts:
                    gauge.labels(facts["run"]).set(float(facts[fact]))


class _State:
    """Asks the daemon when it is scraped. A daemon that cannot answer is not ready, and the rest is left out."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def collect(self) -> Iterator[Any]:
        """Give the families, as a collector of prometheus_client does."""
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 - an extra

        for name, text, labels, values in self._families():
            family = GaugeMetricFamily(f"partsong_{name}", text, labels=labels)
            for names, value in values:
                family.add_metric(names, value)
            yield family

    def _families(self) -> list[Family]:
        try:
            status = self._control.status()
            families = _of_site if isinstance(status, SiteStatus) else _of_coordinator
            more = families(self._control, status)
        except Exception:  # noqa: BLE001 - why is in the daemon's log, and not for whoever asks here
            return [_one("ready", "Whether every condition is met.", 0)]
        checks: Values = [((check.name,), float(check.ok)) for check in status.checks]
        return [
            _one("ready", "Whether every condition is met.", status.ready),
            ("check_ok", "Conditions of being ready.", ("check",), checks),
            ("info", "Version and state.", ("version", "state"), [((status.version, status.state), 1.0)]),
            _one("start_time_seconds", "When the daemon started, since 1970.", status.since_ms / 1000),
            _one("charter_version", "Of the charter that holds; 0: none.", status.charter.version),
            *more,
        ]


def _of_coordinator(control: Any, status: Any) -> list[Family]:
    found: CoordinatorStatus = status
    runs: tuple[RunStatus, ...] = control.runs()
    states = [run.state for run in runs]
    return [
        _one("sites_connected", "Sites whose heartbeat is fresh.", len(found.connected)),
        _one("sites_members", "Sites of the charter.", len(found.members)),
        ("runs", "Runs by state.", ("state",), [((s,), float(states.count(s))) for s in sorted(set(states))]),
        ("run_round", "Round that a run is in.", ("run",), [((r.run,), float(r.standing.round)) for r in runs]),
        ("run_rounds", "Rounds of a run.", ("run",), [((r.run,), float(r.standing.rounds)) for r in runs]),
    ]


def _of_site(control: Any, status: Any) -> list[Family]:
    found: SiteStatus = status
    ledger: LedgerStatus = control.ledger()
    return [
        _one("connected", "Whether the coordinator answered the last heartbeat.", found.connected),
        _one("plans_pending", "Plans that wait for a person.", found.plans_pending),
        _one("failure_capsules", "Failure capsules kept here, the newest ones.", len(found.capsules)),
        _one("queries_outstanding", "Queries in doubt, which count as spent.", ledger.outstanding),
        _by_holding("epsilon_spent", "Spent of a holding, rounded up.", ledger, lambda h: h.epsilon),
        _by_holding("epsilon_ceiling", "Most that may be spent of a holding.", ledger, lambda h: h.ceiling),
        _by_holding("queries", "Queries that a holding has paid for.", ledger, lambda h: h.queries),
    ]


def _by_holding(name: str, text: str, ledger: LedgerStatus, value: Callable[[Any], float | None]) -> Family:
    found = ((holding.name, value(holding)) for holding in ledger.holdings)
    return name, text, ("holding",), [((who,), _rounded_up(v)) for who, v in found if v is not None]


def _one(name: str, text: str, value: float) -> Family:
    return name, text, (), [((), float(value))]


def _rounded_up(value: float) -> float:
    return math.ceil(value * _CENT) / _CENT
