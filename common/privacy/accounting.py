"""What training costs in privacy: events in, epsilon out; and back, from a budget to the noise that keeps it.

Covers: the composition of steps of the Poisson-subsampled Gaussian mechanism, also with a cap on the sample and
    with rates and noise that change between segments; a second noisy sum released from the same sample; noise on a
    grid; what record-level steps mean for a patient with several records.
Does not cover: shuffled or fixed-size batches (their epsilon is several times higher), releases that nobody
    recorded. An epsilon is as true as the list of events that it was computed from.

Privacy loss distributions (PLD) come first: they are within a thousandth of the truth and always an upper bound.
Renyi accounting (RDP), 9 to 31 % loose, takes over where PLD gives up. The Gaussian-DP approximation is not
offered: it is not a bound.

The accountants are loaded with the first epsilon that is asked for: they bring SciPy along, 70 MB and a second that a
daemon without such a question does without.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from partsong.common.errors import Refused

Unit = Literal["record", "patient"]
"""Whose presence is hidden: what is sampled and clipped as a whole."""


def neighbours(unit: Unit) -> str:
    """Give the neighbouring relation of every epsilon of this module, in words for reports.

    Noise and accounting are those of add-or-remove-one. The expected batch size divides the sum, so it is held fixed:
    otherwise it would itself tell the number of records or patients.
    """
    whole = "" if unit == "record" else " with all records at the site"
    return f"one {unit}{whole} present or blanked out; the number of {unit}s and the expected batch size do not change"


NEIGHBOURS = neighbours("record")
"""The relation where records are the unit."""

FINE_GRID, COARSE_GRID = 1e-4, 1e-3
"""Discretisation of the privacy loss. Both give upper bounds; over the settings of the tests the coarse one is
above the fine one by at most 0.004 (3,515 steps) and mostly by 1e-4, at a tenth of the time."""

PATIENT_GRID = 5e-3
"""For patients with several records: at most 0.005 above the finer grid at a quarter of the time."""

FINE_SEGMENTS, FINE_NOISE = 4, 0.5
"""The fine grid serves up to this many distinct segments, each with at least this noise multiplier: beyond it one
answer takes more than some 3 s, and epsilons are so large that the grid does not show in them."""

RDP_ORDERS = (*(1 + tenth / 10 for tenth in range(5, 100)), *range(12, 64), 64, 96, 128, 256, 512, 1024)
"""Opacus' orders without the four lowest, for which the series does not converge, and with higher ones, which
small epsilons need."""

TAIL_SDS = 7.0
"""A sample is cut where it exceeds its mean by this many standard deviations. At 5 the cut costs a site of 100
records 1 % of epsilon, at 7 less than 1e-5 (100 steps, q=.05, noise 1)."""

GRID_STEPS = 1 << 20
"""Steps of the grid in one standard deviation of discrete noise."""

LOWEST_NOISE, HIGHEST_NOISE = 0.1, 2.0**20
"""Calibration looks between these. Below, one step already costs hundreds of epsilon."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepEvents:
    """A number of equal steps, as the accountant sees them.

    In a plan `max_batch` and `records` are None. A site fills them in for its own ledger (`at_site`): how many
    records it holds does not leave it.
    """

    sampling_rate: float
    """Chance of each unit to be in a step's sample, independently of all others; in (0, 1]."""
    noise_multiplier: float
    """Noise standard deviation / sensitivity of everything a step releases, see `joint_multiplier`; > 0."""
    steps: int
    """How many, >= 1."""
    max_batch: int | None = None
    """Samples above this were cut to it, uniformly at random."""
    records: int | None = None
    """Size of what was sampled: the number of records, or of patients where these are the unit. Never leaves the
    site."""
    unit: Unit = "record"
    """What was sampled and clipped as a whole."""
    slack: float = 0.0
    """Chance, for each step, that what is released is not what the rest says; counts in delta. [0, 1)"""

    def __post_init__(self) -> None:
        if not 0 <= self.slack < 1:
            raise ValueError(f"slack in [0, 1), not {self.slack}")
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(f"sampling_rate in (0, 1], not {self.sampling_rate}")
        if not (self.noise_multiplier > 0 and math.isfinite(self.noise_multiplier)):
            raise ValueError(f"noise_multiplier above 0 and finite, not {self.noise_multiplier}")
        if self.steps < 1:
            raise ValueError(f"steps of at least 1, not {self.steps}")
        if (self.max_batch is None) != (self.records is None):
            raise ValueError("max_batch and records together, or neither")
        if self.max_batch is not None and self.records is not None and min(self.max_batch, self.records) < 1:
            raise ValueError("max_batch and records of at least 1")

    def at_site(self, *, records: int) -> StepEvents:
        """Give the same steps at a site with this many records (or patients), its sample cut by `largest_batch`."""
        max_batch = largest_batch(records=records, sampling_rate=self.sampling_rate)
        return dataclasses.replace(self, max_batch=max_batch, records=records)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spend:
    """An (epsilon, delta) guarantee under the relation `neighbours(unit)`, and who computed it."""

    epsilon: float
    delta: float
    accountant: Literal["pld", "rdp"]
    unit: Unit = "record"


def largest_batch(*, records: int, sampling_rate: float) -> int:
    """Give the size above which a Poisson sample is cut: mean + 7 standard deviations, at most `records`.

    A deviation below 1 counts as 1: the tail of so small a sample is longer than a normal one's.

    Args:
        records: >= 1.
        sampling_rate: (0, 1].
    Source: Ganesh et al. 2025 (arXiv 2508.15089) for the accounting of the cut; the 7 is measured, see `TAIL_SDS`.
    """
    mean = records * sampling_rate
    deviation = math.sqrt(mean * (1 - sampling_rate))
    return min(records, math.ceil(mean + TAIL_SDS * max(deviation, 1.0)))


def joint_multiplier(gradient: float, loss: float) -> float:
    """Give the noise multiplier of the one Gaussian mechanism that equals two released from one sample.

    A step releases the sum of gradients, each of norm <= C, with noise of standard deviation gC, and the sum of
    losses, each in [0, L], with noise of standard deviation hL. Divide the first by gC and the second by hL, which
    anyone can undo: what is released is one vector plus standard normal noise. One record, present or not, moves
    its first block by at most 1/g and its second by at most 1/h, hence the whole by at most
    (g**-2 + h**-2)**(1/2). A Gaussian mechanism is characterised by noise over sensitivity, the inverse of that.
    The sample is drawn once for both, so subsampling applies to the joint mechanism, once.

    Args:
        gradient: g > 0.
        loss: h > 0.
    Source: Dwork & Roth 2014, appendix A (the Gaussian mechanism on vectors); McMahan et al. 2018
        (arXiv 1812.06210), section 2.2 (vectors of groups with clips and noise of their own).
    """
    return float((gradient**-2 + loss**-2) ** -0.5)


def on_grid(multiplier: float, *, size: int) -> float:
    """Give the noise multiplier to account with where noise is discrete, of `GRID_STEPS` steps a deviation.

    Rounding moves each of `size` values by at most half a step of the grid, so that two neighbouring sums lie
    farther apart by at most size**(1/2) steps. For shifts by whole steps discrete Gaussian noise has at most the
    Renyi divergences of continuous noise; its privacy loss distribution is taken to be the continuous one's, from
    which it differs by rounding to 2**-20 of a deviation, far below the accountant's own grid.

    Args:
        multiplier: standard deviation / sensitivity before rounding, > 0.
        size: number of values, >= 1.
    Source: Canonne, Kamath & Steinke 2020 (arXiv 2004.00010).
    """
    return 1 / (1 / multiplier + math.sqrt(size) / GRID_STEPS)


def for_grid(multiplier: float, *, size: int) -> float:
    """Give the noise multiplier that counts as `multiplier` on the grid: the inverse of `on_grid`.

    Raises:
        ValueError: the rounding of so many values alone would count for more.
    """
    left = 1 / multiplier - math.sqrt(size) / GRID_STEPS
    if left <= 0:
        raise ValueError(f"no discrete noise on {size} values counts as a multiplier of {multiplier:g}")
    return 1 / left


def epsilon(events: Sequence[StepEvents], *, delta: float) -> Spend:
    """Compose events in any order into one guarantee.

    Guarantees:
        - an upper bound; adding an event never lowers it beyond the grid's rounding;
        - no events cost nothing; equal segments are merged, so a long history of few settings is quick.
    Args:
        events: everything that was ever done with one body of records.
        delta: in (0, 1); below 1 / number of records, which only the site can check.
    Raises:
        Refused: `unaccountable_release`, if neither accountant can bound the events; `mixed_units`, if some of them
            hide records and others patients. Nothing was spent.
    Source: Sommer et al. 2019 and Doroshenko et al. 2022 (PLD, connect-the-dots), Mironov 2017 (RDP).
    """
    check_delta(delta)
    return _spend_of(_merged(events), delta)


def epsilon_bound(events: Sequence[StepEvents], *, delta: float) -> Spend | None:
    """Bound `epsilon` from above on a coarse grid, some ten times as quickly; None where it cannot.

    For a yes or no against a ceiling: only what this bound does not allow has to be computed exactly.

    Raises:
        Refused: `mixed_units`, as `epsilon`.
    """
    check_delta(delta)
    unit = unit_of(events)
    bound = _coarse_epsilon(_merged(events), delta)
    return None if bound is None else Spend(epsilon=bound, delta=delta, accountant="pld", unit=unit)


def unit_of(events: Sequence[StepEvents]) -> Unit:
    """Name what events hide; the record where there are none.

    Raises:
        Refused: `mixed_units`, if some of them hide records and others patients.
    """
    unit = events[0].unit if events else "record"
    if any(e.unit != unit for e in events):
        raise Refused(
            "mixed_units",
            reason="an epsilon that hides records and one that hides patients do not add up to either",
            remedy="keep one privacy.unit for all that is done with a body of records",
        )
    return unit


@functools.lru_cache(maxsize=256)
def _spend_of(merged: tuple[StepEvents, ...], delta: float) -> Spend:
    """Compose distinct segments; pure, and asked again for every display of the same history."""
    if not merged:
        return Spend(epsilon=0.0, delta=delta, accountant="pld")
    unit = unit_of(merged)
    fine = len(merged) <= FINE_SEGMENTS and all(e.noise_multiplier >= FINE_NOISE for e in merged)
    by_pld = _pld_epsilon(merged, delta=delta, grid=FINE_GRID if fine else COARSE_GRID)
    if by_pld is not None:
        return Spend(epsilon=by_pld, delta=delta, accountant="pld", unit=unit)
    return Spend(epsilon=_rdp_epsilon(merged, delta=delta), delta=delta, accountant="rdp", unit=unit)


@functools.lru_cache(maxsize=256)
def _coarse_epsilon(merged: tuple[StepEvents, ...], delta: float) -> float | None:
    """Compose distinct segments on the coarse grid; pure, and the sites of a simulation all ask for the same."""
    return _pld_epsilon(merged, delta=delta, grid=COARSE_GRID)


@functools.lru_cache(maxsize=64)
def patient_epsilon(events: StepEvents, *, delta: float, records: int) -> float:
    """Give what record-level steps mean for a patient with several records.

    A step draws Binomial(records, rate) of them, each of which moves the release by at most its clip: a Gaussian
    mechanism whose sensitivity is that number of clips. Far below the k-fold group privacy of the record-level
    epsilon, which forgets that the records are seldom drawn together.

    Guarantees: an upper bound for samples that are not cut; the cut at `largest_batch` is left out of the picture.
        With one record it is the record-level epsilon.
    Args:
        events: steps whose unit is the record.
        delta: (0, 1).
        records: of the patient, >= 1; the time grows with it, some 0.2 s each.
    Source: Charles et al. 2024 (arXiv 2407.07737), example-level sampling with mixture-of-Gaussians accounting.
    """
    check_delta(delta)
    if records < 1 or events.unit != "record":
        raise ValueError("steps whose unit is the record, and at least one record")
    if records == 1:
        return epsilon([events], delta=delta).epsilon
    from dp_accounting.pld import privacy_loss_distribution

    q = events.sampling_rate
    one = privacy_loss_distribution.from_mixture_gaussian_mechanism(
        events.noise_multiplier,
        sensitivities=range(records + 1),
        sampling_probs=[math.comb(records, k) * q**k * (1 - q) ** (records - k) for k in range(records + 1)],
        value_discretization_interval=PATIENT_GRID,
    )
    whole = one.self_compose(events.steps)
    if events.slack:
        whole = whole.compose(_pld_of_slack(events, PATIENT_GRID))
    return float(whole.get_epsilon_for_delta(delta))


def composed(events: Sequence[StepEvents], *, grid: float) -> Any:
    """Give the privacy loss distribution of events in any order, to be composed with others of the same grid."""
    return _pld(_merged(events), grid=grid)


def _merged(events: Sequence[StepEvents]) -> tuple[StepEvents, ...]:
    totals: dict[StepEvents, int] = {}
    for event in events:
        key = dataclasses.replace(event, steps=1)
        totals[key] = totals.get(key, 0) + event.steps
    return tuple(dataclasses.replace(key, steps=steps) for key, steps in totals.items())


def _pld_epsilon(events: Sequence[StepEvents], *, delta: float, grid: float) -> float | None:
    try:
        value = float(_pld(events, grid=grid).get_epsilon_for_delta(delta))
    except (ValueError, ArithmeticError, MemoryError):
        return None
    return value if math.isfinite(value) else None


def _pld(events: Sequence[StepEvents], *, grid: float) -> Any:
    from dp_accounting.pld import privacy_loss_distribution

    total = privacy_loss_distribution.identity(value_discretization_interval=grid)
    for event in events:
        total = total.compose(_pld_of(event, grid))
    return total


@functools.lru_cache(maxsize=32)
def _pld_of(event: StepEvents, grid: float) -> Any:
    """Build the distribution of one segment; pure, so that a ledger of known segments answers at once."""
    whole = _pld_of_step(dataclasses.replace(event, steps=1, slack=0.0), grid).self_compose(event.steps)
    return whole if event.slack == 0 else whole.compose(_pld_of_slack(event, grid))


def _pld_of_slack(event: StepEvents, grid: float) -> Any:
    """Build the distribution of a mechanism that tells everything with the chance of all slack together."""
    from dp_accounting.pld import common, privacy_loss_distribution

    lost = common.DifferentialPrivacyParameters(0.0, min(1.0, event.slack * event.steps))
    return privacy_loss_distribution.from_privacy_parameters(lost, grid)


@functools.lru_cache(maxsize=64)
def _pld_of_step(event: StepEvents, grid: float) -> Any:
    """Build the distribution of one step, the slow part: a ledger asks for the same step, some more of it each time."""
    from dp_accounting.pld import privacy_loss_distribution

    if event.max_batch is None:
        return privacy_loss_distribution.from_gaussian_mechanism(
            event.noise_multiplier, sampling_prob=event.sampling_rate, value_discretization_interval=grid
        )
    return privacy_loss_distribution.from_truncated_subsampled_gaussian_mechanism(
        dataset_size=event.records,
        sampling_probability=event.sampling_rate,
        truncated_batch_size=event.max_batch,
        noise_multiplier=event.noise_multiplier,
        value_discretization_interval=grid,
    )


def _rdp_epsilon(events: Sequence[StepEvents], *, delta: float) -> float:
    if any(e.max_batch is not None for e in events):
        raise _unaccountable("a cut sample is beyond the accountant that is left")
    delta -= sum(e.slack * e.steps for e in events)
    if delta <= 0:
        raise _unaccountable("what may go wrong by itself uses up delta")
    import dp_accounting
    from dp_accounting.rdp import rdp_privacy_accountant

    accountant = rdp_privacy_accountant.RdpAccountant(orders=RDP_ORDERS)
    for event in events:
        sampled = dp_accounting.PoissonSampledDpEvent(
            event.sampling_rate, dp_accounting.GaussianDpEvent(event.noise_multiplier)
        )
        accountant.compose(dp_accounting.SelfComposedDpEvent(sampled, event.steps))
    value = float(accountant.get_epsilon(delta))
    if not math.isfinite(value):
        raise _unaccountable("no finite epsilon bounds these events")
    return value


def _unaccountable(reason: str) -> Refused:
    return Refused("unaccountable_release", reason=reason, remedy="use more noise, fewer steps or a larger delta")


def check_delta(delta: float) -> None:
    """Refuse what is no delta, as a mistake of the caller."""
    if not 0 < delta < 1:
        raise ValueError(f"delta in (0, 1), not {delta}")
