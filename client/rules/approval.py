"""A plan is agreed to once: by the site's policy alone, or by a person. The decision is kept on disk.

Covers: an approval is for one plan, by the hash of all of it, from one coordinator; a changed byte is another plan and
    waits anew. What a person decided stands, whatever the policy says later; what the policy decided is decided again
    at the next proposal. A file that was edited is refused. Each decision is whole on disk or not there.
Does not cover: whether a plan lies inside the rules (`consent`), what it costs (`ledger`); who sits at the keyboard.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from partsong.client.rules.consent import Facts, NotAgreed, check_plan
from partsong.client.rules.plan_words import differences
from partsong.client.rules.policy import Approval, Policy
from partsong.common.build import build, to_tree
from partsong.common.errors import ConfigError, DataError, InputError, Refused
from partsong.common.files import write_json
from partsong.common.plan import Plan

State = Literal["pending", "approved", "refused"]

MOST_PENDING = 100
"""Plans that may wait for a person; a coordinator cannot fill the disk with proposals."""
_PLAN = ".plan"
MOST_KEPT = 200
"""Decisions of the policy that are kept; those of people are kept for ever."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What was decided about one plan."""

    plan_sha256: str
    run: str
    purpose: str
    coordinator: str
    """Fingerprint of the key of who proposed it."""
    state: State
    by: Literal["policy", "person"]
    number: int
    """Decisions of a site are counted from 1; a later one has a higher number."""
    time_ms: int
    """Since 1970, for display."""
    rule: str = ""
    """That refused it; empty where none did."""
    reason: str = ""
    """In words, for the site alone."""


class Approvals:
    """The decisions of one site: for each plan one file that says what was decided, and one with the plan itself.

    The second is read only to show a plan: what waits and what was approved is known without it.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Use a folder, which is made with the first decision."""
        self._folder, self._clock = folder, clock

    def submit(self, plan: Plan, *, coordinator: str, approval: Approval) -> Decision:
        """Enter a plan that keeps every rule; say what holds for it now.

        Guarantees: a person's decision about this plan stands.
        Raises:
            NotAgreed: another coordinator proposed this very plan before, or too many plans wait; nothing was kept.
        """
        known = self.get(plan.sha256)
        if known is not None and known.coordinator != coordinator:
            raise NotAgreed("state", "another coordinator proposed this plan before", rule="approval.coordinator")
        wanted: State = "approved" if approval == "auto" else "pending"
        if known is not None and (known.by == "person" or known.state == wanted):
            return known
        if approval == "manual" and sum(d.state == "pending" for d in self.all()) >= MOST_PENDING:
            raise NotAgreed("state", f"{MOST_PENDING} plans wait for a person already", rule="approval.waiting")
        return self._keep(plan, coordinator, state=wanted)

    def reject(self, plan: Plan, *, coordinator: str, rule: str, reason: str) -> None:
        """Keep for the operator that a plan broke a rule; not over the word of a person, nor of another's proposal."""
        known = self.get(plan.sha256)
        if known is None or (known.by, known.coordinator) == ("policy", coordinator):
            self._keep(plan, coordinator, state="refused", rule=rule, reason=reason)

    def decide(self, plan_sha256: str, state: Literal["approved", "refused"], *, reason: str = "") -> Decision:
        """Take a person's word. It may be taken back the same way.

        Raises:
            InputError: no such plan was proposed; nothing was changed.
            Refused: `rule_stands`: the plan breaks a rule of the policy, which no person's word replaces.
        """
        known = self.get(plan_sha256)
        if known is None:
            raise InputError("plan", found=plan_sha256[:12], expected="a plan that was proposed to this site")
        if state == "approved" and (known.state, known.by) == ("refused", "policy"):
            raise Refused(
                "rule_stands",
                reason=f"the plan breaks {known.rule}: {known.reason}",
                remedy="change the policy, then let the coordinator propose the plan again",
            )
        self.plan(plan_sha256)  # a decision about a plan that cannot be shown is none
        return self._record(
            dataclasses.replace(known, state=state, by="person", rule="person" * (state == "refused"), reason=reason)
        )

    def get(self, plan_sha256: str) -> Decision | None:
        """Give what is known of a plan; None for a plan that was never proposed.

        Raises:
            DataError: the file is damaged, or is about another plan.
        """
        file = self._folder / f"{plan_sha256}.json"
        return _read(file) if file.exists() else None

    def plan(self, plan_sha256: str) -> Plan:
        """Give a plan that was proposed, to the last byte.

        Raises:
            DataError: the file is gone or damaged, or is about another plan.
        """
        file = self._folder / f"{plan_sha256}{_PLAN}"
        try:
            found = build(Plan, json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, ConfigError) as err:
            raise _damaged(file) from err
        if found.sha256 != plan_sha256:
            raise _damaged(file)
        return found

    def find(self, start: str) -> Decision:
        """Give the one plan whose hash begins so.

        Raises:
            InputError: none does, or more than one.
        """
        found = [d for d in self.all() if start and d.plan_sha256.startswith(start)]
        if len(found) != 1:
            known = ", ".join(d.plan_sha256[:12] for d in (found or self.all())[:5])
            raise InputError(
                "plan",
                found=f"{len(found)} plans whose hash begins with {start[:64]!r}",
                expected="exactly one",
                remedy=f"there are {known}" if known else "no plan was proposed to this site yet",
            )
        return found[0]

    def all(self) -> tuple[Decision, ...]:
        """Give all decisions, the oldest first."""
        files = self._folder.glob("*.json") if self._folder.is_dir() else ()
        return tuple(sorted(map(_read, files), key=lambda d: (d.number, d.plan_sha256)))

    def last_approved(self, purpose: str, *, besides: str = "") -> Decision | None:
        """Give the newest approved job of a purpose, other than the plan of this hash."""
        found = [d for d in self.all() if d.state == "approved" and d.purpose == purpose]
        return next((d for d in reversed(found) if d.plan_sha256 != besides), None)

    def changes(self, decision: Decision) -> tuple[str, ...]:
        """Say what is different from the last approved job before this one."""
        last = self.last_approved(decision.purpose, besides=decision.plan_sha256)
        before = None if last is None else self.plan(last.plan_sha256)
        lines = differences(self.plan(decision.plan_sha256), before)
        if last is not None and last.coordinator != decision.coordinator:
            return (f"another coordinator: {last.coordinator[:16]} -> {decision.coordinator[:16]}", *lines)
        return lines

    def _keep(self, plan: Plan, coordinator: str, *, state: State, rule: str = "", reason: str = "") -> Decision:
        """Record what the policy says of a plan, the plan first: a decision never stands alone."""
        write_json(self._folder / f"{plan.sha256}{_PLAN}", to_tree(plan))
        made = Decision(
            plan_sha256=plan.sha256,
            run=plan.run,
            purpose=plan.study,
            coordinator=coordinator,
            state=state,
            by="policy",
            number=0,
            time_ms=0,
            rule=rule,
            reason=reason,
        )
        return self._record(made)

    def _record(self, decision: Decision) -> Decision:
        earlier = self.all()
        number = max((d.number for d in earlier), default=0) + 1
        made = dataclasses.replace(decision, number=number, time_ms=int(self._clock() * 1000))
        write_json(self._folder / f"{made.plan_sha256}.json", to_tree(made))
        self._forget([d for d in earlier if d.plan_sha256 != made.plan_sha256])
        return made

    def _forget(self, earlier: list[Decision]) -> None:
        """Drop the oldest decisions of the policy; not what waits, and not the last approved."""
        last = {d.purpose: d.plan_sha256 for d in earlier if d.state == "approved"}
        loose = [d for d in earlier if d.by == "policy" and d.state != "pending"]
        for decision in loose[: max(0, len(loose) - MOST_KEPT)]:
            if decision.plan_sha256 not in last.values():
                (self._folder / f"{decision.plan_sha256}.json").unlink(missing_ok=True)
                (self._folder / f"{decision.plan_sha256}{_PLAN}").unlink(missing_ok=True)


def _read(file: Path) -> Decision:
    try:
        found = build(Decision, json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, ConfigError) as err:
        raise _damaged(file) from err
    if found.plan_sha256 != file.stem:
        raise _damaged(file)
    return found


def consider(
    plan: Plan,
    *,
    coordinator: str,
    policy: Policy,
    facts: Facts,
    approvals: Approvals,
    affordable: Callable[[Plan], None] = lambda _plan: None,
) -> Decision:
    """Answer a proposal: every rule first, then the budget, then the word of a person.

    Args:
        plan: what the coordinator proposes.
        coordinator: fingerprint of its key.
        policy: the rules in force.
        facts: what the site knows of itself.
        approvals: decisions so far.
        affordable: raises `NotAgreed` where the whole plan would exceed the budget; see `Ledger.quote`.
    Returns:
        The approval.
    Raises:
        NotAgreed: a rule is broken, or a person refused the plan or has not decided yet; nothing was read. The
            operator finds the plan, its rule and what is new about it among the decisions.
    """
    try:
        check_plan(plan, policy.rules, facts)
        known = approvals.get(plan.sha256)
        # A run that goes on after a restart has spent a part of its plan already; its queries are each checked.
        if known is None or known.state != "approved":
            affordable(plan)
    except NotAgreed as no:
        approvals.reject(plan, coordinator=coordinator, rule=no.rule, reason=no.reason)
        raise
    decision = approvals.submit(plan, coordinator=coordinator, approval=policy.approval(plan.study))
    require_approved(decision)
    return decision


def require_approved(decision: Decision | None) -> None:
    """Let a plan pass that is approved now. Asked before each query: an approval may be taken back.

    Raises:
        NotAgreed: it waits (`state`: ask again later), or was refused (`policy`).
    """
    if decision is None or decision.state == "pending":
        raise NotAgreed("state", "the plan waits for a person to approve it", rule="approval")
    if decision.state == "refused":
        raise NotAgreed("policy", decision.reason or "a person refused the plan", rule=decision.rule)


def _damaged(file: Path) -> DataError:
    return DataError(
        f"{file.parent.name}/{file.name[:20]}",
        found="a decision that does not hold together",
        expected="the file as it was written",
        remedy="remove it; the plan then has to be proposed and approved again",
    )
