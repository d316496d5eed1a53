"""One run from its plan to its adapter, over any exchange: rounds, checkpoints, resume.

Guarantees:
    - a run that was killed in any phase goes on from its checkpoint and the journal of its sums, under the same plan;
    - a round whose sum was opened is never asked again, and under differential privacy neither is one whose query
      went out: it counts as spent and stands in the history with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from partsong.common import events
from partsong.common.adapters.adapter import FloatVec
from partsong.common.adapters.methods import ServerState
from partsong.common.build import to_tree
from partsong.common.errors import PartsongError, RoundAborted
from partsong.common.groups import asked_in
from partsong.common.plan import Plan
from partsong.common.thresholds import Floors
from partsong.server.checkpoint import Checkpoints, Saved
from partsong.server.coordinator import Coordinator
from partsong.server.desk import Outcome, Query
from partsong.server.exchange import Exchange
from partsong.server.planning import epsilon_after
from partsong.server.questions.answer import answer_of
from partsong.server.report.facts import SumFacts, sum_facts
from partsong.server.run_files import RunFiles
from partsong.server.secure_sum.masked_sums import MaskedSums, Trust
from partsong.server.secure_sum.sum_journal import SumJournal
from partsong.server.studies.train import Step, step_of, train

Score = Callable[[int, FloatVec], Mapping[str, Any]]
"""Given a round and the global adapter after it, what else its history entry says; 0 is before the first round."""


Adapter = Callable[[], tuple[FloatVec, FloatVec]]
"""Gives the trained and the frozen part of an adapter."""


class Diverged(PartsongError):
    """The global adapter or its held-out loss is not finite; the round that made it was not saved."""

    def __init__(self, number: int, what: str) -> None:
        """Name the round, and what of it is not finite."""
        super().__init__(
            f"round {number}: found {what} that is not finite, expected finite numbers; the round was not saved; "
            "lower training.learning_rate or optimizer.learning_rate"
        )


class RunStopped(PartsongError):
    """The run was told to stop between two rounds; its checkpoint stands."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Terms:
    """What a run is about and how it is carried out."""

    plan: Plan
    adapter: Adapter
    """Gives the adapter before the first round. A run asks when it needs it and keeps neither part."""
    trust: Trust | None
    """None: the plan is unmasked."""
    report_timeout_s: float
    """How long a phase waits for its sites."""
    check_window: int
    """Newest rounds whose masked vectors are kept."""
    sample: int | None = None
    """Sites that are asked in a round; None: all."""
    floors: Floors | None = None
    """Of the secure sum, for a plan that goes without it but is to end as if it did not; None: the plan's alone."""
    expected: tuple[str, ...] = ()
    """Sites without which no round is begun; one that is missing from a sum is named as a failure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a run ended with."""

    plan: Plan
    trained_P: FloatVec
    frozen_F: FloatVec
    history: list[dict[str, Any]]
    """One entry a round: who, loss, epsilon, bytes, what was scored, and what a question was answered with."""
    epsilon: float | None
    secure_sum: SumFacts | None
    """None: the run was unmasked."""


class Run:
    """One run: `begin` reads what is on disk, `play` talks to the sites."""

    def __init__(
        self,
        terms: Terms,
        files: RunFiles,
        *,
        listen: events.Listener,
        score: Score = lambda _number, _adapter_P: {},
        stopping: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; nothing is read, written or sent yet.

        Args:
            terms: plan, start, keys and limits.
            files: where checkpoints and journals go.
            listen: told what happens.
            score: asked after each round, before it is saved.
            stopping: asked before each round whether the run is to stop.
            clock: Unix time in seconds.
        """
        self._terms, self._plan, self._files = terms, terms.plan, files
        self._listen, self._score, self._stopping = listen, score, stopping
        self._clock = clock
        self._checkpoints = Checkpoints(files.path)
        self._sums: MaskedSums | None = None
        self._saved = Saved(round=0, state=ServerState(adapter_P=np.zeros(0)), facts={})
        self._history: list[dict[str, Any]] = []
        self._started = time.monotonic()

    @property
    def done(self) -> int:
        """Number of the last round that is finished; 0 before the first."""
        return self._saved.round

    def begin(self) -> None:
        """Go on from the newest checkpoint and the sums after it, or from the start.

        Raises:
            DataError: the directory holds a run of another plan, or is damaged; nothing was sent.
            TryAgain: the disk is full; begin again later.
        """
        self._files.keep_plan(self._plan)
        self._saved = self._checkpoints.load() or self._at_the_start()
        self._sums = self._masked_sums()
        recovered = [] if self._sums is None else self._sums.recovered(after=self.done)
        lost = self._lost_rounds(after=self.done, recovered={outcome.state.number for outcome in recovered})
        for entry in lost:
            self._listen(events.RoundAbandoned(round=entry["round"], reason=entry["reason"]))
        self._history = [*self._saved.facts.get("history", []), *lost]
        self._files.rewrite_metrics(self._history)
        for outcome in recovered:
            self._keep(step_of(self._saved.state, outcome, self._plan))

    def play(self, exchange: Exchange) -> Result:
        """Let coordinator and sites talk until the last round is done. After `RunNotStarted` it may be called again.

        Raises:
            RunNotStarted: too few sites, or not all that are expected, accepted the plan; no record was read.
            RunStopped: it was told to; no query is out.
            RoundAborted: no round had a sum, so there is no adapter.
            Diverged: the global adapter is useless; the last good checkpoint stands.
            TryAgain: the disk is full; resume later.
        """
        terms = self._terms
        coordinator = Coordinator(
            exchange,
            self._plan,
            timeout_s=terms.report_timeout_s,
            listen=self._listen,
            sums=self._sums,
            sample=terms.sample,
            floors=terms.floors,
        )
        coordinator.propose(terms.adapter, expected=terms.expected)
        state = self._ask_all(coordinator)
        trained_P = state.adapter_P.astype(np.float32)
        checked_by = coordinator.close(trained_P)
        if not any(entry["sites"] for entry in self._history):
            raise RoundAborted(f"run {self._plan.run}: no round ended with a sum; there is no adapter")
        if self._plan.groups is not None and not state.steps:
            raise RoundAborted(f"run {self._plan.run}: no step had the sums of all groups; there is no adapter")
        return Result(
            plan=self._plan,
            trained_P=trained_P,
            frozen_F=terms.adapter()[1],
            history=self._history,
            epsilon=epsilon_after(self._plan, max(self._checkpoints.attempts(), default=0)),
            secure_sum=None
            if terms.trust is None
            else sum_facts(terms.trust.charter, self._plan, checked_by=checked_by),
        )

    def _at_the_start(self) -> Saved:
        start_P, _ = self._terms.adapter()
        self._score(0, start_P)
        return Saved(round=0, state=ServerState(adapter_P=start_P.astype(np.float64)), facts={})

    def _masked_sums(self) -> MaskedSums | None:
        trust = self._terms.trust
        if trust is None:
            return None
        return MaskedSums(
            trust,
            self._plan,
            journal=SumJournal(self._files.coordinator),
            check_window=self._terms.check_window,
            clock=self._clock,
        )

    def _lost_rounds(self, *, after: int, recovered: set[int]) -> list[dict[str, Any]]:
        """Rounds whose query went out but which never finished. Spent, so they are not asked again."""
        if self._plan.dp is None:
            return []
        return [
            {
                "round": number,
                "sites": [],
                "lost": {},
                "loss": None,
                "epsilon": epsilon_after(self._plan, number),
                "update_norm": 0.0,
                "bytes_out": {},
                "reason": f"round {number}: lost, the run was stopped after its query went out; its budget is spent",
                "seconds": 0.0,
            }
            for number in sorted(self._checkpoints.attempts())
            if number > after and number not in recovered
        ]

    def _ask_all(self, coordinator: Coordinator) -> ServerState:
        """Answer the study's queries until it is done."""
        return train(
            self._saved.state,
            self._plan,
            first=self.done + 1,
            attempts=self._checkpoints.attempts(),
            spend_attempts=self._plan.dp is not None,
            ask=lambda query: self._asked(coordinator, query),
            keep=self._keep,
        )

    def _asked(self, coordinator: Coordinator, query: Query) -> Outcome:
        """Carry out one round."""
        if self._stopping():
            raise RunStopped(f"run {self._plan.run}: stopped after round {self.done} of {self._plan.rounds}")
        self._checkpoints.note_opened(number=query.round, attempt=query.attempt)
        self._started = time.monotonic()
        return coordinator.run(query)

    def _keep(self, step: Step) -> None:
        """Score, record and save a finished round; then tell."""
        entry: dict[str, Any] = {
            "round": step.round,
            "sites": list(step.ended.survivors) if step.loss is not None else [],
            "lost": {site: why.value for site, why in sorted(step.ended.lost.items())},
            "loss": step.loss,
            "epsilon": epsilon_after(self._plan, step.round),
            "update_norm": step.update_norm,
            "bytes_out": step.bytes_out,
            "reason": step.ended.reason,
            "seconds": round(time.monotonic() - self._started, 3),
        }
        if self._plan.question is not None:
            entry |= {"loss": None, "answer": self._answer(step)}
        if step.ballot is not None:
            entry |= {"loss": None, "vote": to_tree(step.ballot)}
        self._tell(step, entry)
        entry |= self._score(step.round, _single(step))
        self._history.append(entry)
        self._saved = Saved(round=step.round, state=step.state, facts={"history": self._history})
        self._checkpoints.save(self._saved)
        self._files.rewrite_metrics(self._history)

    def _answer(self, step: Step) -> Any:
        """Read what a question was answered with; None where the round has no sum."""
        opened = step.answer
        return None if opened is None else to_tree(answer_of(opened, self._plan, sites=step.ended.survivors))

    def _tell(self, step: Step, entry: dict[str, Any]) -> None:
        """Say who contributed, and note who should have and did not."""
        expected = asked_in(self._plan, step.round, self._terms.expected)
        if missing := sorted(set(expected) - set(entry["sites"])):
            entry["missing"] = missing
            self._listen(events.RoundIncomplete(round=step.round, missing=tuple(missing)))
        if step.loss is not None:
            self._listen(
                events.RoundSummed(
                    round=step.round,
                    sites=step.ended.survivors,
                    loss=entry["loss"],
                    epsilon=entry["epsilon"],
                    update_norm=step.update_norm,
                )
            )
        if (vote := step.ballot) is not None:
            self._listen(events.RoundVoted(round=step.round, of=vote.of, kept=vote.kept, votes=vote.votes))


def _single(step: Step) -> FloatVec:
    """The global adapter in single precision, as it is sent and published."""
    with np.errstate(over="ignore"):
        adapter_P = step.state.adapter_P.astype(np.float32)
    if not np.isfinite(adapter_P).all():
        raise Diverged(step.round, "a global adapter")
    return adapter_P
