"""What the study of poisoning plays: cohorts with poisoners, what these do, and what stands against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from partsong.common.build import to_tree
from partsong.common.config import ModelConfig
from partsong.simulations.poisoning.poisoner import Poison
from partsong.simulations.studies.declare import Grid

_SMALLEST_GROUP = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Cohort:
    """Sites, some of which poison."""

    sites: int
    poisoners: int
    """The last ones by name."""

    @property
    def name(self) -> str:
        """For people and for names of files."""
        return f"{self.poisoners}of{self.sites}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Defence:
    """What stands against poison. The sum-length check is always on."""

    name: str
    clips: bool
    """Whether an update is bounded by what honest training can reach; else by a thousand times as much."""
    votes: bool
    groups: int | None = None
    """Of sites, whose median moves the adapter; None: the mean of all does."""

    def suits(self, cohort: Cohort) -> bool:
        """Whether there are sites enough for three in each group."""
        return self.groups is None or cohort.sites >= _SMALLEST_GROUP * self.groups


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One run."""

    cohort: Cohort
    attack: str
    defence: Defence
    seed: int

    @property
    def key(self) -> str:
        """Unique in the study."""
        return f"{self.cohort.name}_{self.attack}_{self.defence.name}_seed{self.seed}"

    @property
    def poison(self) -> Poison | None:
        """What the poisoners do; None: nothing."""
        return ATTACKS[self.attack]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineup:
    """A grid."""

    corpus: str
    cohorts: tuple[Cohort, ...]
    pairs: tuple[tuple[str, Defence], ...]
    """Attacks with what stands against each."""
    seeds: tuple[int, ...]
    alpha: float
    """Of the Dirichlet draw of labels."""
    max_length: int
    rounds: int
    steps_per_round: int
    sampling_rate: float
    learning_rate: float
    vote_limit: int
    """Validation records that vote, over all sites."""
    test_limit: int | None

    def cells(self) -> tuple[Cell, ...]:
        """List the grid seed by seed, so that one that was cut short still compares every line."""
        return tuple(
            Cell(cohort=cohort, attack=attack, defence=defence, seed=seed)
            for seed in self.seeds
            for cohort in self.cohorts
            for attack, defence in self.pairs
            if defence.suits(cohort)
        )


BARE = Defence(name="none", clips=False, votes=False)
CLIP = Defence(name="clip", clips=True, votes=False)
VOTE = Defence(name="vote", clips=False, votes=True)
BOTH = Defence(name="clip-vote", clips=True, votes=True)
MEDIAN = Defence(name="clip-median", clips=True, votes=False, groups=3)
ATTACKS: Mapping[str, Poison | None] = {
    "nobody": None,
    "wrong-labels": Poison(flips_labels=True),
    "turned": Poison(factor=-1.0),
    "turned-30-fold": Poison(factor=-30.0),
    "turned-30-fold-forged-votes": Poison(factor=-30.0, forges_votes=True),
}
_PAIRS = (
    ("nobody", CLIP),
    ("nobody", BOTH),
    ("nobody", MEDIAN),
    ("wrong-labels", CLIP),
    ("wrong-labels", BOTH),
    ("wrong-labels", MEDIAN),
    ("turned", CLIP),
    ("turned", BOTH),
    ("turned", MEDIAN),
    ("turned-30-fold", BARE),
    ("turned-30-fold", CLIP),
    ("turned-30-fold", VOTE),
    ("turned-30-fold", BOTH),
    ("turned-30-fold", MEDIAN),
    ("turned-30-fold-forged-votes", BOTH),
)
_FIVE, _TEN = Cohort(sites=5, poisoners=1), Cohort(sites=10, poisoners=2)
_UNCLIPPED = 1000.0
LINEUPS: Mapping[Grid, Lineup] = {
    "full": Lineup(
        corpus="banking77",
        cohorts=(_FIVE, _TEN),
        pairs=_PAIRS,
        seeds=(0, 1, 2),
        alpha=0.5,
        max_length=64,
        rounds=30,
        steps_per_round=6,
        sampling_rate=0.03,
        learning_rate=0.01,
        vote_limit=989,
        test_limit=None,
    ),
    "cpu": Lineup(
        corpus="banking77",
        cohorts=(_FIVE, _TEN),
        pairs=_PAIRS,
        seeds=(0, 1, 2),
        alpha=0.5,
        max_length=32,
        rounds=8,
        steps_per_round=4,
        sampling_rate=0.02,
        learning_rate=0.01,
        vote_limit=300,
        test_limit=600,
    ),
    "smoke": Lineup(
        corpus="made-up",
        cohorts=(Cohort(sites=3, poisoners=1),),
        pairs=(("nobody", BOTH), ("turned-30-fold", BARE), ("turned-30-fold", BOTH)),
        seeds=(0,),
        alpha=1.0,
        max_length=16,
        rounds=1,
        steps_per_round=1,
        sampling_rate=0.2,
        learning_rate=0.01,
        vote_limit=20,
        test_limit=None,
    ),
}


def _vote(cell: Cell, lineup: Lineup) -> dict[str, Any]:
    """Let no site have more votes than each has records to vote by."""
    return {"mode": "holdout", "most_votes": max(1, lineup.vote_limit // cell.cohort.sites)}


def _floors(cell: Cell) -> dict[str, Any]:
    """Tolerate no colluders where sites are in groups: ten sites have no three groups for a sum under the defaults."""
    return {} if cell.defence.groups is None else {"corrupt_tolerance": 0}


def settings_of(cell: Cell, lineup: Lineup, *, model: ModelConfig, reach: float) -> dict[str, Any]:
    """Spell out the run of a cell.

    Args:
        cell: to be played.
        lineup: that it belongs to.
        model: base model.
        reach: how far honest training can move the adapter in a round; see `partsong.common.reach`.
    """
    clip = reach if cell.defence.clips else _UNCLIPPED * reach
    return {
        "model": to_tree(model),
        "data": {"max_length": lineup.max_length},
        "adapter": {
            "method": "ffa",
            "a_init": "orthonormal",
            "r": 8,
            "lora_alpha": 16.0,
            "target_modules": ["query", "value"],
            "seed": cell.seed,
        },
        "privacy": {"mode": "none", "sampling_rate": lineup.sampling_rate},
        "training": {
            "steps_per_round": lineup.steps_per_round,
            "optim": "adamw",
            "learning_rate": lineup.learning_rate,
        },
        "secure_sum": {"mode": "sum-only", "update_clip": clip, "field_bits": 32, **_floors(cell)},
        **({} if cell.defence.groups is None else {"cohort": {"groups": cell.defence.groups}}),
        "vote": _vote(cell, lineup) if cell.defence.votes else {},
        "partition": {"kind": "dirichlet", "alpha": lineup.alpha, "seed": cell.seed},
        "study": "poisoning",
        "rounds": lineup.rounds,
        "evaluate_every": 0,
        "seed": cell.seed,
    }
