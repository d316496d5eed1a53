"""The site's own rules, as its operator writes them: closed by default.

Covers: what a policy may say, and what its silence means: no holding, no purpose that reads a record, no base model
    and no layer is allowed, and what is allowed waits for a person.
Does not cover: whether the rules are kept (`consent` for plans and queries, `ledger` for budgets, `approval` for the
    word of a person).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from partsong.client.budget.blocks import Block, check_layout
from partsong.client.budget.books import Grant
from partsong.client.rules.consent import Purpose, Rules, Unit, VoteRule
from partsong.common.plan import is_name
from partsong.common.privacy.accounting import LOWEST_NOISE
from partsong.common.thresholds import Floors

Approval = Literal["manual", "auto"]
_CANARY: Purpose = "canary"
"""Reads no record, so no policy has to allow it; `purposes.canary.approval: manual` asks a person all the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldingPolicy:
    """What may ever be spent on one body of records. It outlives runs, coordinators and versions of the data."""

    epsilon: float
    """For its whole life, over everything that is ever asked of it."""
    delta: float
    """Of every epsilon of this holding; below 1 / number of records, and never changed again."""
    purposes: Mapping[Purpose, float] = field(default_factory=dict)
    """Epsilon that one purpose may take of the lifetime; one not named here is held by the other ceilings alone."""
    per_quarter: float | None = None
    """Epsilon that the queries of one calendar quarter (UTC) may take together; None: no ration."""
    unfinished_per_day: int = 10
    """Queries that may be opened and left without a sum in one day (UTC). They cost no budget, but time."""
    blocks: tuple[Block, ...] = ()
    """Parts by an immutable date, each with this whole budget. Nobody may appear in two of them, which is checked."""

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1000:
            raise ValueError(f"epsilon above 0 and at most 1000, not {self.epsilon}")
        if not 0 < self.delta < 1:
            raise ValueError(f"delta above 0 and below 1, not {self.delta}")
        rations = [*self.purposes.values(), *([] if self.per_quarter is None else [self.per_quarter])]
        if any(not 0 < ration <= self.epsilon for ration in rations):
            raise ValueError(f"rations above 0 and at most the lifetime's epsilon {self.epsilon}")
        if self.unfinished_per_day < 1:
            raise ValueError(f"unfinished_per_day of at least 1, not {self.unfinished_per_day}")
        check_layout(self.blocks)

    @property
    def grant(self) -> Grant:
        """What the ledger is told."""
        return Grant(
            epsilon=self.epsilon,
            delta=self.delta,
            purposes={str(purpose): ration for purpose, ration in self.purposes.items()},
            per_quarter=self.per_quarter,
            unfinished_per_day=self.unfinished_per_day,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PurposePolicy:
    """One kind of query that is allowed."""

    approval: Approval = "manual"
    """manual: a person accepts each plan. auto: a plan that keeps every rule is accepted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacyFloor:
    """The least protection of anything that leaves."""

    max_epsilon: float = 8.0
    """Most that one plan may spend."""
    max_delta: float = 1e-5
    """Largest delta that a plan may state its epsilon at: at a larger one any plan looks cheap."""
    min_noise_multiplier: float = 0.3
    """Least noise of one step; below 0.3 a few steps on one record cost tens of epsilon."""
    units: tuple[Unit, ...] = ("patient", "record")
    """Whose presence a plan may hide. `[patient]` where a patient has several records."""
    max_epsilon_alone: float | None = None
    """Most that one plan with noise on the sum may spend if all other sites work with the coordinator, so that this
    site's own share of the noise is all that is left. null: no plan with noise on the sum."""
    allow_without_privacy: bool = False
    """Plans without differential privacy. Their first query ends the budget of the holding."""
    allow_secure_sum_off: bool = False
    """Vectors that leave unmasked, readable by the coordinator one by one."""

    def __post_init__(self) -> None:
        if not 0 < self.max_epsilon <= 1000:
            raise ValueError(f"max_epsilon above 0 and at most 1000, not {self.max_epsilon}")
        if self.max_epsilon_alone is not None and not 0 < self.max_epsilon_alone <= 1e6:
            raise ValueError(f"max_epsilon_alone above 0 and at most 1e6, not {self.max_epsilon_alone}")
        if not 0 < self.max_delta < 1:
            raise ValueError(f"max_delta above 0 and below 1, not {self.max_delta}")
        if not LOWEST_NOISE <= self.min_noise_multiplier <= 1e6:
            raise ValueError(f"min_noise_multiplier between {LOWEST_NOISE} and 1e6, not {self.min_noise_multiplier}")
        if not self.units or len(set(self.units)) != len(self.units):
            raise ValueError("at least one unit, none twice")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFloor:
    """How many must stand behind a number before it is computed."""

    minimum_cohort: int = 3
    """Fewest sites a sum may be made of."""
    survey_first: bool = False
    """Whether training waits until a survey of the records, as they are then, was answered."""
    vote: VoteRule = "refuse"
    """Whether rounds of training may be voted on by the records that are kept for testing (`data.held_out`), or have
    to be: refuse, allow or require. A vote is paid from the same holding."""
    minimum_records: int = 100
    """Fewest records to train on."""
    minimum_patients: int | None = 100
    """Fewest patients to train on. Data that does not say whose a record is needs null here: nobody can count then."""

    def __post_init__(self) -> None:
        least = (
            self.minimum_records if self.minimum_patients is None else min(self.minimum_records, self.minimum_patients)
        )
        if self.minimum_cohort < 2 or least < 1:
            raise ValueError("minimum_cohort of at least 2, minimum_records and minimum_patients of at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterLimits:
    """What may be trained here, and how much of it may leave."""

    bases: tuple[str, ...] = ()
    """SHA-256 of the base models that may be trained on; empty: none."""
    target_modules: tuple[str, ...] = ()
    """Layers that may change, by the last part of their name, a classification head included; empty: none."""
    max_r: int = 16
    """Largest LoRA rank of any layer."""
    max_bytes_out: int = 100_000_000
    """Most bytes of sealed vectors that one plan may take out of the site, over all its rounds."""

    def __post_init__(self) -> None:
        if min(self.max_r, self.max_bytes_out) < 1:
            raise ValueError("max_r and max_bytes_out of at least 1")
        if any(len(base) != 64 or set(base) - set("0123456789abcdef") for base in self.bases):
            raise ValueError("bases as SHA-256, 64 lower-case hex digits each")


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Everything a site's operator decides. `Policy()` allows nothing."""

    holdings: Mapping[str, HoldingPolicy] = field(default_factory=dict)
    """Bodies of records that have a budget, by name."""
    purposes: Mapping[Purpose, PurposePolicy] = field(default_factory=dict)
    """Kinds of query that are allowed at all, besides canaries."""
    privacy: PrivacyFloor = field(default_factory=PrivacyFloor)
    data: DataFloor = field(default_factory=DataFloor)
    adapter: AdapterLimits = field(default_factory=AdapterLimits)

    def __post_init__(self) -> None:
        if not all(is_name(name) and "/" not in name for name in self.holdings):
            raise ValueError("holdings with printable names of at most 200 characters, without /")

    @property
    def rules(self) -> Rules:
        """What a plan is checked against."""
        return Rules(
            max_epsilon=self.privacy.max_epsilon,
            max_epsilon_alone=self.privacy.max_epsilon_alone,
            max_delta=self.privacy.max_delta,
            allow_without_privacy=self.privacy.allow_without_privacy,
            minimum_cohort=self.data.minimum_cohort,
            minimum_records=self.data.minimum_records,
            minimum_patients=self.data.minimum_patients,
            least_noise=self.privacy.min_noise_multiplier,
            units=self.privacy.units,
            purposes=tuple(dict.fromkeys((*self.purposes, _CANARY))),
            bases=self.adapter.bases,
            target_modules=self.adapter.target_modules,
            max_rank=self.adapter.max_r,
            max_bytes_out=self.adapter.max_bytes_out,
            survey_first=self.data.survey_first,
            vote=self.data.vote,
            masked_only=not self.privacy.allow_secure_sum_off,
        )

    @property
    def grants(self) -> dict[str, Grant]:
        """Budgets by the name under which the ledger keeps them: `HOLDING`, or `HOLDING/BLOCK` for each block."""
        found: dict[str, Grant] = {}
        for name, holding in self.holdings.items():
            names = [f"{name}/{block.name}" for block in holding.blocks] or [name]
            found |= dict.fromkeys(names, holding.grant)
        return found

    def approval(self, purpose: str) -> Approval:
        """Who accepts a plan of this purpose; a person, where nothing is said, but for canaries."""
        unsaid: Approval = "auto" if purpose == _CANARY else "manual"
        return next((rule.approval for name, rule in self.purposes.items() if name == purpose), unsaid)

    def stricter(self, floors: Floors) -> Floors:
        """Give the charter's floors, raised to this site's own."""
        return dataclasses.replace(floors, minimum_cohort=max(floors.minimum_cohort, self.data.minimum_cohort))
