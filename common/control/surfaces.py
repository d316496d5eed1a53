"""What a daemon answers on its own machine, in plain values: the two daemons implement it, server.py carries it.

Every method may be called from any thread and answers without waiting for training or for the network. What a caller
did wrong is an `InputError`, what a rule forbids a `Refused`, a passing shortage `TryAgain`; the caller gets the same
error. Any other exception reaches the caller as its type's name alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from partsong.common.control.feed import Feed

DaemonState = Literal["starting", "running", "paused", "stopping"]
Decision = Literal["pending", "approved", "refused"]
RunState = Literal["waiting", "running", "stopped", "finished", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One condition of being ready."""

    name: str
    """Of a site: `registered`, `charter`, `policy`, `data`. Of a coordinator: `port`, `charter`."""
    ok: bool
    reason: str = ""
    """Why not, with what to do; shown on /readyz too, so no path and no count of records."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Charter:
    """Which charter holds. Version 0: none yet."""

    version: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where a site stands in one plan, or a coordinator in one run."""

    round: int
    """1 to `rounds`; 0 before the first."""
    rounds: int
    phase: str
    """Such as `training`, `window`, `roster`, `confirm`; empty between rounds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteStatus:
    """What `partsong site status` shows."""

    site: str
    consortium: str
    coordinator: str
    """host:port."""
    version: str
    """Of this package."""
    state: DaemonState
    connected: bool
    """Whether the coordinator answered the last heartbeat."""
    since_ms: int
    """When the daemon started, since 1970."""
    charter: Charter
    checks: tuple[Check, ...]
    plans_pending: int
    capsules: tuple[str, ...] = ()
    """Ids of the newest failure capsules kept here."""

    @property
    def ready(self) -> bool:
        """Whether every condition is met."""
        return all(check.ok for check in self.checks)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanStatus:
    """One plan at a site."""

    plan: str
    """SHA-256."""
    run: str
    purpose: str
    decision: Decision
    by: Literal["policy", "person"]
    rule: str = ""
    """That refused it."""
    standing: Standing | None = None
    """None: no query of it was taken yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldingStatus:
    """What one holding has spent."""

    name: str
    epsilon: float
    delta: float
    ceiling: float | None
    """Lifetime epsilon; None: no ceiling."""
    queries: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerStatus:
    """The ledger in short; `partsong site ledger show` reads it whole."""

    holdings: tuple[HoldingStatus, ...]
    outstanding: int
    """Queries in doubt, which count as spent."""
    head: str
    """`NUMBER:DIGEST`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CoordinatorStatus:
    """What `partsong coordinator status` shows."""

    consortium: str
    version: str
    """Of this package."""
    state: DaemonState
    port: int
    since_ms: int
    """When the daemon started, since 1970."""
    charter: Charter
    checks: tuple[Check, ...]
    connected: tuple[str, ...]
    """Sites whose heartbeat is fresh."""
    members: tuple[str, ...]
    """Sites of the charter."""

    @property
    def ready(self) -> bool:
        """Whether every condition is met."""
        return all(check.ok for check in self.checks)


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteInRun:
    """How one site fared in a run."""

    site: str
    state: str
    """A word, such as `reported`, `lost`, `refused`, `missing`."""
    rounds: int
    """Sums that it is in."""
    code: str = ""
    """Refusal code or the rule of a released capsule."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """One run at a coordinator."""

    run: str
    """Name of its folder."""
    study: str
    state: RunState
    standing: Standing
    sites: tuple[SiteInRun, ...]
    reason: str = ""
    """Why it stopped or failed, in the words of our own error."""


class SiteControl(Protocol):
    """What a site's daemon offers."""

    @property
    def feed(self) -> Feed:
        """Where progress is told; closed when the daemon stops."""
        ...

    def status(self) -> SiteStatus:
        """Say where the daemon stands."""
        ...

    def plans(self) -> tuple[PlanStatus, ...]:
        """List every plan that was proposed, the newest last."""
        ...

    def approve(self, plan: str) -> PlanStatus:
        """Accept a plan, by its SHA-256 or the beginning of it."""
        ...

    def refuse(self, plan: str, *, reason: str) -> PlanStatus:
        """Refuse a plan, or take an approval back. The reason stays at the site."""
        ...

    def pause(self) -> SiteStatus:
        """Take no new query until `resume`; what is being answered is finished. Survives a restart."""
        ...

    def resume(self) -> SiteStatus:
        """Take queries again."""
        ...

    def ledger(self) -> LedgerStatus:
        """Say what was spent."""
        ...


class CoordinatorControl(Protocol):
    """What a coordinator's daemon offers."""

    @property
    def feed(self) -> Feed:
        """Where progress is told; closed when the daemon stops."""
        ...

    def status(self) -> CoordinatorStatus:
        """Say where the daemon stands."""
        ...

    def runs(self) -> tuple[RunStatus, ...]:
        """List every run, the newest last."""
        ...

    def run(self, job: Path) -> RunStatus:
        """Begin the job in a folder; it must be absolute, and readable by the daemon."""
        ...

    def stop(self, run: str) -> RunStatus:
        """End a run after the round that is under way; its checkpoint stays."""
        ...

    def resume(self, run: str) -> RunStatus:
        """Go on with a run from its checkpoint."""
        ...
