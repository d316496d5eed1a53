"""What a run does not protect, in words, as far as its plan says: stored with the run, printed with every result."""

from __future__ import annotations

from partsong.common.plan import Plan

UNMASKED = "UNMASKED: secure_sum=off; whoever runs the coordinator could read each site's update"
SUM_ONLY = (
    "SUM ONLY: secure_sum=sum-only; the secure sum's floors without its masks, keys and signatures: whoever runs the "
    "coordinator could read each site's update"
)
NOT_PRIVATE = "NOT PRIVATE: privacy.mode=none; no clipping, no noise, no guarantee for any record"
SEEDED = "SEEDED: sampling is repeatable; for tests only"


def marks_of(plan: Plan) -> tuple[str, ...]:
    """List what applies to this plan, the most serious first."""
    found = [NOT_PRIVATE] if plan.dp is None else []
    found += [SEEDED] if plan.seed is not None else []
    return (*found, *(() if plan.masked else (UNMASKED,)))
