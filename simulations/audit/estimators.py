"""Lower bounds on epsilon from guesses about canaries.

Covers: any dependence between canaries. Each is put in or left out by a fair coin of its own, all in one run, and the
    guesser sees everything that was released.
Does not cover: records that leak more than the canaries do. A bound says "at least so much", never "at most".

m canaries, r guesses (abstaining on m - r), v of them right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partsong.simulations.audit.statistics import binomial_tails
from partsong.simulations.audit.tradeoff import Curve

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

ONE_RUN_SHARES = (0.5, 1.0)
F_DP_SHARES = (0.1, 0.25, 0.5)
"""Parts of the canaries that are guessed at, fixed before anything is seen; the error is split evenly over them. The
first theorem pays for delta by 1 / guesses, so it wants many; the second gains from few that are nearly all right. Of
seven shares these were best at 500 to 5,000 canaries and mu from 0.5 to 4."""
_TOLERANCE = 1e-3
"""Of a bound: finer than the tables show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guesses:
    """How well a fixed number of guesses did."""

    canaries: int
    made: int
    right: int

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.made <= self.canaries:
            raise ValueError(f"right <= made <= canaries, not {self.right}, {self.made}, {self.canaries}")


def guess(score_M: Floats, included_M: Flags, *, made: int) -> Guesses:
    """Guess "in" for the highest half of the extreme scores and "out" for the lowest half; abstain between them.

    Guarantees: the number of guesses does not depend on the scores, as the theorems ask.
    Args:
        score_M: (m,) higher for canaries that seem to be in.
        included_M: (m,) the coins.
        made: r, 1 to m.
    """
    order = np.argsort(score_M, kind="stable")
    low, high = order[: made // 2], order[len(order) - (made - made // 2) :]
    right = int((~included_M[low]).sum() + included_M[high].sum())
    return Guesses(canaries=len(score_M), made=made, right=right)


def several(score_M: Floats, included_M: Flags, *, shares: Sequence[float]) -> tuple[Guesses, ...]:
    """Make guesses at several shares of the canaries."""
    sizes = sorted({max(1, round(share * len(score_M))) for share in shares})
    return tuple(guess(score_M, included_M, made=size) for size in sizes)


def one_run_p_value(found: Guesses, *, epsilon: float, delta: float) -> float:
    """Bound the chance of as many right guesses if the training were (epsilon, delta)-private.

    Theorem: let S in {-1, 1}^m be uniform, M (epsilon, delta)-private with regard to each S_i, and T = M(S) in
    {-1, 0, 1}^m with at most r entries that are not 0. Then for every v

        P[sum_i max(0, T_i S_i) >= v]  <=  beta + m alpha delta,
        beta  = P[W >= v],    W ~ Binomial(r, e^epsilon / (1 + e^epsilon)),
        alpha = max over 1 <= i <= m of  (2 / i) P[v > W >= v - i].

    Guarantees: in [0, 1]; falls with the number of right guesses, rises with epsilon and delta.
    Source: Steinke, Nasr & Jagielski 2023 (arXiv 2305.08846), theorem 5.2.
    """
    tails = binomial_tails(found.made, 1 / (1 + math.exp(-epsilon)))
    beta = float(tails[found.right])
    if delta == 0 or found.right == 0:
        return beta
    reach = np.arange(1, found.right + 1)  # beyond v, P[v > W >= v - i] no longer grows while 2 / i falls
    alpha = float((2 / reach * (tails[found.right - reach] - beta)).max())
    return min(1.0, beta + found.canaries * alpha * delta)


def f_dp_rejects(found: Guesses, *, curve: Curve, alpha: float) -> bool:
    """Decide whether so many right guesses have a chance below `alpha` under the curve.

    Theorem: let M be f-DP for a symmetric f, let r guesses be made, and let p_i be the chance that exactly i are
    right. Then for every set T of counts, with F(x) = 1 - f(x),

        sum_{i in T} (i / m) p_i  <=  F( sum_{i in T} ((r - i + 1) / m) p_{i-1} ).

    Each canary that is guessed right turns into one that is guessed wrong when its coin is turned, which f-DP bounds;
    averaging over canaries and coins keeps the bound because F is concave. Suppose P[at least v right] = alpha. Of
    all p that obey the theorem for the sets T = {i, ..., r}, one has the least total: all of alpha at v, and below it,
    from i = v - 1 down to 0, just as much as the theorem then asks for. Where even that total exceeds 1 there is no
    such p, and the chance was below alpha. With R and H the sums over T of (i / m) p_i and ((r - i) / m) p_i, one step
    is H' = max(H, F^-1(R)), R' = R + i / (r - i) (H' - H), and the total is (m / r) (R + H).

    Guarantees: if the mechanism is f-DP, this is true with probability below `alpha`.
    Args:
        found: the guesses; `made` was fixed beforehand.
        curve: f.
        alpha: (0, 1).
    Source: Mahloujifar, Melis & Chaudhuri 2024 (arXiv 2410.22235), theorem 3.2 and algorithm 3, for in-or-out
        canaries.
    """
    m, r = found.canaries, found.made
    right_R, wrong_H = alpha * found.right / m, alpha * (r - found.right) / m
    for count in range(found.right - 1, -1, -1):
        needed = max(wrong_H, curve.cheapest(min(right_R, 1.0)))
        if needed == wrong_H:
            break
        right_R, wrong_H = right_R + count / (r - count) * (needed - wrong_H), needed
    return right_R + wrong_H > r / m


def largest_rejected(rejected: Callable[[float], bool], *, most: float) -> float:
    """Find the largest value up to which a monotone test rejects, 0 if it rejects nothing.

    Args:
        rejected: true below some value, false above it.
        most: where to stop looking.
    """
    if not rejected(0.0):
        return 0.0
    if rejected(most):
        return most
    low, high = 0.0, most
    while high - low > _TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low


MOST_EPSILON = 50.0
"""No number of canaries that fits into a run proves more."""


def one_run_bound(found: Sequence[Guesses], *, delta: float, alpha: float) -> float:
    """Give the largest epsilon that the one-run theorem rejects.

    Guarantees: an (epsilon, delta)-private run gives a bound above epsilon with probability at most `alpha`, over all
        entries of `found` together.
    Args:
        found: guesses of several sizes at the same canaries; `alpha` is split over them.
        delta: [0, 1).
        alpha: (0, 1).
    """

    def rejected(epsilon: float) -> bool:
        each = alpha / len(found)
        return any(one_run_p_value(g, epsilon=epsilon, delta=delta) <= each for g in found)

    return largest_rejected(rejected, most=MOST_EPSILON)


def f_dp_any(found: Sequence[Guesses], *, curve: Curve, alpha: float) -> bool:
    """Decide whether any of several sizes rejects the curve, at `alpha` for all of them together."""
    return any(f_dp_rejects(g, curve=curve, alpha=alpha / len(found)) for g in found)
