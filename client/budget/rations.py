"""What a claim must keep beside the lifetime budget: a small delta, finished rounds, rations of purpose and quarter.

Each raises `Refused` where it is not kept; nothing was recorded then.
"""

from __future__ import annotations

from partsong.client.budget.books import Claim, Holding, quarter, spend_against
from partsong.common.errors import Refused


def require_small_delta(holding: Holding, claim: Claim) -> None:
    """Refuse `delta_too_large`: one record in the open would keep such a promise."""
    if holding.delta * claim.records >= 1:
        raise Refused(
            "delta_too_large",
            reason=f"delta {holding.delta:g} is not below 1 / {claim.records} records: it would allow one in the open",
            remedy=f"name a holding with a delta below {1 / claim.records:.2g}",
        )


def require_finished(holding: Holding, claim: Claim, *, day: int) -> None:
    """Refuse `too_many_unfinished`: rounds of `day` (since 1970, UTC) that were opened and led to no sum."""
    most, count = holding.grant.unfinished_per_day, holding.unfinished.get(day, 0)
    if most is not None and count >= most:
        raise Refused(
            "too_many_unfinished",
            reason=f"{count} queries to {claim.holding} were opened today and led to no sum, {most} are allowed",
            remedy="ask the coordinator why its rounds fail; tomorrow counts anew",
        )


def require_rations(holding: Holding, claim: Claim, *, now_ms: int) -> None:
    """Refuse `over_ration`: of the purpose, or of the quarter that `now_ms` (since 1970) lies in."""
    grant = holding.grant
    rations = (
        (f"purpose {claim.purpose}", grant.purposes.get(claim.purpose), holding.of_purpose(claim.purpose)),
        (f"quarter {quarter(now_ms)}", grant.per_quarter, holding.of_quarter(now_ms)),
    )
    for name, most, claims in rations:
        if most is None:
            continue
        spent = spend_against([*claims, claim], delta=holding.delta, most=most)
        if spent.epsilon > most:
            raise Refused(
                "over_ration",
                reason=f"{name} of holding {claim.holding} would reach epsilon {spent.epsilon:.4g} of {most:.4g}",
                remedy="ask for less, or wait for the next quarter where it is the quarter's ration that is spent",
            )
