"""One round as a pure state machine: who was asked, who is ready, who is in the sum, how it ended.

No clock, no transport, no vectors: each function takes a round and an event and returns the next round. The caller
sends what a phase calls for and tells the machine what came back or did not.

    READY ──close──> REPORT ──close──> CONFIRM ──close──> UNMASK ──close──> SUMMED      with the secure sum
    READY ──close──> REPORT ──close──> SUMMED                                           without
      └────────────────┴─────────────────┴──────────────────┴──> ABORTED

Guarantees:
    - a phase ends well only with at least as many answers as were needed, each from a site that was asked in it,
      each counted once;
    - a site is in the roster only if it said READY in this round and attempt, and in the sum only if it reported;
    - events for another phase, from an unknown site or a second time change nothing but are refused by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from partsong.common.errors import PartsongError


class Phase(Enum):
    """What a round waits for, or how it ended."""

    READY = "ready"
    REPORT = "report"
    CONFIRM = "confirm"
    UNMASK = "unmask"
    SUMMED = "summed"
    ABORTED = "aborted"


PLAIN = (Phase.READY, Phase.REPORT)
MASKED = (Phase.READY, Phase.REPORT, Phase.CONFIRM, Phase.UNMASK)
_DONE = {
    Phase.READY: "ready",
    Phase.REPORT: "reported",
    Phase.CONFIRM: "confirmed the survivors",
    Phase.UNMASK: "gave their shares",
}


class Loss(Enum):
    """Why a site's answer is missing, as far as the coordinator may know."""

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
    phases: tuple[Phase, ...] = PLAIN
    """What it waits for, one after the other."""
    phase: Phase = Phase.READY
    answers: Mapping[Phase, tuple[str, ...]] = field(default_factory=dict)
    excused: frozenset[str] = frozenset()
    """Sites that the present phase does not ask although they take part: those that hold no shares."""
    lost: Mapping[str, Loss] = field(default_factory=dict)
    """A site that is lost after its report stays in the sum."""
    reason: str = ""
    """Set when the round was aborted."""

    def __post_init__(self) -> None:
        if len(set(self.cohort)) != len(self.cohort):
            raise ValueError("a cohort without repeats")

    @property
    def roster(self) -> tuple[str, ...]:
        """The sites that were READY, in the order of the cohort."""
        return self._in_order(Phase.READY)

    @property
    def survivors(self) -> tuple[str, ...]:
        """The sites whose report is in the sum, in the order of the cohort."""
        return self._in_order(Phase.REPORT)

    @property
    def asked(self) -> tuple[str, ...]:
        """Sites that the present phase asks: a site that was lost before is left alone."""
        sites = {Phase.READY: self.cohort, Phase.REPORT: self.roster}.get(self.phase, self.survivors)
        answered = frozenset(self.answers.get(self.phase, ()))
        left = (s for s in sites if s not in self.excused)
        return tuple(s for s in left if s not in self.lost or s in answered)

    @property
    def waiting(self) -> tuple[str, ...]:
        """Sites whose answer this phase still lacks."""
        answered = frozenset(self.answers.get(self.phase, ()))
        return () if self.done else tuple(s for s in self.asked if s not in answered)

    def waits_for(self, site: str) -> bool:
        """Whether a site is among those that are waited for, without listing them for each answer anew."""
        before = {Phase.READY: self.cohort, Phase.REPORT: self.answers.get(Phase.READY, ())}
        asked = before.get(self.phase, self.answers.get(Phase.REPORT, ()))
        gone = site in self.excused or site in self.lost or site in self.answers.get(self.phase, ())
        return not self.done and not gone and site in asked

    @property
    def done(self) -> bool:
        """Whether the round has ended."""
        return self.phase in (Phase.SUMMED, Phase.ABORTED)

    def _in_order(self, phase: Phase) -> tuple[str, ...]:
        answered = frozenset(self.answers.get(phase, ()))
        return tuple(s for s in self.cohort if s in answered)


def answered(state: Round, site: str, *, phase: Phase) -> Round:
    """A site has given the answer that `phase` waits for."""
    _expect(state, site, phase)
    return replace(state, answers={**state.answers, phase: (*state.answers.get(phase, ()), site)})


def ask_only(state: Round, sites: Collection[str]) -> Round:
    """Narrow the present phase to some of those that it would ask."""
    return replace(state, excused=frozenset(state.asked) - frozenset(sites))


def lost(state: Round, site: str, why: Loss) -> Round:
    """A site will not answer in this phase, nor later in this round."""
    _expect(state, site, state.phase)
    return replace(state, lost={**state.lost, site: why})


def close(state: Round, *, needed: int) -> Round:
    """End a phase: everybody answered, or the deadline passed. Silent sites are lost.

    Args:
        state: in a phase.
        needed: answers that the phase takes; with fewer the round ends without a sum.
    """
    if state.done:
        raise EventRefused(f"round {state.number} is {state.phase.value}")
    state = _silence(state)
    got = len(state.answers.get(state.phase, ()))
    if got < needed:
        return abort(state, why=f"{got} sites {_DONE[state.phase]}, {needed} needed")
    after = (*state.phases, Phase.SUMMED)[state.phases.index(state.phase) + 1]
    return replace(state, phase=after, excused=frozenset())


def abort(state: Round, *, why: str) -> Round:
    """End a round without a sum, whatever it waited for."""
    if state.done and state.phase is not Phase.SUMMED:
        raise EventRefused(f"round {state.number} is {state.phase.value}")
    reason = f"round {state.number}: {why}; no sum was opened"
    return replace(_silence(state), phase=Phase.ABORTED, reason=reason)


def _silence(state: Round) -> Round:
    return replace(state, lost={**state.lost, **dict.fromkeys(state.waiting, Loss.SILENT)})


def _expect(state: Round, site: str, phase: Phase) -> None:
    if state.phase is not phase or state.done:
        raise EventRefused(f"round {state.number} is in phase {state.phase.value}, not {phase.value}")
    if not state.waits_for(site):
        known = "already answered" if site in state.cohort else "unknown"
        raise EventRefused(f"round {state.number}: site {site!r} is {known} in phase {phase.value}")
