"""Two daemons that only answer: what they hold is given to them."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from partsong.common.control.feed import Feed
from partsong.common.control.surfaces import (
    Charter,
    Check,
    CoordinatorStatus,
    HoldingStatus,
    LedgerStatus,
    PlanStatus,
    RunStatus,
    SiteInRun,
    SiteStatus,
    Standing,
)
from partsong.common.errors import InputError

PLAN = "ab" * 32
SITE = SiteStatus(
    site="nord-\u00f8",
    consortium="five wards",
    coordinator="[::1]:7443",
    version="0.1.0",
    state="running",
    connected=True,
    since_ms=1_700_000_000_000,
    charter=Charter(version=2, sha256="cd" * 32),
    checks=(Check(name="registered", ok=True), Check(name="data", ok=True)),
    plans_pending=1,
    capsules=("c1",),
)
COORDINATOR = CoordinatorStatus(
    consortium="five wards",
    version="0.1.0",
    state="starting",
    port=7443,
    since_ms=0,
    charter=Charter(version=0, sha256=""),
    checks=(Check(name="charter", ok=False, reason="no charter is signed by all sites"),),
    connected=(),
    members=("north", "south"),
)
PLANS = (
    PlanStatus(plan=PLAN, run="run 1", purpose="train", decision="pending", by="policy"),
    PlanStatus(
        plan="ef" * 32,
        run="run 2",
        purpose="train",
        decision="refused",
        by="person",
        rule="person",
        standing=Standing(round=0, rounds=5, phase=""),
    ),
)
LEDGER = LedgerStatus(
    holdings=(
        HoldingStatus(name="records", epsilon=0.0, delta=1e-6, ceiling=None, queries=0),
        HoldingStatus(name="other", epsilon=1.25, delta=1e-6, ceiling=8.0, queries=7),
    ),
    outstanding=0,
    head="3:" + "0" * 64,
)
RUN = RunStatus(
    run="study-1",
    study="study",
    state="failed",
    standing=Standing(round=2, rounds=5, phase="confirm"),
    sites=(SiteInRun(site="north", state="missing", rounds=1, code="policy"),),
    reason="round 2: two sites answered, three needed",
)


@dataclass
class QuietSite:
    """Answers from its fields."""

    feed: Feed = field(default_factory=Feed)
    now: SiteStatus = SITE
    known: tuple[PlanStatus, ...] = PLANS
    spent: LedgerStatus = LEDGER
    reasons: list[str] = field(default_factory=list)
    failing: Callable[[], Exception] | None = None
    slow: threading.Event | None = None

    def status(self) -> SiteStatus:
        return self.now

    def plans(self) -> tuple[PlanStatus, ...]:
        if self.failing is not None:
            raise self.failing()
        return self.known

    def approve(self, plan: str) -> PlanStatus:
        found = [p for p in self.known if p.plan.startswith(plan)]
        if len(found) != 1:
            raise InputError("plan", found=plan[:12], expected="one plan", remedy="see plans")
        return replace(found[0], decision="approved", by="person")

    def refuse(self, plan: str, *, reason: str) -> PlanStatus:
        self.reasons.append(reason)
        return replace(self.approve(plan), decision="refused", rule="person")

    def pause(self) -> SiteStatus:
        self.now = replace(self.now, state="paused")
        return self.now

    def resume(self) -> SiteStatus:
        self.now = replace(self.now, state="running")
        return self.now

    def ledger(self) -> LedgerStatus:
        if self.slow is not None:
            self.slow.wait(30)
        return self.spent


@dataclass
class QuietCoordinator:
    """Answers from its fields."""

    feed: Feed = field(default_factory=Feed)
    jobs: list[Path] = field(default_factory=list)

    def status(self) -> CoordinatorStatus:
        return COORDINATOR

    def runs(self) -> tuple[RunStatus, ...]:
        return (RUN,)

    def run(self, job: Path) -> RunStatus:
        self.jobs.append(job)
        return replace(RUN, state="waiting", reason="")

    def stop(self, run: str) -> RunStatus:
        return replace(RUN, run=run, state="stopped")

    def resume(self, run: str) -> RunStatus:
        return replace(RUN, run=run, state="running")
