"""The facts of a finished run: everything that a report says, as plain values.

Covers: names, counts, digests and released numbers only; each is in a file of the run that sites or the public see.
Does not cover: a single site's values, records and keys. None of them can be said in these types.

They are signed as they stand, so a field that is added, renamed or taken away is another version of the format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from partsong.common.identity.charter import Charter
from partsong.common.identity.suite import SuiteName
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import Unit
from partsong.common.thresholds import smallest_of_all
from partsong.server.ballots import Ballot

Answer = Literal["yes", "partly", "no"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SumFacts:
    """How the secure sum of a run was set up, and who checked it."""

    charter_sha256: str
    members: int
    smallest_sum: int
    """Fewest sites that any sum of the run may hold."""
    minimum_honest: int
    corrupt_tolerance: int
    checked_by: tuple[str, ...]
    """Sites that recomputed the published adapter from the sums and signed that it is right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CharterFacts:
    """Under whose agreement a run was carried out."""

    consortium: str
    version: int
    sha256: str
    suite: SuiteName
    coordinator: str
    """Signing key in lower-case hex."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseModel:
    """What was fine-tuned."""

    name: str
    """For people."""
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterFacts:
    """What the run ended with."""

    sha256: str
    """Of the trained part, little-endian float32."""
    method: str
    exact: bool
    """Whether the averaged adapter is the average of the sites' products."""
    source: str
    trained_parameters: int
    task: str
    rolled_back_to: int | None = None
    """Round whose adapter is published; None: the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OnSum:
    """Whose noise a guarantee counts on, where the sites bring it together."""

    minimum_sum: int
    """Fewest sites in a sum."""
    colluders: int
    """Most of them that may tell the coordinator their shares."""
    epsilon_alone: float | None
    """If all others do, so that a site's own share is what is left; None: not bounded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacyFacts:
    """A guarantee and everything that it rests on."""

    unit: Unit
    contribution_bound: int | None
    neighbours: str
    epsilon: float
    """Spent at each site at most: by all rounds whose query went out."""
    epsilon_at_two_sites: float
    """For a unit that two sites hold."""
    planned_epsilon: float
    delta: float
    accountant: str
    sampling: Literal["Poisson"]
    sampling_rate: float
    steps_per_round: int
    steps: int
    """Of all rounds whose query went out."""
    clip_norm: float
    clipping: str
    noise: str
    noise_multiplier: float
    loss_clip: float
    loss_noise_multiplier: float
    on_sum: OnSum | None = None
    """None: each site's own noise is enough."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VoteTerms:
    """How rounds were voted on by records that the sites keep for testing."""

    most_votes: int
    """Of one site."""
    margin: float
    scale: float
    noise_multiplier: float | None
    """Of each site's votes; None: no differential privacy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundFacts:
    """One round: who is in its sum, and what was released."""

    round: int
    sites: tuple[str, ...]
    lost: Mapping[str, str]
    reason: str
    """Why there is no sum; empty where there is one."""
    loss: float | None
    """Mean over the sites of the released loss."""
    epsilon: float | None
    bytes_out: Mapping[str, int]
    """Of the sites in the sum, as the coordinator counted them."""
    held_out_loss: float | None
    held_out_exact: float | None
    vote: Ballot | None = None
    """What a round that votes has decided."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteFacts:
    """One site over the whole run."""

    site: str
    sums: int
    """Rounds whose sum it is in."""
    bytes_out: int
    checked: bool
    """Whether it signed that the last sum and the adapter are right."""
    refused: str | None
    """Code with which it refused the plan; None: it did not, or took part later."""
    ledger_head: str | None
    """Digest of its ledger's newest entry; None: the coordinator does not know it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaving:
    """One kind of thing that leaves a site."""

    what: str
    when: str
    holds: str
    readable_by: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Hazard:
    """A known way in which a claim of privacy fails, and what was done about it here."""

    name: str
    covered: Answer
    how: str
    where: str
    """File of the source, or part of the report, where it can be seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Everything that a report says about one run."""

    run: str
    simulated: bool
    plan_sha256: str
    config_sha256: str
    base: BaseModel
    adapter: AdapterFacts
    charter: CharterFacts | None
    """None: the run was unmasked, and nobody signed anything."""
    versions: Mapping[str, str]
    marks: tuple[str, ...]
    """What the run does not protect, the most serious first."""
    planned_rounds: int
    opened_rounds: int
    """Rounds whose query went out; they count as spent."""
    update_bytes: int
    """Of the words of one report."""
    privacy: PrivacyFacts | None
    secure_sum: SumFacts | None
    leaving: tuple[Leaving, ...]
    rounds: tuple[RoundFacts, ...]
    sites: tuple[SiteFacts, ...]
    hazards: tuple[Hazard, ...]
    not_covered: tuple[str, ...]
    vote: VoteTerms | None = None
    """None: every round was kept as it came."""
    groups: tuple[tuple[str, ...], ...] = ()
    """Sites of each group, where each has sums of its own and their median moves the adapter."""

    @property
    def planned_steps(self) -> int:
        """Optimizer steps at one site, if all planned rounds are asked; 0 without differential privacy."""
        training = self.planned_rounds // max(1, len(self.groups))
        training = training if self.vote is None else (training + 1) // 2
        return 0 if self.privacy is None else training * self.privacy.steps_per_round

    def rounds_of(self, site: str) -> tuple[RoundFacts, ...]:
        """Give the rounds that asked a site: all, or those of its group."""
        asked = [index for index, group in enumerate(self.groups) if site in group]
        if not self.groups:
            return self.rounds
        return tuple(entry for entry in self.rounds if (entry.round - 1) % len(self.groups) in asked)

    @property
    def contributors(self) -> tuple[str, ...]:
        """Sites that are in at least one sum."""
        return tuple(sorted({site for entry in self.rounds for site in entry.sites}))


def sum_facts(charter: Charter, plan: Plan, *, checked_by: tuple[str, ...]) -> SumFacts:
    """Say how the sums of a plan under a charter are set up, and who checked them."""
    fewest, members = max(plan.minimum_cohort, plan.minimum_sum), len(charter.sites)
    return SumFacts(
        charter_sha256=charter.hash.hex(),
        members=members,
        smallest_sum=smallest_of_all(charter.floors, plan_minimum=fewest, members=members),
        minimum_honest=charter.minimum_honest,
        corrupt_tolerance=charter.corrupt_tolerance,
        checked_by=checked_by,
    )
