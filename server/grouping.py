"""Plans with a sum for each group of sites: what they need of a configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from partsong.common.config import SimulationConfig
from partsong.common.deployment import JobConfig
from partsong.common.errors import ConfigError
from partsong.common.groups import deal
from partsong.common.plan import Plan
from partsong.common.secure_sum.committee import ALL_HOLD_UP_TO
from partsong.common.simulated import ANY_RANK
from partsong.common.thresholds import Floors, smallest_roster


def with_groups(
    plan: Plan,
    config: SimulationConfig | JobConfig,
    *,
    count: int,
    names: Sequence[str],
    floors: Floors | None,
) -> Plan:
    """Ask one group of sites after the other in place of all in each round.

    Args:
        plan: that trains in each of its rounds.
        config: of the run.
        count: groups.
        names: of all sites.
        floors: of the secure sum; None without one.
    Raises:
        ConfigError: settings that groups cannot be under, or groups too small for a sum.
    """
    _require_settings(config)
    if config.secure_sum.mode == "full" and len(names) > ALL_HOLD_UP_TO:
        raise ConfigError(
            "cohort.groups",
            found=f"{count} with {len(names)} sites, a committee of which holds the shares of every round",
            expected=f"at most {ALL_HOLD_UP_TO} sites, whose groups hold their own",
            remedy="leave groups out, or play them with secure_sum.mode=sum-only",
        )
    smallest = len(names) // count
    needed = _needed(floors, minimum=plan.minimum_cohort, most=len(names))
    if smallest < needed:
        raise ConfigError(
            "cohort.groups",
            found=f"{count} with {len(names)} sites, whose smallest group would be {smallest}",
            expected=f"groups of at least {needed} sites: each has a sum of its own, under the floors of every sum",
            remedy=f"ask for fewer groups, or with {count * needed} sites and more",
        )
    return dataclasses.replace(plan, rounds=count * plan.rounds, groups=deal(names, count=count, run=plan.run))


def _needed(floors: Floors | None, *, minimum: int, most: int) -> int:
    return minimum if floors is None else smallest_roster(floors, plan_minimum=minimum, members=most)


def _require_settings(config: SimulationConfig | JobConfig) -> None:
    if config.adapter.method in ANY_RANK:
        raise ConfigError(
            "cohort.groups",
            found=f"groups with adapter.method={config.adapter.method}: the median of products is of no rank",
            expected="a method whose sites send factors: ffa, rolora, fedsb, fedit, fedrot",
        )
    if config.privacy.placement == "sum":
        raise ConfigError(
            "cohort.groups",
            found="groups with privacy.placement=sum: the noise would have to be whole in each group's sum",
            expected="privacy.placement=site",
        )
    if config.vote.mode != "off":
        raise ConfigError("cohort.groups", found="groups with votes", expected="one of the two: vote.mode=off")
    if isinstance(config, SimulationConfig) and config.measure_aggregation:
        raise ConfigError(
            "measure_aggregation",
            found="true with cohort.groups: a round is of one group and moves nothing by itself",
            expected="false",
        )
