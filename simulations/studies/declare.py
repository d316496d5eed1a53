"""What a study is: a frozen list of cells, each one configuration of the simulator, and what they are compared by."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Grid = Literal["full", "cpu", "smoke"]
Arm = Literal["federated", "pooled", "local", "frozen_pooled", "frozen_local"]
"""federated: all sites together. pooled: one site that holds everything, the same steps and visits. local: each site
alone, the same steps and visits. frozen_*: a linear classifier on the base model's features, nothing fine-tuned."""
Placement = Literal["site", "sum"]
"""Where differential privacy's noise is: in full at each site, or in shares that make it up in the sum."""

SWEEP_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What sites train, with its learning rates."""

    name: str
    adapter: Mapping[str, Any]
    """Settings of `adapter`, without the rank."""
    rates: tuple[float, float, float]
    """AdamW's, from low to high. The middle one is taken where no sweep was run."""
    private_rates: tuple[float, float, float] | None = None
    """Likewise under differential privacy; None: the same."""
    site_ranks: tuple[int, ...] = ()
    """Ranks of the sites, one site after the other and then again from the first; empty: all train the cell's."""
    lockstep: bool = False
    """One step a round, which the coordinator takes on the mean gradient; the rates are its Adam's."""

    def rates_at(self, epsilon: float | None) -> tuple[float, float, float]:
        """Give the rates that a sweep tries."""
        return self.rates if epsilon is None or self.private_rates is None else self.private_rates


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How much a run may learn: equal for all cells that are compared."""

    rounds: int
    steps_per_round: int
    sampling_rate: float
    """Of each site's records, for each step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A corpus, how it comes to sites, and how much is learned of it."""

    corpus: str
    alpha: float | None
    """Of the Dirichlet draw of labels; None: each record stays with its publisher."""
    sites: int | None
    """None for publishers."""
    max_length: int
    """Longest text [tokens]."""
    plain: Budget
    private: Budget
    """Under differential privacy: as many visits in fewer and larger samples."""
    test_limit: int | None = None
    """At most this many test records; None: all."""

    @property
    def name(self) -> str:
        """For people and for names of files."""
        return self.corpus if self.alpha is None else f"{self.corpus}-dir{self.alpha:g}"

    def budget(self, epsilon: float | None) -> Budget:
        """Learn this much."""
        return self.plain if epsilon is None else self.private


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One run of the grid."""

    split: Split
    arm: Arm
    method: Method | None
    """None where nothing is fine-tuned."""
    rank: int | None
    epsilon: float | None
    placement: Placement | None
    """None without differential privacy."""
    field_bits: int
    seed: int
    swept_rate: float | None = None
    """A cell of the sweep: trained at this rate, scored on validation. None: at the sweep's best, scored on test."""

    @property
    def lockstep(self) -> bool:
        """A round is one step of the coordinator's: so it is with noise on the sum, and where the method says so."""
        return self.placement == "sum" or (self.method is not None and self.method.lockstep)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Ranks that sites train at; none where nothing is fine-tuned."""
        if self.method is None or self.rank is None:
            return ()
        return self.method.site_ranks or (self.rank,)

    @property
    def group(self) -> str:
        """All but the seed and the rate: cells of one group make one line of a table."""
        parts = [self.split.name, self.arm]
        if self.method is not None:
            parts += [self.method.name, f"r{'-'.join(map(str, self.ranks))}"]
        if self.epsilon is not None:
            parts += [f"eps{self.epsilon:g}", f"noise-{self.placement}"]
        if self.arm == "federated":
            parts.append(f"{self.field_bits}bit")
        return "_".join(parts)

    @property
    def key(self) -> str:
        """Unique in its study."""
        swept = "" if self.swept_rate is None else f"_sweep{self.swept_rate:g}"
        return f"{self.group}{swept}_seed{self.seed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Axes:
    """Everything that is crossed."""

    splits: tuple[Split, ...]
    methods: tuple[Method, ...]
    ranks: tuple[int, ...]
    seeds: tuple[int, ...]
    privacy: tuple[tuple[float | None, Placement | None], ...] = ((None, None),)
    """Pairs of epsilon and placement."""
    field_bits: tuple[int, ...] = (21,)
    baseline: Method | None = None
    """What pooled and local train, without privacy; None leaves both out."""

    def __post_init__(self) -> None:
        for method in self.methods:
            if method.site_ranks and max(method.site_ranks) != self.ranks[0]:
                raise ValueError(f"ranks that begin with the largest of {method.name}'s: {max(method.site_ranks)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A question and the grid that answers it."""

    name: str
    title: str
    question: str
    grids: Mapping[Grid, Axes]
    scored_often: bool = False
    """Score the test records four times in a run, for curves; else at its end."""
    looks_at_updates: bool = False
    """Measure what each average loses of the mean product; only a simulator can."""

    def cells(self, grid: Grid) -> tuple[Cell, ...]:
        """List a grid in the order it is run: references, sweep, then seed after seed, so that a grid that was cut
        short still compares every line.
        """
        axes = self.grids[grid]
        references = [c for seed in axes.seeds for c in _references(axes, seed)]
        return (*references, *_sweep(axes), *(c for seed in axes.seeds for c in _measured(axes, seed)))


def sweep_of(cell: Cell, grid: tuple[Cell, ...]) -> tuple[Cell, ...]:
    """List the cells that choose a cell's learning rate: its corpus, arm, method and placement, else the first."""
    return tuple(
        other
        for other in grid
        if other.swept_rate is not None
        and (other.split.corpus, other.arm, other.method, other.placement)
        == (cell.split.corpus, cell.arm, cell.method, cell.placement)
    )


def _references(axes: Axes, seed: int) -> Iterator[Cell]:
    if axes.baseline is None:
        return
    for split in axes.splits:
        # What is drawn is who holds what: publishers are not drawn, and whoever holds everything draws nothing.
        if seed == axes.seeds[0] and split is _first_of(axes, split):
            yield _plain(axes, split, arm="frozen_pooled", method=None, rank=None, seed=seed)
        if seed == axes.seeds[0] or split.alpha is not None:
            yield _plain(axes, split, arm="frozen_local", method=None, rank=None, seed=seed)


def _sweep(axes: Axes) -> Iterator[Cell]:
    noised = [epsilon for epsilon, _ in axes.privacy if epsilon is not None][:1]
    for cell in _measured(axes, SWEEP_SEED):
        first = (_first_of(axes, cell.split), axes.ranks[0], axes.field_bits[0])
        if cell.method is None or (cell.split, cell.rank, cell.field_bits) != first:
            continue
        if cell.epsilon is not None and cell.epsilon not in noised:
            continue
        for rate in cell.method.rates_at(cell.epsilon):
            yield dataclasses.replace(cell, swept_rate=rate)


def _measured(axes: Axes, seed: int) -> Iterator[Cell]:
    for split, rank in itertools.product(axes.splits, axes.ranks):
        if axes.baseline is not None:
            if split is _first_of(axes, split):
                yield _plain(axes, split, arm="pooled", method=axes.baseline, rank=rank, seed=seed)
            yield _plain(axes, split, arm="local", method=axes.baseline, rank=rank, seed=seed)
        # Where sites differ in rank, the cell's is the largest of theirs.
        methods = [method for method in axes.methods if max(method.site_ranks, default=rank) == rank]
        for method, (epsilon, placement), bits in itertools.product(methods, axes.privacy, axes.field_bits):
            yield Cell(
                split=split,
                arm="federated",
                method=method,
                rank=rank,
                epsilon=epsilon,
                placement=placement,
                field_bits=bits,
                seed=seed,
            )


def _plain(axes: Axes, split: Split, *, arm: Arm, method: Method | None, rank: int | None, seed: int) -> Cell:
    return Cell(
        split=split,
        arm=arm,
        method=method,
        rank=rank,
        epsilon=None,
        placement=None,
        field_bits=axes.field_bits[0],
        seed=seed,
    )


def _first_of(axes: Axes, split: Split) -> Split:
    """The first division of a corpus stands for it where the division does not matter."""
    return next(other for other in axes.splits if other.corpus == split.corpus)
