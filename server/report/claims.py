"""What an epsilon promises and what it does not, and the two JSON files beside the adapter."""

from __future__ import annotations

from typing import Any

from partsong.common.build import to_tree
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import Unit, neighbours
from partsong.common.privacy.terms import DpPlan
from partsong.server.report.facts import Facts

_UNIT_GAPS = {
    "record": "several records of one person, at one site or at several: epsilon counts single records",
    "patient": "a person with two names in the unit column, or at more than two sites",
}
NOT_COVERED = (
    "what the adapter teaches about everybody: differential privacy hides presence, not conclusions",
    "who took part, when, with how many bytes: visible to the coordinator",
    "a site that trains on wrong records: sums do not show it",
)


def not_covered(unit: Unit | None) -> tuple[str, ...]:
    """Say what an epsilon of this unit does not promise; None: there is no epsilon."""
    return NOT_COVERED if unit is None else (_UNIT_GAPS[unit], *NOT_COVERED)


def placement(dp: DpPlan) -> str:
    """Say whose noise an epsilon counts on."""
    if dp.on_sum is None:
        return "each site's own noise"
    return f"noise on the sum of at least {dp.on_sum.minimum_sum} sites, of which {dp.on_sum.colluders} may collude"


def guarantee(plan: Plan, *, epsilon: float | None) -> dict[str, Any] | None:
    """Give an epsilon together with all that it needs to mean something; None without differential privacy."""
    if plan.dp is None:
        return None
    return {
        "epsilon": epsilon,
        "delta": plan.dp.delta,
        "unit": plan.dp.unit,
        "contribution_bound": plan.dp.contribution_bound,
        "neighbours": neighbours(plan.dp.unit),
        "placement": "site" if plan.dp.on_sum is None else {"sum": to_tree(plan.dp.on_sum)},
    }


def privacy_tree(facts: Facts) -> dict[str, Any]:
    """Give `privacy.json`: the guarantee and everything that it rests on."""
    found = facts.privacy
    if found is None:
        return {"guarantee": None, "marks": list(facts.marks)}
    return {
        "guarantee": {
            "epsilon": found.epsilon,
            "delta": found.delta,
            "unit": found.unit,
            "contribution_bound": found.contribution_bound,
            "neighbours": found.neighbours,
            "placement": "site" if found.on_sum is None else {"sum": to_tree(found.on_sum)},
        },
        "planned_epsilon": found.planned_epsilon,
        "accountant": found.accountant,
        "sampling": {
            "kind": found.sampling,
            "rate": found.sampling_rate,
            "steps_per_round": found.steps_per_round,
        },
        "clip_norm": found.clip_norm,
        "clipping": found.clipping,
        "noise": found.noise,
        "noise_multiplier": found.noise_multiplier,
        "loss_release": {"clip": found.loss_clip, "noise_multiplier": found.loss_noise_multiplier},
        "across_sites": {
            "disjoint": found.epsilon,
            "unit_at_two_sites": found.epsilon_at_two_sites,
            "delta": found.delta,
            "rule": "the largest epsilon of any site where the sites' units are disjoint, else the composition of them",
        },
        "not_covered": list(facts.not_covered),
        "marks": list(facts.marks),
    }


def provenance_tree(facts: Facts) -> dict[str, Any]:
    """Give `provenance.json`: what went in and who contributed."""
    adapter = facts.adapter
    return {
        "run": facts.run,
        "plan_sha256": facts.plan_sha256,
        "config_sha256": facts.config_sha256,
        "base": to_tree(facts.base),
        "method": {"name": adapter.method, "exact": adapter.exact, "source": adapter.source},
        "rounds": [{"round": r.round, "sites": list(r.sites), "lost": dict(r.lost)} for r in facts.rounds],
        "contributors": list(facts.contributors),
        "secure_sum": None if facts.secure_sum is None else to_tree(facts.secure_sum),
    }
