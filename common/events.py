"""What a run tells those who watch it. Events hold names, counts and released numbers, never a site's own values,
except `SiteProgress`, which is shown at the site (or in a simulation, where one process plays them all).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStarted:
    """The sites have accepted the plan."""

    run: str
    sites: tuple[str, ...]
    rounds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundOpened:
    """The query went out."""

    round: int
    sites: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteProgress:
    """Local: a step of training at a site."""

    site: str
    round: int
    step: int
    steps: int
    local_loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteRefused:
    """A site does not take part in the plan."""

    site: str
    code: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SitesAwaited:
    """Sites that the job expects have not accepted the plan yet; nothing has begun."""

    sites: tuple[str, ...]
    """Those that have."""
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseBegan:
    """A phase of a round asks its sites."""

    round: int
    phase: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteReady:
    """A site has its update."""

    round: int
    site: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteReported:
    """A sealed vector arrived and was added to the sum."""

    round: int
    site: str
    bytes_out: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteLost:
    """A site is not in the sum of this round."""

    round: int
    site: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SharesDisputed:
    """A sum was opened although shares contradicted each other."""

    round: int
    disputes: int
    """Pairs of a seed's owner and a holder whose share of it does not fit; one of the two has lied."""
    liars: tuple[str, ...]
    """Sites that contradict more others than may be corrupt: they have lied, whatever the others did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundSummed:
    """A round ended with a sum."""

    round: int
    sites: tuple[str, ...]
    loss: float | None
    """Mean over the sites of the released loss; None of a round that asked a question."""
    epsilon: float | None
    """Spent at each site so far; None without differential privacy."""
    update_norm: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundVoted:
    """The sites voted on a round, or could not; only a vote that is not against it keeps its adapter."""

    round: int
    of: int
    """Round that it is about."""
    kept: bool
    votes: float | None
    """Sum over the sites, noised under differential privacy; None: the vote had no sum."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundIncomplete:
    """A sum lacks sites that the job expects in every round."""

    round: int
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundAbandoned:
    """A round ended without a sum."""

    round: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultChecked:
    """The sites have checked the last sum and recomputed the adapter that is published."""

    sites: tuple[str, ...]
    """Those that found both right."""
    of: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterStored:
    """A site has checked the published adapter and stored it."""

    site: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """The simulator scored the held-out records. Only possible where one process holds them all."""

    round: int
    loss: float
    exact: float


Event = (
    RunStarted
    | RoundOpened
    | SiteProgress
    | SiteRefused
    | SitesAwaited
    | PhaseBegan
    | SiteReady
    | SiteReported
    | SiteLost
    | SharesDisputed
    | RoundSummed
    | RoundVoted
    | RoundIncomplete
    | RoundAbandoned
    | ResultChecked
    | AdapterStored
    | Evaluated
)
Listener = Callable[[Event], None]
