"""The sites of a simulated run, each with what would be on its own disk."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from partsong.client.budget.ledger import Ledger
from partsong.client.budget.spending import Purse
from partsong.client.data.encode import fingerprint
from partsong.client.dp.sampler import SeededRandomness, SystemRandomness
from partsong.client.encoders.encoder import Encoder
from partsong.client.encoders.evaluation import Evaluation
from partsong.client.encoders.lora import LoraTraining
from partsong.client.encoders.survey import Survey
from partsong.client.encoders.vote import Booth, Voting
from partsong.client.rules.agreement import ByPolicy, ByRules
from partsong.client.rules.approval import Approvals
from partsong.client.rules.consent import Rules
from partsong.client.rules.policy import Policy
from partsong.client.rules.policy_file import read_policy
from partsong.client.secure_sum.door import Door, PlainDoor
from partsong.client.secure_sum.masked_door import MaskedDoor
from partsong.client.site import Chance, Site, Watch
from partsong.common.config import SimulationConfig
from partsong.common.plan import Plan
from partsong.simulations.consortium import Consortium
from partsong.simulations.own_tests import Used, budget_of, own_test, personal_in, used_records
from partsong.simulations.prepare import Prepared, labels_of
from partsong.simulations.run_dir import RunDir

HOLDING = "records"
"""Name of a site's records in its ledger."""


StandIn = Callable[[str, Encoder], Encoder]


def honest(site: str, encoder: Encoder) -> Encoder:  # noqa: ARG001 - every site is
    """Let a site compute with its own encoder."""
    return encoder


def make_site(
    name: str,
    prepared: Prepared,
    run: RunDir,
    consortium: Consortium | None,
    *,
    watch: Watch,
    clock: Callable[[], float] = time.time,
    stand_in: StandIn = honest,
) -> tuple[Site, Ledger]:
    """Start a site on its folder of the run, new or after a crash.

    Args:
        name: of the site.
        prepared: model and records.
        run: directory of the run.
        consortium: keys; None without the secure sum.
        watch: told what happens at the site.
        clock: of the site [Unix time, s].
        stand_in: gives what the site computes with in place of its own encoder.
    Returns:
        the site, and its ledger for closing.
    """
    config, folder, used = prepared.config, run.site_folder(name), used_records(prepared, name)
    policy = None if config.site_policy is None else read_policy(Path(config.site_policy))
    rules = _rules(config) if policy is None else policy.rules
    coordinator = "" if consortium is None else consortium.coordinator
    ledger = _ledger(config, run, name, policy=policy)
    site = Site(
        name=name,
        encoder=stand_in(name, _encoder(prepared, name, used)),
        consent=ByRules(rules)
        if policy is None
        else ByPolicy(policy, Approvals(folder / "approvals"), coordinator=coordinator),
        journal=folder / "journal.jsonl",
        door=_door(name, run, consortium, rules=rules, clock=clock),
        purse=Purse(
            ledger,
            holding=HOLDING,
            fingerprint=fingerprint(used.encoded.records),
            units={"record": used.encoded.count("record"), "patient": used.encoded.count("patient")},
            coordinator=coordinator,
            survey_first=rules.survey_first,
        ),
        chance=lambda plan, number: chance(name, plan, number),
        watch=watch,
    )
    return site, ledger


def _encoder(prepared: Prepared, name: str, used: Used) -> Encoder:
    """Give what answers the queries of the run's purpose."""
    host, labels = prepared.host, labels_of(prepared)
    if prepared.config.purpose == "evaluate":
        return Evaluation(host=host, encoded=used.encoded, labels=labels, groups=used.groups)
    training = LoraTraining(host=host, encoded=used.encoded, labels=labels, rank=rank_of(prepared, name))
    if prepared.config.purpose == "survey":
        return Survey(
            facts=training.facts,
            records=lambda _: used.encoded,
            groups=used.groups,
            personal=personal_in(prepared, name),
        )
    if prepared.config.vote.mode == "holdout":
        return Voting(training, Booth(host=host, encoded=own_test(prepared, name).encoded))
    return training


def rank_of(prepared: Prepared, name: str) -> int | None:
    """Give the rank that a site has chosen; None: the plan's."""
    ranks = prepared.config.site_ranks
    return ranks[sorted(prepared.sites).index(name) % len(ranks)] if ranks else None


def _rules(config: SimulationConfig) -> Rules:
    return Rules(
        max_epsilon=budget_of(config),
        max_epsilon_alone=math.inf if config.privacy.placement == "sum" else None,
        allow_without_privacy=config.privacy.mode == "none",
        minimum_cohort=config.cohort.minimum,
        minimum_records=1,
    )


def _door(name: str, run: RunDir, consortium: Consortium | None, *, rules: Rules, clock: Callable[[], float]) -> Door:
    if consortium is None:
        return PlainDoor(name=name, rules=rules)
    return MaskedDoor(
        consortium.members[name],
        name=name,
        copy=run.site_folder(name) / "adapter-copy.safetensors",
        entropy=os.urandom,
        clock=clock,
    )


def _ledger(config: SimulationConfig, run: RunDir, name: str, *, policy: Policy | None) -> Ledger:
    """Open a site's ledger, with the budgets of its policy, or else a ceiling of what the run may cost."""
    privacy = config.privacy
    ledger = Ledger(run.site_folder(name) / "ledger.sqlite")
    if policy is not None:
        ledger.adopt(policy.grants)
    elif HOLDING not in ledger.holdings():
        ceiling = None if privacy.mode == "none" else budget_of(config)
        ledger.set_ceiling(HOLDING, epsilon=ceiling, delta=privacy.delta)
    return ledger


def chance(site: str, plan: Plan, number: int) -> Chance:
    """Randomness of one round at one site: the operating system's, or repeatable where the plan has a seed.

    A plan with differential privacy has no seed, so its samples and noise never come from here.
    """
    if plan.seed is None:
        return Chance(samples=SystemRandomness(), rounding=np.random.default_rng())
    seed = hashlib.sha256(f"partsong test seed\0{plan.seed}\0{site}\0{number}".encode()).digest()
    return Chance(samples=SeededRandomness(seed), rounding=np.random.default_rng(int.from_bytes(seed[:8], "big")))
