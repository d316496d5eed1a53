"""The design's printed tables, digit by digit: from our accounting, and from other libraries beside it."""

import dataclasses
import math
import warnings
from decimal import Decimal

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import pld_privacy_accountant
from opacus.accountants import GaussianAccountant, PRVAccountant, RDPAccountant
from scipy import optimize, stats

from partsong.common.errors import Refused
from partsong.common.privacy import accounting
from partsong.common.privacy.accounting import StepEvents, epsilon, patient_epsilon

# (sampling rate, steps, noise multiplier, delta) -> RDP, PRV, GDP and PLD epsilon
ENGINES = [
    ((64 / 1000, 156, 1.0, 5e-4), ("4.640", "3.976", "3.548", "3.966")),
    ((64 / 1000, 156, 2.0, 5e-4), ("1.474", "1.289", "1.212", "1.279")),
    ((128 / 2000, 312, 1.0, 2.5e-4), ("7.008", "6.177", "5.745", "6.167")),
    ((256 / 5000, 195, 0.8, 1e-4), ("7.581", "6.562", "5.644", "6.552")),
    ((512 / 10000, 195, 1.0, 1e-5), ("5.438", "4.838", "4.061", "4.828")),
    ((512 / 10000, 195, 0.7, 1e-5), ("12.10", "10.68", "9.09", "10.66")),  # PLD is 10.6645; the design rounds it up
    ((256 / 60000, 3515, 1.1, 1e-5), ("1.281", "1.144", "1.077", "1.134")),
    ((2000 / 100000, 150, 0.5, 1e-5), ("13.05", "11.05", "8.75", "11.04")),
    ((50 / 500, 30, 1.5, 1e-3), ("1.503", "1.243", "1.066", "1.233")),
    ((64 / 2000, 31, 0.6, 2.5e-4), ("5.185", "3.975", "2.293", "3.964")),
]


def shows(value: float, printed: str) -> bool:
    """Whether a value is what is printed to that many digits, give or take the grid of the accountants."""
    half_a_digit = 0.5 * 10.0 ** Decimal(printed).as_tuple().exponent
    return abs(value - float(printed)) <= half_a_digit + 2e-4


def by_opacus(kind: type, setting: tuple[float, int, float, float]) -> float:
    rate, steps, noise, delta = setting
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accountant = kind()
        accountant.history = [(noise, rate, steps)]
        return float(accountant.get_epsilon(delta, **({"poisson": True} if kind is GaussianAccountant else {})))


def events(rate: float, steps: int, noise: float) -> StepEvents:
    return StepEvents(sampling_rate=rate, noise_multiplier=noise, steps=steps)


@pytest.mark.parametrize(("setting", "printed"), ENGINES)
def test_four_accountants_give_what_is_printed(setting: tuple, printed: tuple[str, str, str, str]) -> None:
    """PLD by us, the others by Opacus; PLD <= PRV <= RDP, and the approximation lies below the truth."""
    rate, steps, noise, delta = setting

    pld = epsilon([events(rate, steps, noise)], delta=delta).epsilon

    rdp, prv, gdp = (by_opacus(kind, setting) for kind in (RDPAccountant, PRVAccountant, GaussianAccountant))
    assert [shows(v, p) for v, p in zip((rdp, prv, gdp, pld), printed, strict=True)] == [True] * 4
    assert gdp < pld <= prv <= rdp


@pytest.mark.parametrize(
    ("budget", "by_rdp", "by_prv", "really"),
    [(1.0, 3.672, 3.359, "0.888"), (3.0, 1.567, 1.460, "2.68"), (8.0, 0.902, 0.853, "7.08")],
)
def test_other_accountants_ask_for_more_noise_than_the_budget_needs(
    budget: float, by_rdp: float, by_prv: float, really: str
) -> None:
    """The printed noise is the smallest of three digits that keeps the budget by each; what RDP's really spends."""
    for noise, kind in ((by_rdp, RDPAccountant), (by_prv, PRVAccountant)):
        setting = (0.05, 400, noise, 1e-4)
        assert by_opacus(kind, setting) <= budget
        assert by_opacus(kind, (0.05, 400, 0.98 * noise, 1e-4)) > budget

    spent = accounting._pld_epsilon([events(0.05, 400, by_rdp)], delta=1e-4, grid=accounting.COARSE_GRID)

    assert spent is not None
    assert shows(spent, really)


PATIENT = events(0.05, 400, 1.5)
# records of a patient -> group privacy of the record-level epsilon, tight accounting, noise divided by their number
PATIENTS = [
    (2, "8.4", "7.55", "12.5"),
    (4, "26.2", "17.9", "77"),
    pytest.param(8, None, "45.7", "477", marks=pytest.mark.nightly),
]


@pytest.mark.parametrize(("records", "group", "tight", "divided"), PATIENTS)
def test_what_record_level_means_for_a_patient(records: int, group: str | None, tight: str, divided: str) -> None:
    """Tight accounting lies between the record-level epsilon and both simple bounds."""
    value = patient_epsilon(PATIENT, delta=1e-5, records=records)

    worst = accounting._pld_epsilon([events(0.05, 400, 1.5 / records)], delta=1e-5, grid=accounting.COARSE_GRID)
    simple = group_privacy(records)
    assert worst is not None
    assert shows(value, tight)
    assert shows(worst, divided)
    assert simple is None if group is None else shows(simple, group)
    assert patient_epsilon(PATIENT, delta=1e-5, records=1) < value < min(worst, simple or math.inf)


def group_privacy(records: int) -> float | None:
    """Epsilon of a group by k-fold triangle inequality, from the record-level curve; None where delta never fits.

    (e, d) for one record is (k e, d (1 + exp(e) + ... + exp((k - 1) e))) for k of them (Vadhan 2017, lemma 2.2).
    """
    one = accounting._pld_of(PATIENT, accounting.FINE_GRID)
    grid = np.arange(20, 400) / 20  # the table was made in steps of .05; finer ones give 8.3 and 26.1
    deltas = one.get_delta_for_epsilon(grid)
    fits = grid[deltas * np.exp(np.outer(np.arange(records), grid)).sum(0) <= 1e-5]
    return records * float(fits[0]) if len(fits) else None


def test_one_record_of_a_patient_costs_the_record_level_epsilon() -> None:
    """3.36, as printed; and with the unit already the patient there is nothing to translate."""
    assert shows(patient_epsilon(PATIENT, delta=1e-5, records=1), "3.36")
    assert shows(epsilon([dataclasses.replace(PATIENT, unit="patient")], delta=1e-5).epsilon, "3.36")
    with pytest.raises(ValueError, match="unit is the record"):
        patient_epsilon(dataclasses.replace(PATIENT, unit="patient"), delta=1e-5, records=2)
    with pytest.raises(ValueError, match="at least one record"):
        patient_epsilon(PATIENT, delta=1e-5, records=0)


def test_epsilons_of_two_units_do_not_compose() -> None:
    """Neither number would be true; one unit composes as ever and says which it is."""
    patients = dataclasses.replace(PATIENT, unit="patient")

    with pytest.raises(Refused, match="mixed_units"):
        epsilon([PATIENT, patients], delta=1e-5)

    assert epsilon([patients, patients], delta=1e-5).unit == "patient"
    assert epsilon([PATIENT], delta=1e-5).unit == "record"


# batches of one epoch, noise -> Poisson accounting, lower bound of shuffling, fixed batches; at delta 1e-5
SAMPLING = [
    (100, 0.5, "6.5", "10.0", "10.0"),
    (100, 0.6, "3.8", "8.0", "8.0"),
    (100, 0.8, "1.5", "5.6", "5.7"),
    (100, 1.0, "0.72", "4.06", "4.38"),
    (20, 0.4, "17.4", "13.2", "13.2"),
]


@pytest.mark.parametrize(("batches", "noise", "poisson", "shuffled", "fixed"), SAMPLING)
def test_shuffling_is_not_poisson_sampling(batches: int, noise: float, poisson: str, shuffled: str, fixed: str) -> None:
    """One epoch; accounting shuffled batches as Poisson ones is wrong by up to a factor of six, mostly downwards."""
    value = accounting._pld_epsilon([events(1 / batches, batches, noise)], delta=1e-5, grid=accounting.COARSE_GRID)

    assert value is not None
    assert shows(value, poisson)
    assert shows(shuffling_at_least(batches, noise, delta=1e-5), shuffled)
    assert shows(one_gaussian(noise, delta=1e-5), fixed)


def shuffling_at_least(batches: int, noise: float, *, delta: float) -> float:
    """Lower bound by the event that some batch's sum exceeds a threshold (Chua et al. 2024, arXiv 2403.17673)."""
    threshold = np.linspace(-2, 12, 4000)
    others = (batches - 1) * stats.norm.logcdf(threshold / noise)
    with_it = -np.expm1(others + stats.norm.logcdf((threshold - 2) / noise))
    without = -np.expm1(others + stats.norm.logcdf((threshold - 1) / noise))
    return float(optimize.brentq(lambda e: float(np.max(with_it - np.exp(e) * without)) - delta, 0, 60))


def one_gaussian(noise: float, *, delta: float) -> float:
    """Each record is in exactly one batch: a single Gaussian mechanism (Balle & Wang 2018, theorem 8)."""

    def left(e: float) -> float:
        a, b = 1 / (2 * noise), e * noise
        return float(stats.norm.cdf(a - b) - math.exp(e) * stats.norm.cdf(-a - b)) - delta

    return float(optimize.brentq(left, 0, 60))


@pytest.mark.parametrize(
    ("cap", "printed"), [(150, "5.735"), (140, "5.754"), (130, "6.25"), (120, "8.82"), (110, "15.0")]
)
def test_cut_samples_cost_what_the_table_says(cap: int, printed: str) -> None:
    """2,000 records, 100 expected, 400 steps: a cap near the mean is dear, one in the tail is free."""
    cut = dataclasses.replace(events(0.05, 400, 1.0), max_batch=cap, records=2000)

    value = accounting._pld_epsilon([cut], delta=1e-4, grid=accounting.COARSE_GRID)

    assert value is not None
    assert shows(value, printed)


def test_replacing_one_record_costs_more_than_blanking_it_out() -> None:
    """The relation stands with every epsilon because another one has another number."""
    accountant = pld_privacy_accountant.PLDAccountant(
        dp_accounting.NeighboringRelation.REPLACE_ONE, value_discretization_interval=1e-3
    )
    sampled = dp_accounting.PoissonSampledDpEvent(0.05, dp_accounting.GaussianDpEvent(1.0))

    accountant.compose(dp_accounting.SelfComposedDpEvent(sampled, 400))

    assert shows(accountant.get_epsilon(1e-4), "9.38")
    assert shows(epsilon([events(0.05, 400, 1.0)], delta=1e-4).epsilon, "5.74")


@pytest.mark.parametrize("size", [1, 460_000, 40_000_000])
def test_rounding_to_a_grid_counts_and_can_be_planned_for(size: int) -> None:
    """By hand: the distance of two sums grows by one step of 2**-20 deviations in each value."""
    widened = 1.0 / (1.0 + size**0.5 * 2.0**-20)

    assert accounting.on_grid(1.0, size=size) == pytest.approx(widened, rel=1e-15)
    assert accounting.on_grid(accounting.for_grid(0.7, size=size), size=size) == pytest.approx(0.7, rel=1e-12)
    assert 0.993 < widened < 1
    with pytest.raises(ValueError, match="no discrete noise"):
        accounting.for_grid(2.0**20, size=size)
