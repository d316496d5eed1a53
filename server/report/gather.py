"""From what a run wrote down to its facts: pure, so that whoever has the files comes to the same."""

from __future__ import annotations

from partsong.common.adapters.methods import METHODS
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import neighbours
from partsong.common.privacy.terms import DpPlan
from partsong.server.planning import epsilon_after, epsilon_alone_after
from partsong.server.report.claims import not_covered
from partsong.server.report.facts import (
    AdapterFacts,
    BaseModel,
    CharterFacts,
    Facts,
    OnSum,
    PrivacyFacts,
    SiteFacts,
    VoteTerms,
    sum_facts,
)
from partsong.server.report.hazards import hazards
from partsong.server.report.leaving import leaving
from partsong.server.report.sources import Sources

ACCOUNTANT = "PLD (dp-accounting)"


def facts_of(found: Sources) -> Facts:
    """Give the facts of a run; equal sources give equal facts."""
    plan, charter, ending = found.plan, found.charter, found.ending
    method = METHODS[plan.method]
    return Facts(
        run=plan.run,
        simulated=found.simulated,
        plan_sha256=plan.sha256,
        config_sha256=ending.config_sha256,
        base=BaseModel(name=ending.base_name, sha256=plan.base_sha256),
        adapter=AdapterFacts(
            sha256=ending.adapter_sha256,
            method=plan.method,
            exact=method.exact,
            source=method.source,
            trained_parameters=plan.layout.size(trained=True),
            task=plan.task,
            rolled_back_to=found.rolled_back_to,
        ),
        charter=None
        if charter is None
        else CharterFacts(
            consortium=charter.consortium,
            version=charter.version,
            sha256=charter.hash.hex(),
            suite=charter.suite,
            coordinator=charter.coordinator,
        ),
        versions=dict(found.versions),
        marks=ending.marks,
        planned_rounds=plan.rounds,
        opened_rounds=found.opened_rounds,
        update_bytes=plan.training_bytes() // plan.training_rounds,
        privacy=None if plan.dp is None else _privacy(plan, plan.dp, opened_rounds=found.opened_rounds),
        secure_sum=None if charter is None else sum_facts(charter, plan, checked_by=ending.checked_by),
        leaving=leaving(plan, simulated=found.simulated),
        rounds=found.rounds,
        sites=_sites(found),
        hazards=hazards(plan, evaluated=any(r.held_out_loss is not None for r in found.rounds)),
        not_covered=not_covered(None if plan.dp is None else plan.dp.unit),
        vote=None
        if plan.vote is None
        else VoteTerms(
            most_votes=plan.vote.most_votes,
            margin=plan.vote.margin,
            scale=plan.vote.scale,
            noise_multiplier=plan.vote.noise_multiplier,
        ),
        groups=() if plan.groups is None else plan.groups.sites,
    )


def _privacy(plan: Plan, dp: DpPlan, *, opened_rounds: int) -> PrivacyFacts:
    spent, at_two = epsilon_after(plan, opened_rounds), epsilon_after(plan, opened_rounds, sites=2)
    if spent is None or at_two is None:
        raise AssertionError("a plan with privacy terms has an epsilon")
    return PrivacyFacts(
        unit=dp.unit,
        contribution_bound=dp.contribution_bound,
        neighbours=neighbours(dp.unit),
        epsilon=spent,
        epsilon_at_two_sites=at_two,
        planned_epsilon=dp.epsilon,
        delta=dp.delta,
        accountant=ACCOUNTANT,
        sampling="Poisson",
        sampling_rate=dp.sampling_rate,
        steps_per_round=plan.training.steps_per_round,
        steps=plan.steps_in(opened_rounds),
        clip_norm=dp.clip_norm,
        clipping=dp.clipping,
        noise=dp.noise,
        noise_multiplier=dp.noise_multiplier,
        loss_clip=dp.loss_clip,
        loss_noise_multiplier=dp.loss_noise_multiplier,
        on_sum=None
        if dp.on_sum is None
        else OnSum(
            minimum_sum=dp.on_sum.minimum_sum,
            colluders=dp.on_sum.colluders,
            epsilon_alone=epsilon_alone_after(plan, opened_rounds),
        ),
    )


def _sites(found: Sources) -> tuple[SiteFacts, ...]:
    """All sites of the charter; without one, all that were seen."""
    seen = {site for entry in found.rounds for site in (*entry.sites, *entry.lost)} | set(found.refused)
    listed = set() if found.charter is None else {site.id for site in found.charter.sites}
    took_part = {site for entry in found.rounds for site in entry.sites}
    return tuple(
        SiteFacts(
            site=site,
            sums=sum(site in entry.sites for entry in found.rounds),
            bytes_out=sum(entry.bytes_out.get(site, 0) for entry in found.rounds),
            checked=site in found.ending.checked_by,
            refused=None if site in took_part else found.refused.get(site),
            ledger_head=found.ending.ledger_heads.get(site),
        )
        for site in sorted(seen | listed)
    )
