"""Plans whose rounds are voted on: what they need of a configuration, and the noise that keeps the votes' budget."""

from __future__ import annotations

import dataclasses

from partsong.common.config import PrivacyConfig, SimulationConfig
from partsong.common.deployment import JobConfig
from partsong.common.errors import ConfigError
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import epsilon, for_grid
from partsong.common.privacy.calibration import CALIBRATION_SLACK, calibrate
from partsong.common.privacy.terms import DpPlan


def with_votes(plan: Plan, config: SimulationConfig | JobConfig) -> Plan:
    """Put a vote behind every round of a plan.

    Args:
        plan: that trains in each of its rounds.
        config: of the run.
    Raises:
        ConfigError: settings that votes cannot be under, or a budget that training and votes together exceed.
    """
    _require_settings(config)
    noise = None if plan.dp is None else _noise(config.privacy, config.vote.epsilon, votes=plan.rounds)
    voted = dataclasses.replace(plan, rounds=2 * plan.rounds, vote=config.vote.terms(noise_multiplier=noise))
    return voted if plan.dp is None else _priced(voted, plan.dp, most=plan.dp.epsilon + config.vote.epsilon)


def _require_settings(config: SimulationConfig | JobConfig) -> None:
    if config.privacy.placement == "sum":
        raise ConfigError(
            "vote.mode",
            found="holdout with privacy.placement=sum: a vote has each site's own noise",
            expected="off, or privacy.placement=site",
        )
    if isinstance(config, SimulationConfig) and config.measure_aggregation:
        raise ConfigError(
            "measure_aggregation",
            found="true with vote.mode=holdout: a round moves nothing before it is voted on",
            expected="false",
        )


def _noise(privacy: PrivacyConfig, asked: float, *, votes: int) -> float:
    """Give the noise of each vote with which all of them together keep their budget."""
    sigma = calibrate(sampling_rate=1.0, steps=votes, epsilon=asked, delta=privacy.delta, loss_noise_ratio=None)
    if privacy.noise != "discrete":
        return sigma
    try:
        return for_grid(sigma, size=1)
    except ValueError as err:
        raise ConfigError("privacy.noise", found="discrete", expected=f"gaussian: {err}") from err


def _priced(plan: Plan, dp: DpPlan, *, most: float) -> Plan:
    """Write down what training and votes cost together, which is less than the sum of both budgets."""
    spent = epsilon(plan.releases(first=1, last=plan.rounds), delta=dp.delta).epsilon * (1 + CALIBRATION_SLACK)
    if spent > most:
        raise ConfigError(
            "vote.epsilon",
            found=f"training and votes that cost {spent:.4g} together",
            expected=f"at most {most:g}, privacy.epsilon and vote.epsilon together",
            remedy="lower both, or ask for fewer rounds",
        )
    return dataclasses.replace(plan, dp=dataclasses.replace(dp, epsilon=spent))
