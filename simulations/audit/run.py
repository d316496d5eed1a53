"""From a configuration to an audit: prepare, rehearse, judge, write down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from partsong.client.dp.engine import DpSettings
from partsong.common.errors import PartsongError
from partsong.common.groups import of_one_site
from partsong.common.plan import Plan
from partsong.common.privacy.terms import DpPlan
from partsong.common.time_left import TimeLeft
from partsong.simulations.audit.memory import Memory, remembered
from partsong.simulations.audit.rehearsal import listen, train_with_texts, watch
from partsong.simulations.audit.settings import RehearsalConfig, require_public
from partsong.simulations.audit.steps import play_steps
from partsong.simulations.audit.timed import Timed
from partsong.simulations.audit.verdict import Verdict, judge
from partsong.simulations.federation import draft, fresh_adapter
from partsong.simulations.prepare import Prepared, prepare

Say = Callable[[str], None]


class ClaimBroken(PartsongError):
    """The rehearsal leaked more than the claim allows."""

    def __init__(self, verdict: Verdict) -> None:
        """Name the tests that failed."""
        super().__init__(
            f"audit: found {', '.join(verdict.failed)} against the claim of epsilon {verdict.claim.epsilon:.3f}, "
            f"expected no contradiction at {verdict.confidence:.2%} confidence; do not train private records with this "
            "engine and configuration"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """One finished audit."""

    config: RehearsalConfig
    site: str
    records: int
    noise_multiplier: float
    steps: int
    verdict: Verdict
    memory: Memory | None


def audit(config: RehearsalConfig, *, say: Say = lambda _: None) -> Audit:
    """Rehearse a configuration on public records with canaries, and judge its claim.

    Raises:
        Refused: `private_records_in_audit`; nothing was read.
        InputError: the configuration is none that `partsong simulate` would take.
    """
    require_public(config, declared=config.audit.records)
    prepared = prepare(config, say=say)
    plan, _ = draft(prepared, tuple(sorted(prepared.sites)), run="audit")
    return rehearse(config, prepared, plan, say=say)


def rehearse(config: RehearsalConfig, prepared: Prepared, plan: Plan, *, say: Say) -> Audit:
    """Rehearse a plan at the first of the prepared sites, and judge its claim.

    Trains on that site's records, up to as many times as `rehearsals` says; the caller answers for that.
    """
    plan = of_one_site(plan)
    dp = _terms(plan)
    site, host, random = min(prepared.sites), prepared.host, np.random.default_rng()
    records = prepared.sites[site].records
    _begin(prepared)
    say(f"{config.audit.step_trials} steps of the engine, one canary each")
    steps = play_steps(settings_of(dp), trials=config.audit.step_trials, random=random)
    others = records[: config.audit.others]
    say(f"rehearsal of {plan.steps} steps with {config.audit.canaries} gradient canaries and {len(others)} records")
    seen = Timed(TimeLeft("watched steps", of=plan.steps, say=say))
    watched = watch(host, others, plan=plan, canaries=config.audit.canaries, random=random, train=seen)
    noise = listen(host, plan=plan)
    memory = None
    if texts := config.audit.texts:
        say(f"rehearsal with {texts} random texts among {len(records)} records")
        heard = Timed(TimeLeft("steps with texts", of=plan.steps, say=say))
        trained = train_with_texts(host, records, plan=plan, texts=texts, random=random, train=heard)
        batch_size = config.training.per_device_eval_batch_size
        memory = remembered(host, trained, batch_size=batch_size, random=random)
    say("weighing what was seen")
    verdict = judge(plan, dp, steps=steps, watched=watched, noise=noise, confidence=config.audit.confidence)
    return Audit(
        config=config,
        site=site,
        records=len(records),
        noise_multiplier=dp.noise_multiplier,
        steps=plan.steps,
        verdict=verdict,
        memory=memory,
    )


def rehearsals(config: RehearsalConfig) -> int:
    """How many times the plan is carried out on records: watched, and again where there are random texts."""
    return 2 if config.audit.texts else 1


def _begin(prepared: Prepared) -> None:
    start_P, frozen_F = fresh_adapter(prepared)
    prepared.host.put(frozen_F, trained=False)
    prepared.host.put(start_P)


def settings_of(dp: DpPlan) -> DpSettings:
    """Give the engine's settings for single steps: those of the plan, with every record in every sample."""
    return DpSettings(
        clip_norm=dp.clip_norm,
        clipping=dp.clipping,
        noise_multiplier=dp.noise_multiplier,
        sampling_rate=1.0,
        expected_batch=1.0,
        loss_clip=dp.loss_clip,
        loss_noise_multiplier=dp.loss_noise_multiplier,
        engine=dp.engine,
        noise=dp.noise,
    )


def _terms(plan: Plan) -> DpPlan:
    if plan.dp is None:
        raise AssertionError("a plan without privacy was refused before")
    return plan.dp
