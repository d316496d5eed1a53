"""What it costs to try several settings on private records and let only the best one out.

Covers: a choice (of a checkpoint, of when to stop, of a learning rate) made where the records are, from a number of
    candidates that was drawn at random, of which only the chosen one is ever seen by anybody else.
Does not cover: candidates that were seen, such as rounds whose sum was opened. They are releases like any other and
    are charged as events, each of them; choosing among them afterwards by a public score costs nothing more.

A fixed number of candidates is not accounted here: hiding the losers then saves nothing in the worst case.
"""

# ruff: noqa: PLC0415  # as in `partsong.common.privacy.accounting`, the accountants are loaded when they are asked

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from partsong.common.errors import Refused
from partsong.common.privacy.accounting import COARSE_GRID, RDP_ORDERS, Spend, StepEvents, composed, epsilon, unit_of

if TYPE_CHECKING:
    import dp_accounting

SELECTION_SHARE = 0.1
"""Part of delta at which choices are bounded before they are composed with all else. The whole is bounded again at
the whole delta, so this only sets how tight the bound is."""

MOST_RUNS = 10_000
"""Largest mean number of candidates; beyond it nobody trains."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """One choice: how many candidates were tried follows a law, and each of them did `candidate`."""

    candidate: tuple[StepEvents, ...]
    """Everything that one candidate did with the records: its training, and the score that it is judged by."""
    mean_runs: float
    """Mean number of candidates, >= 1 (above 1 for geometric)."""
    law: Literal["geometric", "poisson"] = "geometric"
    """Of the number of candidates, see `draw_runs`. poisson is cheaper and may give 0: then nothing comes out."""

    def __post_init__(self) -> None:
        if not self.candidate:
            raise ValueError("a candidate with at least one event")
        if not 1 <= self.mean_runs <= MOST_RUNS:
            raise ValueError(f"mean_runs between 1 and {MOST_RUNS}, not {self.mean_runs}")


def draw_runs(selection: Selection, *, random_bytes: int = 8) -> int:
    """Draw how many candidates to try, from the operating system's randomness. Try that many, neither more nor less.

    Guarantees: the number follows the law that is charged; it must not be shown before the choice, nor drawn again.
    """
    raw = int.from_bytes(os.urandom(random_bytes), "big")
    return runs_of((raw + 0.5) / 2 ** (8 * random_bytes), selection)


def runs_of(uniform: float, selection: Selection) -> int:
    """Turn a uniform number in (0, 1) into a number of candidates: the inverse of the law's distribution."""
    mean, count, below, mass = selection.mean_runs, 0, 0.0, 0.0
    if selection.law == "geometric":
        return 1 if mean == 1 else 1 + math.floor(math.log(uniform) / math.log1p(-1 / mean))
    while True:
        mass = math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))
        below += mass
        if uniform <= below or (count > mean and mass == 0.0):
            return count
        count += 1


def epsilon_with_selections(events: Sequence[StepEvents], selections: Sequence[Selection], *, delta: float) -> Spend:
    """Compose events and choices into one guarantee.

    Guarantees:
        - an upper bound; without choices it is `accounting.epsilon`;
        - one composition of everything at the one delta, not a sum of epsilons: each choice enters as the worst
          mechanism that its own (epsilon, delta) allows.
    Args:
        events: everything that was released.
        selections: choices whose losers were never seen.
        delta: (0, 1), of the whole.
    Raises:
        Refused: `unaccountable_release`, if a choice cannot be bounded at this delta; `mixed_units`, if not all of
            them hide the same. Nothing was spent.
    Source: Papernot & Steinke 2022 (arXiv 2110.03620), theorems 2 and 6, for a choice; Kairouz, Oh & Viswanath 2015
        (arXiv 1311.0776), theorem 3.1, for the worst mechanism of an (epsilon, delta).
    """
    if not selections:
        return epsilon(events, delta=delta)
    unit = unit_of([*events, *(event for choice in selections for event in choice.candidate)])
    share = SELECTION_SHARE * delta / len(selections)
    bounds = [(_choice_epsilon(choice, delta=share), share) for choice in selections]
    try:
        value = _composed_epsilon(events, bounds, delta=delta)
    except (ValueError, ArithmeticError, MemoryError) as err:
        raise _unaccountable("an epsilon of hundreds is no bound") from err
    if not math.isfinite(value):
        raise _unaccountable("no finite epsilon bounds these choices together with what was spent before")
    return Spend(epsilon=value, delta=delta, accountant="rdp", unit=unit)


def _composed_epsilon(events: Sequence[StepEvents], bounds: Sequence[tuple[float, float]], *, delta: float) -> float:
    from dp_accounting.pld import common as pld_common
    from dp_accounting.pld import privacy_loss_distribution

    total = composed(events, grid=COARSE_GRID)
    for bound in bounds:
        worst = pld_common.DifferentialPrivacyParameters(*bound)
        total = total.compose(privacy_loss_distribution.from_privacy_parameters(worst, COARSE_GRID))
    return float(total.get_epsilon_for_delta(delta))


@functools.lru_cache(maxsize=64)
def _choice_epsilon(choice: Selection, *, delta: float) -> float:
    """Bound one choice on its own."""
    from dp_accounting import ComposedDpEvent, dp_event
    from dp_accounting.rdp import rdp_privacy_accountant

    accountant = rdp_privacy_accountant.RdpAccountant(orders=RDP_ORDERS)
    once = ComposedDpEvent([_sampled(event) for event in choice.candidate])
    shape = 1.0 if choice.law == "geometric" else math.inf
    accountant.compose(dp_event.RepeatAndSelectDpEvent(once, choice.mean_runs, shape))
    value = float(accountant.get_epsilon(delta))
    if not math.isfinite(value):
        raise _unaccountable("no finite epsilon bounds a choice among candidates with so little noise")
    return value


def _sampled(event: StepEvents) -> dp_accounting.DpEvent:
    """Give the accountant's event. It knows Poisson samples whole, and not those that are cut."""
    if event.max_batch is not None and event.records is not None and event.max_batch < event.records:
        raise _unaccountable("a choice among candidates whose samples were cut is not accounted")
    if event.slack:
        raise _unaccountable("a choice among candidates with noise on the sum is not accounted")
    import dp_accounting

    gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
    whole = event.sampling_rate == 1
    sampled = gaussian if whole else dp_accounting.PoissonSampledDpEvent(event.sampling_rate, gaussian)
    return dp_accounting.SelfComposedDpEvent(sampled, event.steps)


def _unaccountable(reason: str) -> Refused:
    return Refused(
        "unaccountable_release",
        reason=reason,
        remedy="choose on public records, or sample without a cut, or release every candidate and be charged for each",
    )
