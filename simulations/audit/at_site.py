"""An audit over a site's real records: at the site, charged to its ledger before it trains on them, and kept there.

Covers: a rehearsal is a use of the records like any other. What it shows is made of the releases of DP-SGD runs over
them, so it costs what these runs cost, each of them as much as the plan that is rehearsed; the budget is final before
the first step, whatever becomes of the audit.
Does not cover: an engine that the audit finds broken. Its releases were not as private as charged.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partsong.client.budget.ledger import Claim
from partsong.client.data.encode import fingerprint
from partsong.client.data.table import read_table
from partsong.client.encoders.lora import LoraTraining
from partsong.client.home.layout import SiteHome
from partsong.client.home.ledger import open_ledger
from partsong.client.rules.consent import check_plan
from partsong.client.rules.policy import Policy
from partsong.client.rules.policy_file import read_policy
from partsong.common.deployment import SiteConfig
from partsong.common.errors import ConfigError, Refused
from partsong.common.plan import Plan
from partsong.simulations.audit.run import Audit, Say, rehearsals, rehearse
from partsong.simulations.audit.settings import RehearsalConfig
from partsong.simulations.federation import draft
from partsong.simulations.prepare import Prepared, SiteTables, labels_of, prepare

PURPOSE = "audit"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Charged:
    """What an audit took from a holding."""

    holding: str
    epsilon: float
    """Spent in the holding's life, this audit included."""
    ceiling: float | None
    delta: float


def audit_at_site(
    home: SiteHome, site: SiteConfig, config: RehearsalConfig, *, say: Say = lambda _: None
) -> tuple[Audit, Charged]:
    """Rehearse a configuration on the site's own records.

    Args:
        home: directory of the site, with policy and ledger.
        site: its settings.
        config: of `settings.compose_at_site`.
        say: told what is going on.
    Raises:
        Refused: the policy does not name the purpose `audit`, or the budget has no room; no step was trained.
        NotAgreed: a plan like this would be refused here; no step was trained.
        InputError: the records or the model cannot be used.
    """
    policy = read_policy(home.policy)
    _require_purpose(policy)
    prepared = prepare(config, tables=_tables(site), say=say)
    plan, _ = draft(prepared, (site.name,), run="audit")
    _check(plan, policy, prepared, site)
    charged = _charge(home, site, policy, prepared, plan, times=rehearsals(config))
    ceiling = "" if charged.ceiling is None else f" of {charged.ceiling:g}"
    say(f"charged to holding {charged.holding}: epsilon {charged.epsilon:.4g}{ceiling} is spent")
    return rehearse(config, prepared, plan, say=say), charged


def facts(found: Mapping[str, Any], charged: Charged) -> dict[str, Any]:
    """Add to an audit's facts what it cost, and that it stays here."""
    rehearsed = {**found["rehearsed"], "records_are": "private"}
    return {**found, "rehearsed": rehearsed, "charged": dataclasses.asdict(charged), "kept": "at the site; never sent"}


def fresh_file(home: SiteHome) -> Path:
    """Name a new file in a folder that is the owner's alone."""
    folder = home.path / "audits"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"audit-{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S-%f}.json"


def _require_purpose(policy: Policy) -> None:
    if PURPOSE not in policy.purposes:
        raise Refused(
            "purposes",
            reason="the policy does not allow audits of these records",
            remedy="name audit among the purposes of policy.yaml, or rehearse on public records: partsong audit",
        )


def _tables(site: SiteConfig) -> SiteTables:
    if site.data.path is None:
        raise ConfigError("data.path", found="nothing in site.yaml", expected="the site's records")
    table = read_table(Path(site.data.path), site.data)
    return SiteTables(
        sites={site.name: table}, held_out=None, held_out_by_site={}, labels=site.data.labels, manifest={}
    )


def _check(plan: Plan, policy: Policy, prepared: Prepared, site: SiteConfig) -> None:
    """Refuse what the site would refuse a coordinator; nothing leaves, so cohort and mask do not matter."""
    rules = dataclasses.replace(policy.rules, purposes=None, masked_only=False, minimum_cohort=1)
    encoded = prepared.sites[site.name]
    local = LoraTraining(host=prepared.host, encoded=encoded, labels=labels_of(prepared))
    check_plan(plan, rules, local.facts(plan))


def _charge(home: SiteHome, site: SiteConfig, policy: Policy, prepared: Prepared, plan: Plan, *, times: int) -> Charged:
    """Reserve and commit: nothing of an audit can be given back, for it is seen as it runs."""
    if plan.dp is None:
        raise AssertionError("a configuration without privacy was refused before")
    encoded = prepared.sites[site.name]
    events = plan.events(steps=times * plan.steps)
    name = f"audit-{os.urandom(8).hex()}"
    ledger = open_ledger(home)
    try:
        ledger.adopt(policy.grants)
        spend = ledger.reserve(
            Claim(
                holding=site.holding,
                context=name,
                purpose=PURPOSE,
                run=name,
                coordinator="",
                fingerprint=fingerprint(encoded.records),
                events=(events.at_site(records=encoded.count(plan.dp.unit) or 0),),
            )
        )
        ledger.commit(name)
        grant = ledger.holding(site.holding).grant
    finally:
        ledger.close()
    return Charged(holding=site.holding, epsilon=spend.epsilon, ceiling=grant.epsilon, delta=grant.delta)
