"""Plans with noise on the sum: what they need of a configuration, and the noise that keeps the budget."""

from __future__ import annotations

import dataclasses
import math

from partsong.common.config import SimulationConfig
from partsong.common.deployment import JobConfig
from partsong.common.errors import ConfigError
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import TAIL_SDS, epsilon, joint_multiplier
from partsong.common.privacy.terms import SumNoise
from partsong.common.thresholds import Floors, smallest_sum

MOST_TRIES = 20
"""Widening the noise for what rounding costs comes to rest after three or four."""


def require_lockstep(config: SimulationConfig | JobConfig) -> None:
    """Refuse settings under which noise on the sum would be short, or would not do what they say.

    Raises:
        ConfigError: names the first of them.
    """
    training, why = config.training, "privacy.placement=sum"
    asked: tuple[tuple[str, object, object, str], ...] = (
        ("privacy.mode", config.privacy.mode, "dp", "there is no noise to place"),
        ("secure_sum.mode", config.secure_sum.mode, "full", "one site's share of the noise hides none of its records"),
        (
            "training.steps_per_round",
            training.steps_per_round,
            1,
            "a second local step starts from a site's own sum, whose noise would be that site's share alone",
        ),
        ("training.optim", training.optim, "sgd", "no site takes a step of its own; optimizer.name takes it"),
        ("training.weight_decay", training.weight_decay, 0.0, "no site takes a step of its own"),
        ("training.prox_mu", training.prox_mu, 0.0, "a single step starts at the global adapter"),
        ("adapter.method", config.adapter.method, None, "sites send sums of gradients, which none of them turns"),
        ("secure_sum.weights", config.secure_sum.weights, (), "every share of the noise has to count alike"),
    )
    for name, found, wanted, reason in asked:
        if found != wanted and (wanted is not None or found == "fedrot"):
            raise ConfigError(
                name,
                found=f"{found} with {why}: {reason}",
                expected="any method but fedrot" if wanted is None else str(wanted) or "none",
                remedy=f"set {name} so, or leave the noise at each site with privacy.placement=site",
            )
    if isinstance(config, SimulationConfig) and config.measure_aggregation:
        raise ConfigError(
            "measure_aggregation",
            found=f"true with {why}: a sum of gradients loses nothing",
            expected="false",
        )


def sum_noise(*, expected_batch: float, max_sites: int, minimum_cohort: int, floors: Floors) -> SumNoise:
    """Say whose noise makes up the noise of a sum.

    Args:
        expected_batch: public number of units.
        max_sites: that are asked in a round.
        minimum_cohort: of the plan.
        floors: of the secure sum.
    Raises:
        ConfigError: as many may collude as a sum may be made of.
    """
    smallest = max(smallest_sum(roster=max_sites, floors=floors), minimum_cohort)
    colluders = max(floors.corrupt_tolerance, 1)
    if not colluders < smallest <= max_sites:
        raise ConfigError(
            "privacy.placement",
            found=f"sum with {max_sites} sites, of which {smallest} make a sum and {colluders} may collude",
            expected="more sites than may collude",
        )
    return SumNoise(minimum_sum=smallest, colluders=colluders, expected_batch=expected_batch)


def largest_sum(expected_batch: float) -> float:
    """Give the number of units that no site's sample exceeds, as far as the expected batch is right: the tail is cut.

    One site may hold nearly all records, so the whole batch may be one site's. A larger sum is shortened, which costs
    no privacy.
    """
    return expected_batch + TAIL_SDS * math.sqrt(max(expected_batch, 1.0))


def with_room_for_rounding(plan: Plan) -> Plan:
    """Raise the noise until a sum costs on its grid what it would cost without one.

    Args:
        plan: with noise on the sum, calibrated for real numbers.
    """
    dp = plan.dp
    if dp is None:
        raise AssertionError("a plan with noise on the sum has privacy terms")
    wanted, ratio = joint_multiplier(dp.noise_multiplier, dp.loss_noise_multiplier), 1.0
    for _ in range(MOST_TRIES):
        raised = dataclasses.replace(
            dp, noise_multiplier=dp.noise_multiplier * ratio, loss_noise_multiplier=dp.loss_noise_multiplier * ratio
        )
        trial = dataclasses.replace(plan, dp=raised)
        events = trial.events(steps=trial.steps)
        missing = max(wanted / events.noise_multiplier, epsilon([events], delta=dp.delta).epsilon / dp.epsilon)
        if missing <= 1:
            return trial
        ratio *= missing * (1 + 1e-5)
    raise ConfigError(
        "secure_sum.field_bits",
        found=f"{plan.encoding.field_bits}, in which rounding outgrows the noise",
        expected="wider fields",
    )
