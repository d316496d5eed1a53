"""A site's daemon as its operator sees it: `SiteControl` of `partsong.common.control.surfaces`.

Covers: every method may be called from any thread and waits neither for training nor for the network.
Does not cover: who may call (the socket's business).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import partsong
from partsong.client.budget.books import spend
from partsong.client.budget.ledger import Ledger
from partsong.client.daemon.daemon import SiteDaemon
from partsong.client.daemon.plan_folder import PlanFolder
from partsong.client.home.layout import SiteHome
from partsong.client.link.questions import Told
from partsong.client.rules.approval import Decision
from partsong.client.rules.policy_file import read_policy
from partsong.common.control.feed import Feed
from partsong.common.control.surfaces import (
    Charter,
    Check,
    DaemonState,
    HoldingStatus,
    LedgerStatus,
    PlanStatus,
    SiteStatus,
)
from partsong.common.errors import InputError, PartsongError
from partsong.common.facts import word

_UP, _DOWN = ("connected", "resumed"), ("unreachable", "refused")
_VERSION = re.compile(r"([1-9][0-9]{0,8})\.json")


class Link:
    """What the connection tells; give `heard` to it."""

    def __init__(self, feed: Feed) -> None:
        """Not connected yet."""
        self._feed = feed
        self.is_up, self.was_up = False, False

    def heard(self, told: Told) -> None:
        """Take note of what happened on the connection, and tell those who watch whether the coordinator answers."""
        if told.what in _UP:
            self.is_up = self.was_up = True
            self._feed.tell("connected")
        elif told.what in _DOWN:
            self.is_up = False
            self._feed.tell(told.what, wait_s=told.wait_s)
        elif told.what == "dropped":
            self._feed.tell("dropped", rule=word(told.rule or "late"))


class DaemonControl:
    """Answers the operator."""

    def __init__(
        self,
        daemon: SiteDaemon,
        *,
        home: SiteHome,
        ledger: Ledger,
        feed: Feed,
        link: Link,
        capsules: Callable[[], tuple[str, ...]] = lambda: (),
    ) -> None:
        """Speak for a daemon.

        Args:
            daemon: at work.
            home: its directory.
            ledger: of the site.
            feed: where progress is told.
            link: what the connection tells.
            capsules: names the newest failure capsules.
        """
        self._daemon, self._home, self._ledger = daemon, home, ledger
        self._feed, self._link, self._capsules = feed, link, capsules
        self._since_ms = daemon.now_ms

    @property
    def feed(self) -> Feed:
        """Where progress is told."""
        return self._feed

    def status(self) -> SiteStatus:
        """Say where the daemon stands."""
        site = self._daemon.site
        charter = Charter(version=site.charter.version, sha256=site.charter.hash.hex())
        pending = sum(decision.state == "pending" for decision in self._daemon.approvals.all())
        return SiteStatus(
            site=site.config.name,
            consortium=site.charter.consortium,
            coordinator=site.config.coordinator,
            version=partsong.__version__,
            state=self._state(),
            connected=self._link.is_up,
            since_ms=self._since_ms,
            charter=charter,
            checks=self.checks(),
            plans_pending=pending,
            capsules=self._capsules(),
        )

    def checks(self) -> tuple[Check, ...]:
        """Look at each condition of being ready."""
        return (
            Check(name="registered", ok=self._link.was_up, reason="" if self._link.was_up else _NOT_REGISTERED),
            _check("charter", self._require_current_charter),
            _check("policy", self._require_current_policy),
            _check("data", self._daemon.works.check_readable),
        )

    def plans(self) -> tuple[PlanStatus, ...]:
        """List every plan that was proposed, the newest last."""
        return tuple(map(self._plan, self._daemon.approvals.all()))

    def approve(self, plan: str) -> PlanStatus:
        """Accept a plan; the coordinator finds it accepted when it proposes it again.

        Raises:
            InputError: no such plan, or more than one.
            Refused: `rule_stands`: the plan breaks a rule of the policy.
        """
        approvals = self._daemon.approvals
        decision = approvals.decide(approvals.find(plan).plan_sha256, "approved")
        return self._told(decision)

    def refuse(self, plan: str, *, reason: str) -> PlanStatus:
        """Refuse a plan, or take an approval back; the next query finds it refused.

        Raises:
            InputError: no such plan, or more than one.
        """
        approvals = self._daemon.approvals
        decision = approvals.decide(approvals.find(plan).plan_sha256, "refused", reason=reason)
        return self._told(decision)

    def pause(self) -> SiteStatus:
        """Take no new work until `resume`."""
        self._daemon.part.pause(now_ms=self._daemon.now_ms)
        self._feed.tell("paused")
        return self.status()

    def resume(self) -> SiteStatus:
        """Take new work again."""
        self._daemon.part.resume(now_ms=self._daemon.now_ms)
        self._feed.tell("resumed")
        return self.status()

    def ledger(self) -> LedgerStatus:
        """Say what was spent.

        Raises:
            Refused: the ledger does not add up.
        """
        head = self._ledger.head
        return LedgerStatus(
            holdings=tuple(map(self._holding, self._ledger.holdings())),
            outstanding=len(self._ledger.outstanding()),
            head=f"{head.number}:{head.digest}",
        )

    def _holding(self, name: str) -> HoldingStatus:
        holding = self._ledger.holding(name)
        return HoldingStatus(
            name=name,
            epsilon=spend(holding.claims.values(), delta=holding.delta).epsilon,
            delta=holding.delta,
            ceiling=holding.ceiling,
            queries=len(holding.claims),
        )

    def _state(self) -> DaemonState:
        if self._daemon.stop.is_set():
            return "stopping"
        if self._daemon.part.now().state == "paused":
            return "paused"
        return "running" if self._link.was_up else "starting"

    def _told(self, decision: Decision) -> PlanStatus:
        self._feed.tell("decided", plan=decision.plan_sha256, state=decision.state)
        return self._plan(decision)

    def _plan(self, decision: Decision) -> PlanStatus:
        journal = PlanFolder(self._home.plans, decision.plan_sha256).journal
        rounds = self._daemon.approvals.plan(decision.plan_sha256).rounds
        return PlanStatus(
            plan=decision.plan_sha256,
            run=decision.run,
            purpose=decision.purpose,
            decision=decision.state,
            by=decision.by,
            rule=decision.rule,
            standing=self._daemon.board.standing(decision.plan_sha256, rounds=rounds, journal=journal),
        )

    def _require_current_charter(self) -> None:
        """A charter that was pinned since the start holds after the next one."""
        if _newest(self._home.charters) > self._daemon.site.charter.version:
            raise InputError("charters", found="a newer one", expected="the charter in force", remedy="restart")

    def _require_current_policy(self) -> None:
        if read_policy(self._home.policy) != self._daemon.site.policy:
            raise InputError("policy.yaml", found="other rules", expected="the rules in force", remedy="restart")


_NOT_REGISTERED = "the coordinator has not answered yet; see `partsong doctor`"


def _check(name: str, require: Callable[[], None]) -> Check:
    """Turn an error into a reason: its remedy and what was expected; never a path or what was found in a file."""
    try:
        require()
    except InputError as err:
        return Check(name=name, ok=False, reason=f"expected {err.expected}; {err.remedy or 'look at the log'}")
    except PartsongError as err:
        return Check(name=name, ok=False, reason=type(err).__name__)
    return Check(name=name, ok=True)


def _newest(folder: Path) -> int:
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return max((int(found[1]) for found in map(_VERSION.fullmatch, names) if found), default=0)
