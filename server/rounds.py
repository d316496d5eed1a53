"""One round as a pure state machine: who was asked, who is ready, who is in the sum, how it ended.

No clock, no transport, no vectors: each function takes a round and an event and returns the next round. The caller
sends what a phase calls for and tells the machine what came back or did not.

    OPENED ── ready/lost ──> close_opened ──> ROSTERED ── reported/lost ──> close_rostered ──> SUMMED
                                 └───────────────> ABORTED <───────────────────────┘

Guarantees:
    - a round is SUMMED only with at least `minimum` reports, each from a site of the roster, each counted once;
    - a site is in the roster only if it said READY in this round and attempt;
    - events for another phase, from an unknown site or a second time change nothing but are refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from partsong.common.errors import PartsongError


class Phase(Enum):
    """Where a round stands."""

    OPENED = "opened"
    ROSTERED = "rostered"
    SUMMED = "summed"
    ABORTED = "aborted"


class Loss(Enum):
    """Why a site is not in a sum, as far as the coordinator may know."""

    REFUSED = "refused"
    FAILED = "failed"
    SILENT = "silent"
    MALFORMED = "malformed"


class EventRefused(PartsongError):
    """An event that this round cannot take; the round is unchanged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """The whole state of a round."""

    number: int
    attempt: int
    cohort: tuple[str, ...]
    minimum: int
    phase: Phase = Phase.OPENED
    ready: tuple[str, ...] = ()
    roster: tuple[str, ...] = ()
    reported: tuple[str, ...] = ()
    lost: dict[str, Loss] = field(default_factory=dict)
    reason: str = ""
    """Set when the round was aborted."""

    def __post_init__(self) -> None:
        if len(set(self.cohort)) != len(self.cohort):
            raise ValueError("a cohort without repeats")
        if self.minimum < 1:
            raise ValueError("a minimum of at least one site")

    @property
    def waiting(self) -> tuple[str, ...]:
        """Sites whose answer this phase still lacks."""
        asked, answered = (self.cohort, self.ready) if self.phase is Phase.OPENED else (self.roster, self.reported)
        return tuple(s for s in asked if s not in answered and s not in self.lost)

    @property
    def done(self) -> bool:
        """Whether the round has ended."""
        return self.phase in (Phase.SUMMED, Phase.ABORTED)


def ready(state: Round, site: str) -> Round:
    """A site has computed its update."""
    _expect(state, Phase.OPENED, site)
    return replace(state, ready=(*state.ready, site))


def reported(state: Round, site: str) -> Round:
    """A site's sealed vector is in the sum."""
    _expect(state, Phase.ROSTERED, site)
    return replace(state, reported=(*state.reported, site))


def lost(state: Round, site: str, why: Loss) -> Round:
    """A site will not be in the sum of this round."""
    _expect(state, state.phase, site)
    return replace(state, lost={**state.lost, site: why})


def close_opened(state: Round) -> Round:
    """End the first phase: everybody answered, or the deadline passed. Silent sites are out."""
    _phase(state, Phase.OPENED)
    state = _silence(state)
    if len(state.ready) < state.minimum:
        return _abort(state, answered=len(state.ready), what="ready")
    return replace(state, phase=Phase.ROSTERED, roster=tuple(s for s in state.cohort if s in state.ready))


def close_rostered(state: Round) -> Round:
    """End the second phase. Fewer reports than the minimum: no sum is made of them."""
    _phase(state, Phase.ROSTERED)
    state = _silence(state)
    if len(state.reported) < state.minimum:
        return _abort(state, answered=len(state.reported), what="reported")
    return replace(state, phase=Phase.SUMMED)


def void(state: Round) -> Round:
    """End a round whose words, added up, are no sum of encoded vectors: nobody knows whose were wrong."""
    _phase(state, Phase.ROSTERED)
    reason = f"round {state.number}: the reports of {len(state.reported)} sites are no sum; no sum was opened"
    return replace(_silence(state), phase=Phase.ABORTED, reason=reason)


def _silence(state: Round) -> Round:
    return replace(state, lost={**state.lost, **dict.fromkeys(state.waiting, Loss.SILENT)})


def _abort(state: Round, *, answered: int, what: str) -> Round:
    reason = f"round {state.number}: {answered} sites {what}, {state.minimum} needed; no sum was opened"
    return replace(state, phase=Phase.ABORTED, reason=reason)


def _phase(state: Round, phase: Phase) -> None:
    if state.phase is not phase:
        raise EventRefused(f"round {state.number} is {state.phase.value}, not {phase.value}")


def _expect(state: Round, phase: Phase, site: str) -> None:
    _phase(state, phase)
    if state.done:
        raise EventRefused(f"round {state.number} is {state.phase.value}")
    if site not in state.waiting:
        known = "already answered" if site in state.cohort else "unknown"
        raise EventRefused(f"round {state.number}: site {site!r} is {known} in phase {phase.value}")
