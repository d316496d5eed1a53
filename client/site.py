"""One site of a run: agrees to the plan, trains when asked, seals when the roster is known.

Bytes in, bytes out. The order is fixed: a query is checked, its cost reserved in the ledger and the query written to
the journal before a record is read; an update waits at the site until the roster is known; the cost is committed
before the update is sealed; it is sealed once and then gone.

Where unfinished work is kept, a round or a waiting update outlives its process, under the reservation it has: only what
an earlier process left, only while the ledger says reserved, and only once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from partsong.client.budget.spending import Purse, context_of
from partsong.client.dp.sampler import Randomness
from partsong.client.encoders.encoder import Encoder, LocalRound, LocalUpdate, Progress
from partsong.client.rules.agreement import Consent
from partsong.client.rules.consent import NotAgreed, check_query, public_refusal
from partsong.client.seal import seal
from partsong.client.secure_sum.door import Answer, Door
from partsong.client.training.unfinished import UnfinishedWork
from partsong.common import wire
from partsong.common.adapters.adapter import FloatVec
from partsong.common.errors import DataError, PartsongError, Refused, WireError
from partsong.common.files import append_line, read_lines
from partsong.common.groups import asked_in
from partsong.common.plan import LOSS, UPDATE, Plan
from partsong.common.secure_sum.rotation import FloatVec as AnyFloats
from partsong.common.vectors import vector_digest


@dataclass(frozen=True, kw_only=True, slots=True)
class Chance:
    """Where a site's random choices of one round come from."""

    samples: Randomness
    rounding: np.random.Generator


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """Who is told what happens at a site. Everything here stays at the site."""

    step: Callable[[int, Progress], None] = lambda _number, _progress: None
    """Each training step."""
    update: Callable[[int, LocalUpdate], None] = lambda _number, _update: None
    """The statistics of a finished round."""
    refusal: Callable[[PartsongError], None] = lambda _error: None
    """What was refused, with rule and numbers; the coordinator gets a code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Waiting:
    """An update that waits for its roster."""

    number: int
    attempt: int
    context: str
    update: LocalUpdate


@contextlib.contextmanager
def _coded(code: wire.RefusalCode | None) -> Iterator[None]:
    """Turn a refusal with a rule, which stays here, into one with a code, which the coordinator may have.

    Args:
        code: None lets the rule decide.
    """
    try:
        yield
    except Refused as no:
        raise (public_refusal(no) if code is None else NotAgreed(code, str(no), rule=no.rule)) from no


class Site:
    """A site's side of the protocol."""

    def __init__(
        self,
        *,
        name: str,
        encoder: Encoder,
        consent: Consent,
        journal: Path,
        door: Door,
        purse: Purse,
        chance: Callable[[Plan, int], Chance],
        watch: Watch | None = None,
        unfinished: UnfinishedWork | None = None,
    ) -> None:
        """Set a site up; nothing is read or sent yet. Reservations of updates that a crash has erased are given back.

        Args:
            name: of the site.
            encoder: computes what a query asks for.
            consent: decides about plans.
            journal: file of the queries that were accepted here.
            door: how sealed words leave.
            purse: pays for queries from the site's ledger.
            chance: randomness of a round.
            watch: told what happens, locally.
            unfinished: where work outlives its process. None: it dies with it.
        """
        self._name, self._encoder, self._consent = name, encoder, consent
        self._journal, self._door, self._purse, self._chance = journal, door, purse, chance
        self._watch = watch or Watch()
        self._plan: Plan | None = None
        self._frozen_F: FloatVec | None = None
        self._waiting: _Waiting | None = None
        self._unfinished = unfinished
        self._left = self._settle()
        """Contexts that an earlier process has left unfinished, and that nobody has gone on with."""

    @property
    def holds_update(self) -> bool:
        """Whether an update waits in this process for its roster."""
        return self._waiting is not None

    def handle(self, header: bytes, *, vector: bytes = b"", note: bytes = b"") -> Answer:
        """Answer one message of the coordinator.

        Args:
            header: of `partsong.common.wire`.
            vector: that rides beside it.
            note: message of the secure sum beside it.
        Raises:
            WireError: not a message that a site takes; nothing was done.
            PartsongError: what was asked failed; the coordinator is not told why.
        """
        try:
            match wire.kind_of(header):
                case wire.Propose.kind:
                    return self._propose(wire.decode(header, wire.Propose), vector)
                case wire.Keys.kind:
                    return self._keys(wire.decode(header, wire.Keys), note)
                case wire.Open.kind:
                    return self._open(wire.decode(header, wire.Open), vector, note)
                case wire.Roster.kind:
                    return self._roster(wire.decode(header, wire.Roster), vector, note)
                case wire.Confirm.kind:
                    return self._step(wire.decode(header, wire.Confirm), self._door.confirm, note)
                case wire.Unmask.kind:
                    return self._step(wire.decode(header, wire.Unmask), self._door.unmask, note)
                case wire.Result.kind:
                    return self._check(wire.decode(header, wire.Result), note)
        except NotAgreed as no:
            self._watch.refusal(no)
            return Answer(header=wire.encode(wire.Refuse(site=self._name, code=no.code)))
        raise WireError("message header: a kind that no site takes")

    def _propose(self, message: wire.Propose, vector: bytes) -> Answer:
        """Check a plan; answer Accept or Refuse."""
        plan, trained = message.plan, message.plan.layout.size(trained=True)
        both = wire.floats(vector, size=plan.layout.size(trained=False) + trained)
        frozen_F, start_P = both[: both.size - trained], both[both.size - trained :]
        self._consent.agree(plan, self._encoder.facts(plan), afford=self._purse.afford)
        if plan.masked != self._door.masked:
            raise NotAgreed("policy", "the plan's sum is unmasked, or this site is in no charter")
        if vector_digest(vector, stop=frozen_F.size) != plan.frozen_sha256:
            raise WireError("propose message: the frozen part is not the one that the plan names")
        if vector_digest(vector, first=frozen_F.size, stop=both.size) != plan.start_sha256:
            raise WireError("propose message: the start is not the one that the plan names")
        if self._unfinished is None or (self._plan is not None and self._plan.sha256 != plan.sha256):
            self._forget()
        self._door.agree(plan, start_P)
        # A copy: a view would keep the start in memory for as long as the plan is in force.
        self._plan, self._frozen_F = plan, frozen_F.copy()
        return Answer(header=wire.encode(wire.Accept(site=self._name, plan_sha256=plan.sha256)))

    def _keys(self, message: wire.Keys, note: bytes) -> Answer:
        """Take a step of key set-up."""
        self._agreed(message.plan_sha256)
        with _coded("sum"):
            reply = self._door.keys(message.step, note)
        return Answer(header=wire.encode(wire.Keyed(site=self._name, step=message.step)), note=reply)

    def _open(self, query: wire.Open, vector: bytes, note: bytes) -> Answer:
        """Train for one round, or what a crash has left of it; answer Ready once the update waits here."""
        goes_on = self._goes_on(query)
        if not goes_on:
            self._forget()
        plan = self._agreed(query.plan_sha256)
        self._consent.require(plan)
        before = self._opened(plan)
        check_query(query, plan, opened=[q for q in before if not goes_on or q != (query.round, query.attempt)])
        self._require_group(plan, query.round, (self._name,))
        if plan.dp is not None and not goes_on and (paid := self._purse.queries(plan)) >= plan.queries:
            raise NotAgreed("budget", f"{paid} of {plan.queries} rounds are spent")
        adapters = 2 if plan.is_vote(query.round) else 1
        adapter_P = wire.floats(vector, size=adapters * plan.layout.size(trained=True))
        if vector_digest(vector, stop=adapter_P.size) != query.adapter_sha256:
            raise WireError("open message: the adapter is not the one that the header names")
        with _coded("sum"):
            self._door.open(query, note)
        with _coded(None):
            self._purse.recall(self._door.witnessed())
            pay = self._purse.resume if goes_on else self._purse.reserve
            context = pay(plan, number=query.round, attempt=query.attempt)
        update = self._work(plan, query, adapter_P, context=context, goes_on=goes_on)
        self._waiting = _Waiting(number=query.round, attempt=query.attempt, context=context, update=update)
        block = self._door.wanted
        header = wire.Ready(site=self._name, round=query.round, attempt=query.attempt, block=block)
        return Answer(header=wire.encode(header), note=self._door.ready(self._purse.head))

    def _roster(self, roster: wire.Roster, vector: bytes, note: bytes) -> Answer:
        """Seal the waiting update for the sites of the roster; answer Report.

        A second call finds nothing to seal. It gives the same bytes again if they were kept, as after a crash.
        """
        plan = self._agreed(roster.plan_sha256)
        self._require_group(plan, roster.round, roster.sites)
        header = wire.encode(wire.Report(site=self._name, round=roster.round, attempt=roster.attempt))
        waiting = self._waiting or self._left_waiting(plan, roster)
        if waiting is None or (waiting.number, waiting.attempt) != (roster.round, roster.attempt):
            with _coded("state"):
                kept = self._door.repeat(roster, note)
            if kept is None:
                raise NotAgreed("state", "no update of that round waits here")
            return Answer(header=header, vector=kept[0], note=kept[1])
        with _coded("sum"):
            self._door.enter(roster, note, vector)
        # Used up, whatever happens next: where a commit fails, it may have been recorded all the same.
        self._waiting = None
        self._left.discard(waiting.context)
        try:
            self._purse.commit(waiting.context)
        finally:
            if self._unfinished is not None:
                self._unfinished.erase(plan.sha256)
        # Counts have no weights: the answer is that of all units together, each as one.
        counts = plan.question is not None or plan.is_vote(roster.round)
        share = 1.0 if counts else self._door.share
        update_P = waiting.update.update_P if share == 1.0 else waiting.update.update_P * np.float32(share)
        # An exact sum of losses is rounded once, by the seal.
        loss_1: AnyFloats = np.array([waiting.update.loss], np.float32 if plan.on_sum is None else np.float64)
        blocks = {UPDATE: update_P, LOSS: loss_1}
        words_W = seal(blocks, plan, number=roster.round, rng=self._chance(plan, roster.round).rounding)
        words, sealed = self._door.report(words_W)
        return Answer(header=header, vector=words, note=sealed)

    def _require_group(self, plan: Plan, number: int, sites: tuple[str, ...]) -> None:
        """Take no part in a sum over sites of two groups: one bad site would be in several of the groups' means."""
        if asked_in(plan, number, sites) != sites:
            raise NotAgreed("plan", f"round {number} asks sites of another group", rule="groups")

    def _step(self, message: wire.Confirm | wire.Unmask, take: Callable[[bytes], bytes], note: bytes) -> Answer:
        """Confirm the survivors, or give shares."""
        self._agreed(message.plan_sha256)
        header = wire.Step(site=self._name, round=message.round, attempt=message.attempt)
        with _coded("sum"):
            reply = take(note)
        return Answer(header=wire.encode(header), note=reply)

    def _check(self, message: wire.Result, note: bytes) -> Answer:
        """Check a sum outside of a round."""
        self._agreed(message.plan_sha256)
        with _coded("sum"):
            verdict = self._door.check(message, note)
        return Answer(header=wire.encode(wire.Checked(site=self._name)), note=verdict)

    def _work(self, plan: Plan, query: wire.Open, adapter_P: FloatVec, *, context: str, goes_on: bool) -> LocalUpdate:
        """Compute the update of a query that is paid for, and keep it where work is kept."""
        self._left.discard(context)
        try:
            if not goes_on:
                entry = {"plan": plan.sha256, "round": query.round, "attempt": query.attempt}
                append_line(self._journal, entry)
                if self._unfinished is not None:
                    self._unfinished.begin(context, adapter_sha256=query.adapter_sha256)
            update = self._kept_update(plan, query.round, context) if goes_on else None
            if update is None:
                update = self._train(plan, query.round, adapter_P, context)
                if self._unfinished is not None and plan.on_sum is None:
                    # A sum without its noise does not outlive the process; it is computed anew, from a new sample.
                    self._unfinished.keep(context, update)
        except BaseException as err:
            if self._unfinished is not None and not isinstance(err, Exception):
                # The process is told to stop. What it has noted is as after a crash.
                self._left.add(context)
            else:
                # Nothing of the half-done work is kept, so nothing of it can ever be sealed.
                self._give_up(context)
            raise
        return update

    def _train(self, plan: Plan, number: int, adapter_P: FloatVec, context: str) -> LocalUpdate:
        if self._frozen_F is None:
            raise AssertionError("a plan is only ever stored together with its frozen part")
        asked = LocalRound(
            plan=plan,
            number=number,
            frozen_F=self._frozen_F,
            adapter_P=adapter_P,
            randomness=self._chance(plan, number).samples,
            on_step=lambda p: self._watch.step(number, p),
        )
        if self._unfinished is not None and self._encoder.resumes:
            asked = replace(asked, bookmark=self._unfinished.bookmark(context, size=plan.update_size(number)))
        update = self._encoder.encode(asked)
        self._watch.update(number, update)
        return update

    def _settle(self) -> set[str]:
        """Give back reservations of what died, and erase what was left of contexts that are settled.

        Returns:
            contexts that can be gone on with.
        """
        found = () if self._unfinished is None else self._unfinished.contexts()
        kept = tuple(filter(self._purse.pays_for, found))
        self._purse.settle(keep=kept)
        reserved = set(kept) & set(self._purse.outstanding()) if kept else set()
        for context in kept:
            if self._unfinished is not None and context not in reserved:
                # Committed: it was sealed, or may have been. Nothing is sealed twice.
                self._unfinished.erase(context.partition(":")[0])
        return reserved

    def _goes_on(self, query: wire.Open) -> bool:
        """Say whether a query is the very one that an earlier process broke off."""
        context = context_of(query.plan_sha256, number=query.round, attempt=query.attempt)
        if self._unfinished is None or context not in self._left:
            return False
        return self._unfinished.starts_from(context, adapter_sha256=query.adapter_sha256)

    def _kept_update(self, plan: Plan, number: int, context: str) -> LocalUpdate | None:
        """Read an update that was complete when its process died."""
        if self._unfinished is None:
            return None
        found = self._unfinished.read(context, size=plan.update_size(number))
        return found if isinstance(found, LocalUpdate) else None

    def _left_waiting(self, plan: Plan, roster: wire.Roster) -> _Waiting | None:
        """Find the update that waits for a roster, where an earlier process has computed it."""
        context = context_of(plan.sha256, number=roster.round, attempt=roster.attempt)
        update = self._kept_update(plan, roster.round, context) if context in self._left else None
        if update is None:
            return None
        return _Waiting(number=roster.round, attempt=roster.attempt, context=context, update=update)

    def _forget(self) -> None:
        """Erase an update or a round that was given up, and give its reservation back."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            context = waiting.context
            waiting.update.update_P.fill(0)
            del waiting
            self._give_up(context)
        elif self._plan is not None:
            for context in [c for c in self._left if c.startswith(f"{self._plan.sha256}:")]:
                self._give_up(context)

    def _give_up(self, context: str) -> None:
        """Give a reservation back, once nothing of it is left."""
        self._left.discard(context)
        if self._unfinished is not None:
            self._unfinished.erase(context.partition(":")[0])
        self._purse.release(context)

    def _agreed(self, plan_sha256: str) -> Plan:
        if self._plan is None:
            raise NotAgreed("state", "no plan was accepted here")
        if self._plan.sha256 != plan_sha256:
            raise NotAgreed("plan", "the message names another plan than the accepted one")
        return self._plan

    def _opened(self, plan: Plan) -> list[tuple[int, int]]:
        """Round and attempt of each query of the plan in the journal.

        Raises:
            DataError: the journal is damaged. What was spent is then unknown, so nothing more is.
        """
        plan_sha256 = plan.sha256  # once: the journal may be long
        try:
            return [
                (int(line["round"]), int(line["attempt"]))
                for line in read_lines(self._journal)
                if line["plan"] == plan_sha256
            ]
        except (KeyError, TypeError, ValueError) as err:
            raise DataError(
                self._journal.name, found="a line that is no query", expected="plan, round and attempt on each line"
            ) from err
