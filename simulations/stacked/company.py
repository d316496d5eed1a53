"""Lets several sites of one process come to the point where they train, and trains them together there.

A site's code knows nothing of others: it checks, pays, journals, calls its encoder and goes on. Each site here runs in
a thread of its own, but only one thread ever runs: the next site begins when the one before has called its encoder or
has ended, then all are trained, then each goes on to its end in the same order.

Guarantees: who is trained with whom follows from the order of the tasks alone, so that it is the same in every run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from partsong.client.encoders.encoder import LocalUpdate
from partsong.simulations.stacked.train import Job, Outcome

T = TypeVar("T")


@dataclass(kw_only=True, slots=True)
class _Member:
    """A task, and where it stands."""

    goes: threading.Event = field(default_factory=threading.Event)
    """Set: it may go on from its encoder."""
    halted: threading.Event = field(default_factory=threading.Event)
    """Set: it waits in its encoder, or has ended."""
    job: Job | None = None
    outcome: Outcome | BaseException | None = None


@dataclass(kw_only=True, slots=True)
class Ended(Generic[T]):
    """How a task has ended."""

    value: T | None = None
    error: BaseException | None = None


class Company:
    """The sites of one process that train together. Used by one thread at a time."""

    def __init__(self, train: Callable[[Sequence[Job]], list[Outcome]], *, most: int) -> None:
        """Nobody is here yet.

        Args:
            train: trains several sites at once; all jobs are of one plan, round and adapter.
            most: sites at once, >= 1.
        """
        self._train, self.most = train, most
        self._running: _Member | None = None

    def run(self, tasks: Sequence[Callable[[], T]]) -> list[Ended[T]]:
        """Run tasks, at most `most`, and give how each ended, in their order. Nothing is raised."""
        ends = [Ended[T]() for _ in tasks]
        members = [_Member() for _ in tasks]
        threads = [
            threading.Thread(target=self._carry, args=(member, task, end), name="site", daemon=True)
            for member, task, end in zip(members, tasks, ends, strict=True)
        ]
        for member, thread in zip(members, threads, strict=True):
            self._let(member, thread.start)
        while waiting := [member for member in members if member.job is not None]:
            for together in _alike(waiting):
                self._train_members(together)
            for member in waiting:
                member.job = None
                self._let(member, member.goes.set)
        for thread in threads:
            thread.join()
        return ends

    def join(self, job: Job) -> LocalUpdate:
        """Wait, as a task, until its site is trained; outside of `run` it is trained alone, at once.

        Raises:
            PartsongError: as training alone; where training all of them fails, each has the same error.
        """
        member = self._running
        if member is None:
            return _given(self._train([job])[0])
        member.job = job
        member.halted.set()
        member.goes.wait()
        member.goes.clear()
        return _given(member.outcome)

    def _let(self, member: _Member, go: Callable[[], None]) -> None:
        """Let one thread run until it waits in its encoder or ends."""
        member.halted.clear()
        self._running = member
        go()
        member.halted.wait()
        self._running = None

    def _carry(self, member: _Member, task: Callable[[], T], end: Ended[T]) -> None:
        try:
            end.value = task()
        except BaseException as err:  # noqa: BLE001 - whoever has asked raises it
            end.error = err
        finally:
            member.halted.set()

    def _train_members(self, together: Sequence[_Member]) -> None:
        jobs = [member.job for member in together if member.job is not None]
        try:
            outcomes: Sequence[Outcome | BaseException] = self._train(jobs)
        except BaseException as err:  # noqa: BLE001 - each site ends with it, and gives its work up
            outcomes = [err] * len(jobs)
        for member, outcome in zip(together, outcomes, strict=True):
            member.outcome = outcome


def _alike(members: Sequence[_Member]) -> list[list[_Member]]:
    """Put those together that train from one adapter by one plan: a coordinator that lies may ask for others."""
    found: dict[tuple[str, int, bytes], list[_Member]] = {}
    for member in members:
        if member.job is not None:
            key = (member.job.plan.sha256, member.job.number, member.job.adapter_P.tobytes())
            found.setdefault(key, []).append(member)
    return list(found.values())


def _given(outcome: Outcome | BaseException | None) -> LocalUpdate:
    if isinstance(outcome, LocalUpdate):
        return outcome
    if outcome is None:
        raise AssertionError("a task goes on only once it was trained")
    raise outcome
