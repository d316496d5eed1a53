"""One site of a run: agrees to the plan, trains when asked, seals when the roster is known.

Bytes in, bytes out. The order is fixed: a query is checked and written to the journal before a record is read; an
update waits at the site until the roster is known; it is sealed once and then gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from partsong.client.consent import Facts, NotAgreed, Rules, check_plan, check_query
from partsong.client.data.encode import Encoded
from partsong.client.dp.sampler import Randomness
from partsong.client.model.host import ModelHost
from partsong.client.seal import seal
from partsong.client.train import LocalUpdate, Progress, train_round
from partsong.common import wire
from partsong.common.adapter import FloatVec, digest
from partsong.common.errors import DataError, WireError
from partsong.common.files import append_line, read_lines
from partsong.common.plan import LOSS, UPDATE, Plan, learning_rate


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a site sends back."""

    header: bytes
    vector: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chance:
    """Where a site's random choices of one round come from."""

    samples: Randomness
    rounding: np.random.Generator


class Site:
    """A site's side of the protocol."""

    def __init__(
        self,
        *,
        name: str,
        host: ModelHost,
        encoded: Encoded,
        rules: Rules,
        labels: tuple[str, ...],
        journal: Path,
        chance: Callable[[Plan, int], Chance],
        on_step: Callable[[int, Progress], None] = lambda _r, _p: None,
        on_round: Callable[[int, LocalUpdate], None] = lambda _r, _u: None,
    ) -> None:
        """Set a site up; nothing is read or sent yet.

        Args:
            name: of the site.
            host: the resident base model; other sites of a simulation may share it.
            encoded: the site's records.
            rules: what the site allows.
            labels: its closed list of classes.
            journal: file of the queries that were accepted here.
            chance: randomness of a round.
            on_step: told each training step, locally.
            on_round: told the local statistics of a finished round, locally.
        """
        self._name, self._host, self._records, self._rules = name, host, encoded.records, rules
        self._facts = Facts(
            records=len(encoded.records),
            base_sha256=host.files.sha256,
            layout=host.layout,
            lora=host.lora_options,
            labels=labels,
            patients=encoded.count("patient"),
            max_length=encoded.report.max_length,
        )
        self._journal, self._chance, self._on_step, self._on_round = journal, chance, on_step, on_round
        self._plan: Plan | None = None
        self._frozen_F: FloatVec | None = None
        self._pending: tuple[int, int, LocalUpdate] | None = None

    def propose(self, header: bytes, vector: bytes) -> Answer:
        """Check a plan; answer Accept or Refuse."""
        plan = wire.decode(header, wire.Propose).plan
        frozen_F = wire.floats(vector, size=plan.layout.size(trained=False))
        try:
            check_plan(plan, self._rules, self._facts)
        except NotAgreed as no:
            return self._refuse(no)
        if digest(frozen_F) != plan.frozen_sha256:
            raise WireError("propose message: the frozen part is not the one that the plan names")
        self._plan, self._frozen_F, self._pending = plan, frozen_F, None
        return Answer(header=wire.encode(wire.Accept(site=self._name, plan_sha256=plan.sha256)))

    def open(self, header: bytes, vector: bytes) -> Answer:
        """Train for one round; answer Ready once the update waits here.

        Raises:
            TrainingFailed: no usable update; the round's budget stays spent.
        """
        query = wire.decode(header, wire.Open)
        self._pending = None
        try:
            plan = self._agreed()
            check_query(query, plan, opened=self._opened(plan))
        except NotAgreed as no:
            return self._refuse(no)
        adapter_P = wire.floats(vector, size=plan.layout.size(trained=True))
        if digest(adapter_P) != query.adapter_sha256:
            raise WireError("open message: the adapter is not the one that the header names")
        append_line(self._journal, {"plan": plan.sha256, "round": query.round, "attempt": query.attempt})
        self._pending = query.round, query.attempt, self._train(plan, query.round, adapter_P)
        return Answer(header=wire.encode(wire.Ready(site=self._name, round=query.round, attempt=query.attempt)))

    def roster(self, header: bytes) -> Answer:
        """Seal the waiting update for the sites of the roster; answer Report. A second call finds nothing to seal."""
        roster = wire.decode(header, wire.Roster)
        try:
            plan = self._agreed()
            update = self._consume(roster, plan)
        except NotAgreed as no:
            return self._refuse(no)
        blocks = {UPDATE: update.update_P, LOSS: np.array([update.loss], np.float32)}
        rng = self._chance(plan, roster.round).rounding
        sealed = seal(blocks, plan, number=roster.round, attempt=roster.attempt, rng=rng)
        report = wire.Report(site=self._name, round=roster.round, attempt=roster.attempt)
        return Answer(header=wire.encode(report), vector=wire.vector_bytes(sealed))

    def _train(self, plan: Plan, number: int, adapter_P: FloatVec) -> LocalUpdate:
        if self._frozen_F is None:
            raise AssertionError("a plan is only ever stored together with its frozen part")
        self._host.put(self._frozen_F, trained=False)
        self._host.put(adapter_P)
        rate = learning_rate(plan.training, number=number, rounds=plan.rounds)
        update = train_round(
            self._host,
            self._records,
            sampling_rate=plan.sampling_rate,
            training=replace(plan.training, learning_rate=rate),
            dp=plan.dp,
            randomness=self._chance(plan, number).samples,
            on_step=lambda p: self._on_step(number, p),
        )
        self._on_round(number, update)
        return update

    def _consume(self, roster: wire.Roster, plan: Plan) -> LocalUpdate:
        if roster.plan_sha256 != plan.sha256 or self._name not in roster.sites:
            raise NotAgreed("state", "the roster is of another plan, or this site is not in it")
        floor, summands = max(plan.minimum_cohort, self._rules.minimum_cohort), len(set(roster.sites))
        if not floor <= summands == len(roster.sites) <= plan.encoding.max_sites:
            raise NotAgreed("policy", f"{summands} sites in a roster of {len(roster.sites)}, at least {floor} needed")
        if self._pending is None or self._pending[:2] != (roster.round, roster.attempt):
            raise NotAgreed("state", "no update of that round waits here")
        update, self._pending = self._pending[2], None
        return update

    def _agreed(self) -> Plan:
        if self._plan is None:
            raise NotAgreed("state", "no plan was accepted here")
        return self._plan

    def _opened(self, plan: Plan) -> list[tuple[int, int]]:
        """Round and attempt of each query of the plan in the journal.

        Raises:
            DataError: the journal is damaged. What was spent is then unknown, so nothing more is.
        """
        try:
            return [
                (int(line["round"]), int(line["attempt"]))
                for line in read_lines(self._journal)
                if line["plan"] == plan.sha256
            ]
        except (KeyError, TypeError, ValueError) as err:
            raise DataError(
                self._journal.name, found="a line that is no query", expected="plan, round and attempt on each line"
            ) from err

    def _refuse(self, no: NotAgreed) -> Answer:
        return Answer(header=wire.encode(wire.Refuse(site=self._name, code=no.code)))
