"""The claim, what speaks against it, and what is left of it.

The error that is allowed, one minus the confidence, is split evenly over `TESTS`, so that a sound engine fails with at
most that probability whatever the tests have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from partsong.common.plan import Plan
from partsong.common.privacy.accounting import StepEvents, epsilon, neighbours
from partsong.common.privacy.terms import DpPlan
from partsong.simulations.audit.estimators import (
    F_DP_SHARES,
    ONE_RUN_SHARES,
    Guesses,
    f_dp_any,
    largest_rejected,
    one_run_bound,
    several,
)
from partsong.simulations.audit.rehearsal import Watched
from partsong.simulations.audit.statistics import Noise, chance_at_least
from partsong.simulations.audit.steps import StepFindings
from partsong.simulations.audit.tradeoff import approximate, of_events

TESTS = ("single steps", "one run", "one run, f-DP", "noise of the engine", "noise of the loop", "sampling rate")
ONE_RUN_DELTA = 0.01
"""Of the one-run test's error, at most this is its delta: the theorem adds some 4 delta to every chance, so that at
the delta of a claim it often could reject nothing. A claim holds at all deltas, each with its epsilon."""
MOST_MU = 4.0
"""Of one step, 1 / noise multiplier: beyond it a step tells everything, and no larger bound is looked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What is promised to each record."""

    planned: float
    """Epsilon of the plan."""
    recorded: float
    """Epsilon of what the engine's accountant recorded, for as many steps as the plan has."""
    delta: float
    unit: str
    relation: str

    @property
    def epsilon(self) -> float:
        """The smaller promise: a plan and a ledger are both read as one."""
        return min(self.planned, self.recorded)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """A lower bound on epsilon."""

    name: str
    epsilon: float
    claim: float
    """Epsilon that is claimed at this delta."""
    delta: float
    failed: bool
    """Whether it is above the claim."""
    seen: str
    assumes: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One ingredient of the claim, measured."""

    name: str
    promised: float
    bound: float
    """Confidence bound on the side that would help the engine."""
    failed: bool
    seen: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """All tests of one claim."""

    claim: Claim
    confidence: float
    bounds: tuple[Bound, ...]
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the tests that contradict the claim."""
        tests: tuple[Bound | Check, ...] = (*self.bounds, *self.checks)
        return tuple(test.name for test in tests if test.failed)


def claim_of(plan: Plan, dp: DpPlan, steps: StepFindings, *, delta: float) -> Claim:
    """State the claim of a plan at a delta, by its own figures and by those that the engine recorded."""
    recorded = []
    for event in steps.recorded:
        count = int(event.steps * plan.steps / steps.releases + 1e-9)
        if count:
            noise = event.noise_multiplier
            recorded.append(
                StepEvents(sampling_rate=dp.sampling_rate, noise_multiplier=noise, steps=count, unit=dp.unit)
            )
    return Claim(
        planned=epsilon([planned_steps(plan, dp)], delta=delta).epsilon,
        recorded=epsilon(recorded, delta=delta).epsilon,
        delta=delta,
        unit=dp.unit,
        relation=neighbours(dp.unit),
    )


def planned_steps(plan: Plan, dp: DpPlan) -> StepEvents:
    """Give the accounting event of a plan."""
    return dp.events(steps=plan.steps, size=plan.layout.size(trained=True))


def judge(plan: Plan, dp: DpPlan, *, steps: StepFindings, watched: Watched, noise: Noise, confidence: float) -> Verdict:
    """Hold what was seen against the claim.

    Guarantees: an engine and a training loop that keep the claim fail with probability at most 1 - `confidence`.
    Args:
        plan: what was rehearsed.
        dp: its privacy terms.
        steps: from the engine, one canary a step.
        watched: from the training loop.
        noise: from the training loop on blanks.
        confidence: (0, 1).
    """
    alpha = (1 - confidence) / len(TESTS)
    claim = claim_of(plan, dp, steps, delta=dp.delta)
    sharper = claim_of(plan, dp, steps, delta=min(dp.delta, ONE_RUN_DELTA * alpha))
    bounds = (
        _single_steps(plan, dp, claim, steps, alpha=alpha),
        _one_run(sharper, watched, alpha=alpha),
        _one_run_f_dp(plan, dp, claim, watched, alpha=alpha),
    )
    checks = (
        _noise("noise of the engine", steps.noise, alpha=alpha),
        _noise("noise of the loop", noise, alpha=alpha),
        _rate(dp, watched, alpha=alpha),
        _record(steps),
        _length(plan, watched),
    )
    return Verdict(claim=claim, confidence=confidence, bounds=bounds, checks=checks)


def _single_steps(plan: Plan, dp: DpPlan, claim: Claim, steps: StepFindings, *, alpha: float) -> Bound:
    mu = steps.leak_at_least(alpha=alpha)
    value = _composed(plan, dp, mu)
    return Bound(
        name="single steps",
        epsilon=value,
        claim=claim.epsilon,
        delta=claim.delta,
        failed=value > claim.epsilon,
        seen=f"{steps.right} of {steps.trials} coins guessed right",
        assumes="the sampling rate and number of steps of the plan, composed by the accountant",
    )


def _one_run(claim: Claim, watched: Watched, *, alpha: float) -> Bound:
    found = several(watched.score_M, watched.included_M, shares=ONE_RUN_SHARES)
    value = one_run_bound(found, delta=claim.delta, alpha=alpha)
    return Bound(
        name="one run",
        epsilon=value,
        claim=claim.epsilon,
        delta=claim.delta,
        failed=value > claim.epsilon,
        seen=_told(found),
        assumes="nothing but the coins",
    )


def _one_run_f_dp(plan: Plan, dp: DpPlan, claim: Claim, watched: Watched, *, alpha: float) -> Bound:
    """Reject whole curves of the plan's kind, the claim's own among them."""
    found = several(watched.score_M, watched.included_M, shares=F_DP_SHARES)

    def rejected(mu: float) -> bool:
        curve = approximate(0.0, 0.0) if mu == 0 else of_events([_steps_of(plan, dp, mu)])
        return f_dp_any(found, curve=curve, alpha=alpha)

    mu = largest_rejected(rejected, most=MOST_MU)
    value = _composed(plan, dp, mu)
    return Bound(
        name="one run, f-DP",
        epsilon=value,
        claim=claim.epsilon,
        delta=claim.delta,
        failed=value > claim.epsilon,
        seen=_told(found),
        assumes="nothing but the coins to reject the claim; the figure takes the curve to be of the plan's kind",
    )


def _noise(name: str, noise: Noise, *, alpha: float) -> Check:
    bound = noise.at_most(alpha=alpha)
    return Check(
        name=name,
        promised=1.0,
        bound=bound,
        failed=bound < 1.0,
        seen=f"{noise.count} values; deviation / promised deviation at most this, if they are normal",
    )


def _rate(dp: DpPlan, watched: Watched, *, alpha: float) -> Check:
    bound = chance_at_least(successes=watched.draws, trials=watched.chances, alpha=alpha)
    return Check(
        name="sampling rate",
        promised=dp.sampling_rate,
        bound=bound,
        failed=bound > dp.sampling_rate,
        seen=f"canaries were in {watched.draws} of {watched.chances} samples; the rate is at least this",
    )


def _record(steps: StepFindings) -> Check:
    return Check(
        name="accounting",
        promised=float(steps.releases),
        bound=float(steps.recorded_steps),
        failed=steps.recorded_steps < steps.releases,
        seen=f"{steps.releases} noisy sums were released, {steps.recorded_steps} recorded",
    )


def _length(plan: Plan, watched: Watched) -> Check:
    return Check(
        name="steps of the loop",
        promised=float(plan.steps),
        bound=float(watched.steps),
        failed=watched.steps > plan.steps,
        seen=f"the adapter changed {watched.steps} times where the plan has {plan.steps} steps",
    )


def _composed(plan: Plan, dp: DpPlan, mu: float) -> float:
    """Compose the plan's number of steps, each mu-Gaussian-private before sampling."""
    return 0.0 if mu == 0 else epsilon([_steps_of(plan, dp, mu)], delta=dp.delta).epsilon


def _steps_of(plan: Plan, dp: DpPlan, mu: float) -> StepEvents:
    noise = 1 / min(mu, MOST_MU)
    return StepEvents(sampling_rate=dp.sampling_rate, noise_multiplier=noise, steps=plan.steps, unit=dp.unit)


def _told(found: Sequence[Guesses]) -> str:
    parts = ", ".join(f"{g.right}/{g.made}" for g in found)
    return f"right guesses: {parts} at {found[0].canaries} canaries"
