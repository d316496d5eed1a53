"""Who agrees to a plan at a site: its policy and, where that says so, a person; or, in tests, a set of rules alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from partsong.client.rules.approval import Approvals, consider, require_approved
from partsong.client.rules.consent import Facts, Rules, check_plan, public_refusal
from partsong.client.rules.policy import Policy
from partsong.common.errors import Refused
from partsong.common.plan import Plan

Afford = Callable[[Plan], None]
"""Raises `Refused` where the budget has no room for a whole plan."""


class Consent(Protocol):
    """A site's word on plans."""

    def agree(self, plan: Plan, facts: Facts, *, afford: Afford) -> None:
        """Accept a plan by returning.

        Raises:
            NotAgreed: a rule or a person refuses it, or a person has not decided yet; nothing was read.
        """
        ...

    def require(self, plan: Plan) -> None:
        """Check before each query that the plan is still accepted.

        Raises:
            NotAgreed: it is not; nothing was read.
        """
        ...


class ByRules:
    """Rules and budget, nobody's word."""

    def __init__(self, rules: Rules) -> None:
        """Agree to whatever keeps `rules`."""
        self._rules = rules

    def agree(self, plan: Plan, facts: Facts, *, afford: Afford) -> None:  # noqa: ARG002 - each query is checked
        """Check the rules."""
        check_plan(plan, self._rules, facts)

    def require(self, plan: Plan) -> None:
        """Rules do not change within a process."""


class ByPolicy:
    """The site's policy, and the word of a person where it asks for one."""

    def __init__(self, policy: Policy, approvals: Approvals, *, coordinator: str) -> None:
        """Decide about one coordinator's plans.

        Args:
            policy: in force.
            approvals: decisions so far, on disk.
            coordinator: fingerprint of its key.
        """
        self._policy, self._approvals, self._coordinator = policy, approvals, coordinator

    def agree(self, plan: Plan, facts: Facts, *, afford: Afford) -> None:
        """Rules first, then the budget for the whole plan, then the word of a person."""

        def affordable(whole: Plan) -> None:
            try:
                afford(whole)
            except Refused as no:
                raise public_refusal(no) from no

        consider(
            plan,
            coordinator=self._coordinator,
            policy=self._policy,
            facts=facts,
            approvals=self._approvals,
            affordable=affordable,
        )

    def require(self, plan: Plan) -> None:
        """Look at the decision again: an operator may have withdrawn it."""
        require_approved(self._approvals.get(plan.sha256))
