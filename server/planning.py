"""From a configuration to a plan: noise for the budget, clips, the shape of the sealed vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from partsong.common.adapters.adapter import AdapterLayout, FloatVec, digest
from partsong.common.adapters.turns import Turn, specs_of
from partsong.common.config import AdapterConfig, PrivacyConfig, SimulationConfig, TrainingConfig
from partsong.common.deployment import JobConfig
from partsong.common.errors import ConfigError, Refused
from partsong.common.plan import LOSS, UPDATE, Plan
from partsong.common.privacy.accounting import StepEvents, epsilon, for_grid
from partsong.common.privacy.calibration import calibrate
from partsong.common.privacy.terms import DpPlan, SumNoise
from partsong.common.reach import largest_update
from partsong.common.secure_sum.fixed_point import Block, Encoding
from partsong.common.simulated import ANY_RANK
from partsong.common.thresholds import Floors
from partsong.server.grouping import with_groups
from partsong.server.lockstep import largest_sum, require_lockstep, sum_noise, with_room_for_rounding
from partsong.server.voting import with_votes

_LOSS_RANGE = 4.0
"""The released loss is clipped before it is noised, so noise may carry it beyond its clip; this many times the clip
leaves room for five standard deviations at the noise and sample sizes in use, and costs two bits of its precision."""

_TURNED = 2.0
"""Turning one factor towards the global adapter may take the other one further away; twice as far costs one bit. So may
a smaller rank, which cuts off what others have learned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """What a plan needs to know of the base model."""

    sha256: str
    lora: Mapping[str, Any]
    """LoRA's options as PEFT takes them."""
    layout: AdapterLayout
    """Of the adapter's tensors."""


def make_plan(
    config: SimulationConfig | JobConfig,
    *,
    run: str,
    max_sites: int,
    base: Base,
    labels: tuple[str, ...],
    frozen_F: FloatVec,
    start_P: FloatVec,
    floors: Floors | None = None,
    names: Sequence[str] = (),
) -> Plan:
    """Fix everything about a run.

    Args:
        config: the run as configured.
        run: its unique name.
        max_sites: most sites a sum may hold.
        base: what the loaded base model says of itself.
        labels: the closed list of classes; empty for a language model.
        frozen_F: the adapter's frozen part.
        start_P: its trained part, before the first round.
        floors: of the secure sum; None without one.
        names: of all sites, where they are dealt into groups.
    Raises:
        ConfigError: noise that was asked for does not keep the epsilon that was asked for, or noise on the sum with
            settings that it cannot be under.
    """
    privacy, training = config.privacy, config.training
    if config.adapter.refresh > config.rounds:
        raise ConfigError(
            "adapter.refresh", found=f"{config.adapter.refresh} stretches", expected=f"at most {config.rounds} rounds"
        )
    max_length, seed = (
        (config.max_length, None) if isinstance(config, JobConfig) else (config.data.max_length, config.seed)
    )
    size, steps = base.layout.size(trained=True), config.rounds * training.steps_per_round
    on_sum = None
    if privacy.placement == "sum":
        on_sum = _noise_on_sum(config, max_sites=max_sites, floors=floors)
    dp = None if privacy.mode == "none" else _privacy_terms(privacy, steps=steps, size=size, on_sum=on_sum)
    if config.adapter.method in ANY_RANK:
        _require_simulated(config)
    slack = _TURNED if config.adapter.method in {"fedrot", *ANY_RANK} else 1.0
    clip = config.secure_sum.update_clip or slack * _reach(training, dp, size=size)
    encoding = Encoding(
        blocks=(
            Block(name=UPDATE, size=size, clip=clip, norm="l2", rotate=True),
            Block(name=LOSS, size=1, clip=_loss_range(on_sum) * privacy.loss_clip, norm="linf", rotate=False),
        ),
        field_bits=config.secure_sum.field_bits,
        max_sites=max_sites,
    )
    plan = Plan(
        run=run,
        study="train",
        task=config.model.task,
        rounds=config.rounds,
        base_sha256=base.sha256,
        method=config.adapter.method,
        lora=dict(base.lora),
        layout=base.layout,
        frozen_sha256=digest(frozen_F),
        training=training,
        sampling_rate=privacy.sampling_rate,
        dp=dp,
        encoding=encoding,
        masked=config.secure_sum.mode == "full",
        spot_checks=config.secure_sum.mode == "full" and config.secure_sum.check_window > 0,
        start_sha256=digest(start_P),
        optimizer=config.optimizer,
        minimum_cohort=config.cohort.minimum,
        labels=labels,
        max_length=max_length,
        seed=seed,
        turns=_turns(config.adapter, training, dp, layout=base.layout, clip=config.secure_sum.update_clip),
        rounds_per_turn=-(-config.rounds // config.adapter.refresh) if config.adapter.refresh > 1 else 1,
        rotation=config.adapter.rotation if config.adapter.method == "fedrot" else 0.0,
    )
    if config.cohort.groups is not None:
        return with_groups(plan, config, count=config.cohort.groups, names=names, floors=floors)
    if config.vote.mode == "holdout":
        return with_votes(plan, config)
    if on_sum is None:
        return plan
    if privacy.noise_multiplier is None:
        return with_room_for_rounding(plan)
    _require_budget(privacy, plan.events(steps=steps))
    return plan


def _require_simulated(config: SimulationConfig | JobConfig) -> None:
    """Refuse to sum products where machines have to agree on a decomposition, or under privacy.

    Raises:
        ConfigError: a deployed job, or differential privacy.
    """
    method = config.adapter.method
    if isinstance(config, JobConfig):
        raise ConfigError(
            "adapter.method",
            found=f"{method}: published factors come of a decomposition, whose bits no two machines agree on",
            expected="a method that sites can check bit by bit",
            remedy="take ffa with the largest rank, or try it in a simulation",
        )
    if config.privacy.mode != "none":
        raise ConfigError(
            "adapter.method",
            found=f"{method} under differential privacy: noise on both factors is noise times noise in what is sent",
            expected="privacy=none, or a method with linear noise: ffa, rolora, fedsb",
        )


def _noise_on_sum(config: SimulationConfig | JobConfig, *, max_sites: int, floors: Floors | None) -> SumNoise:
    require_lockstep(config)
    if floors is None or config.privacy.expected_batch is None:
        raise AssertionError("the secure sum has floors, and the configuration a batch with noise on the sum")
    return sum_noise(
        expected_batch=config.privacy.expected_batch,
        max_sites=max_sites,
        minimum_cohort=config.cohort.minimum,
        floors=floors,
    )


def _reach(training: TrainingConfig, dp: DpPlan | None, *, size: int) -> float:
    """Bound what one site sends: an update, or under noise on the sum a sum of clipped gradients."""
    if dp is None or dp.on_sum is None:
        return largest_update(training, dp, size=size)
    return dp.clip_norm * largest_sum(dp.on_sum.expected_batch)


def _loss_range(on_sum: SumNoise | None) -> float:
    return _LOSS_RANGE if on_sum is None else largest_sum(on_sum.expected_batch)


def _turns(
    adapter: AdapterConfig, training: TrainingConfig, dp: DpPlan | None, *, layout: AdapterLayout, clip: float | None
) -> tuple[Turn, ...]:
    """Say what the rounds train, where they do not all train the same. B first: as long as it is 0, A learns nothing.

    Source: Chen et al. 2025, RoLoRA (arXiv 2409.02346), algorithm 1; the rates are those of Koo et al. 2025, LoRA-A2
        (arXiv 2410.22815).
    """
    factors: dict[str, tuple[float, float]] = {}
    if adapter.method == "rolora":
        factors = {"B": (1.0, 1.0), "A": (1 / adapter.lr_ratio, adapter.clip_ratio)}
    elif adapter.refresh > 1:
        factors = {f"B.{block}": (1.0, 1.0) for block in range(adapter.refresh)}
    return tuple(
        _turn(part, training, dp, rate=rate, clip_norm=norm, layout=layout, clip=clip)
        for part, (rate, norm) in factors.items()
    )


def _turn(
    part: str,
    training: TrainingConfig,
    dp: DpPlan | None,
    *,
    rate: float,
    clip_norm: float,
    layout: AdapterLayout,
    clip: float | None,
) -> Turn:
    turn = Turn(trains=part, learning_rate=rate, clip_norm=clip_norm, update_clip=1.0)
    size = sum(spec.size for spec in specs_of(layout, turn))
    scaled = None if dp is None else replace(dp, clip_norm=dp.clip_norm * clip_norm)
    reach = _reach(replace(training, learning_rate=training.learning_rate * rate), scaled, size=size)
    return replace(turn, update_clip=clip or reach)


def epsilon_after(plan: Plan, rounds: int, *, sites: int = 1) -> float | None:
    """Give what `rounds` rounds of a plan cost a unit that is at so many sites; None without differential privacy."""
    if plan.dp is None:
        return None
    if rounds == 0:
        return 0.0
    events = [replace(e, steps=sites * e.steps) for e in plan.releases(first=1, last=rounds)]
    return epsilon(events, delta=plan.dp.delta).epsilon


def epsilon_alone_after(plan: Plan, rounds: int) -> float | None:
    """Give what they cost if a site's own share of the noise is all that is left of it; None: not bounded."""
    if plan.dp is None or rounds == 0:
        return None if plan.dp is None else 0.0
    events = plan.events_alone(steps=plan.steps_in(rounds))
    try:
        return epsilon([events], delta=plan.dp.delta).epsilon
    except Refused:
        return None


def _privacy_terms(privacy: PrivacyConfig, *, steps: int, size: int, on_sum: SumNoise | None) -> DpPlan:
    sigma = privacy.noise_multiplier
    if sigma is None:
        sigma = calibrate(
            sampling_rate=privacy.sampling_rate,
            steps=steps,
            epsilon=privacy.epsilon,
            delta=privacy.delta,
            loss_noise_ratio=privacy.loss_noise_ratio,
        )
    loss_sigma = sigma * privacy.loss_noise_ratio
    if privacy.noise == "discrete" and privacy.noise_multiplier is None and on_sum is None:
        sigma, loss_sigma = _for_grid(sigma, size=size), _for_grid(loss_sigma, size=1)
    terms = DpPlan(
        unit=privacy.unit,
        contribution_bound=privacy.contribution_bound if privacy.unit == "patient" else None,
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        sampling_rate=privacy.sampling_rate,
        clip_norm=privacy.clip_norm,
        clipping=privacy.clipping,
        noise_multiplier=sigma,
        loss_clip=privacy.loss_clip,
        loss_noise_multiplier=loss_sigma,
        engine=privacy.engine,
        noise=privacy.noise if on_sum is None else "discrete",
        on_sum=on_sum,
    )
    if on_sum is None:
        _require_budget(privacy, terms.events(steps=steps, size=size))
    return terms


def _require_budget(privacy: PrivacyConfig, events: StepEvents) -> None:
    """Refuse noise that was asked for and is too little."""
    spent = epsilon([events], delta=privacy.delta).epsilon
    if privacy.noise_multiplier is not None and spent > privacy.epsilon:
        raise ConfigError(
            "privacy.noise_multiplier",
            found=f"{privacy.noise_multiplier}, which gives epsilon {spent:.2f}",
            expected=f"enough noise for privacy.epsilon={privacy.epsilon}",
            remedy="raise it, or leave it out to have it computed",
        )


def _for_grid(sigma: float, *, size: int) -> float:
    try:
        return for_grid(sigma, size=size)
    except ValueError as err:
        raise ConfigError(
            "privacy.noise",
            found="discrete",
            expected=f"gaussian: {err}",
            remedy="train fewer parameters, or ask for a larger privacy.epsilon",
        ) from err
