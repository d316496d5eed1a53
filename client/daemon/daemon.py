"""A site's daemon: takes the coordinator's messages and lets the `Site` of their plan answer.

Covers: rules, budget and keys are those of the site's directory, checked again at every start; a paused site takes no
new work; outside its training windows a query waits. Torch is loaded when the first plan asks for training, not before.
Does not cover: who sent a message (the connection's business), and what is answered (`partsong.client.site`).

There is one base model, and training takes all of the machine: rounds are worked on one after the other, on a thread of
their own. A plan that trains, or waits for its window, keeps no other plan from being answered.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import tzinfo
from typing import Protocol, TypeVar

import numpy as np

from partsong.client.adapters import desk as adapter_desk
from partsong.client.adapters.desk import AdapterDesk
from partsong.client.adapters.store import AdapterStore
from partsong.client.budget.ledger import Ledger
from partsong.client.daemon import windows
from partsong.client.daemon.board import Board
from partsong.client.daemon.plan_desk import ASKED, PlanDesk
from partsong.client.daemon.plan_folder import PlanFolder
from partsong.client.daemon.taking_part import NEW_WORK, TakingPart
from partsong.client.daemon.turns import Turns
from partsong.client.daemon.work import Works
from partsong.client.dp.sampler import SystemRandomness
from partsong.client.encoders.aside import Aside
from partsong.client.encoders.encoder import Progress
from partsong.client.home.layout import SiteHome
from partsong.client.membership.seen_charter import require_newest
from partsong.client.rules.agreement import ByPolicy
from partsong.client.rules.approval import Approvals
from partsong.client.rules.consent import NotAgreed
from partsong.client.rules.policy import Policy
from partsong.client.secure_sum.door import Answer, Door, PlainDoor
from partsong.client.secure_sum.masked_door import MaskedDoor, Membership
from partsong.client.secure_sum.plan_vault import PlanVault
from partsong.client.secure_sum.vault import Vault
from partsong.client.site import Chance, Site, Watch
from partsong.client.training.unfinished import UnfinishedWork
from partsong.common import canary, wire
from partsong.common.control.feed import Feed
from partsong.common.deployment import SiteConfig
from partsong.common.errors import PartsongError
from partsong.common.facts import word
from partsong.common.identity.charter import Charter
from partsong.common.identity.keys import Signer, fingerprint
from partsong.common.plan import Plan

T = TypeVar("T")
_LONGEST_NAP_S = 60.0
"""A clock that is set anew is noticed after this long."""


class SiteParts(Protocol):
    """What is unlocked of a site's directory."""

    @property
    def config(self) -> SiteConfig:
        """`site.yaml`."""
        ...

    @property
    def signer(self) -> Signer:
        """The identity key."""
        ...

    @property
    def charter(self) -> Charter:
        """The newest pinned one, signatures checked."""
        ...

    @property
    def policy(self) -> Policy:
        """`policy.yaml`."""
        ...

    @property
    def vault(self) -> Vault:
        """Of this site, used by no other process."""
        ...


class Stopping(BaseException):
    """The daemon stops while a query waits or is worked on. The question stays in the inbox and is answered later."""


class SiteDaemon:
    """One site at work."""

    def __init__(
        self,
        *,
        home: SiteHome,
        site: SiteParts,
        ledger: Ledger,
        works: Works,
        unfinished: UnfinishedWork | None,
        feed: Feed,
        clock: Callable[[], float],
        zone: tzinfo | None = None,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        """Check that the site may work under its charter, and put its policy's budgets in force; nothing is sent.

        Args:
            home: the site's directory.
            site: what was unlocked of it.
            ledger: of the site; closed by who opened it.
            works: gives encoder and purse for a plan.
            unfinished: where training outlives this process. None: it dies with it.
            feed: told what happens.
            clock: seconds since 1970.
            zone: of the training windows; None: as the machine is set.
            wait: waits for an event, at most so many seconds.
        Raises:
            Refused: an older charter was put back, or budgets that cannot be; nothing was changed.
        """
        self.site, self.works = site, works
        self._unfinished = unfinished
        self._feed, self._clock, self._zone, self._wait = feed, clock, zone, wait
        self.part = TakingPart(home.part)
        require_newest(home.seen, site.charter)
        ledger.adopt(site.policy.grants)
        self.approvals = Approvals(home.approvals, clock=clock)
        self._windows = windows.parse(site.config.training_windows)
        self._policy = policy_under(site.policy, site.charter)
        self.coordinator = fingerprint(site.charter.coordinator_key)
        self.board = Board()
        self.desk = PlanDesk(
            home.plans,
            make=self._site,
            before_query=self._await_window,
            retire=lambda plan_sha256: PlanVault(site.vault, plan_sha256).erase_all(),
            board=self.board,
            clock=clock,
        )
        self.adapters = AdapterDesk(AdapterStore(home.adapters), plans=home.plans, site=site.config.name, clock=clock)
        self._turns = Turns()
        self._training = ThreadPoolExecutor(max_workers=1, thread_name_prefix="training")
        self.stop = threading.Event()

    @property
    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return int(self._clock() * 1000)

    def answer(self, header: bytes, *, vector: bytes = b"", note: bytes = b"") -> Answer:
        """Answer one message of the coordinator. Any thread may ask; messages of one plan keep their order.

        Args:
            header: of `partsong.common.wire`.
            vector: that rides beside it.
            note: message of the secure sum beside it.
        Raises:
            WireError: not a message that a site takes; nothing was done.
            PartsongError: what was asked failed; the coordinator is not told why.
            Stopping: the daemon stops; the message was not answered, and may be put again to the next one.
        """
        kind = wire.kind_of(header)
        with self._turns.of(_plan_named(kind, header)):
            try:
                self._require_able(kind)
                if kind == adapter_desk.OFFER:
                    return self.adapters.offered(header)
                if kind == adapter_desk.PUBLISH:
                    return self.adapters.published(header, vector=vector, note=note)
                return self.desk.answer(header, vector=vector, note=note)
            except NotAgreed as no:
                self._refused(no)
                return Answer(header=wire.encode(wire.Refuse(site=self.site.config.name, code=no.code)))

    def _require_able(self, kind: str) -> None:
        """Refuse new work while the site pauses, and notice before any that the records are others."""
        self.part.require_running(kind)
        if kind in NEW_WORK and self.works.has_changed:
            self._feed.tell("data_changed", site=word(self.site.config.name))
            self.desk.records_changed()

    def _site(self, plan: Plan, folder: PlanFolder) -> Site:
        """Set a site up for one plan."""
        if plan.seed is not None and plan.study != canary.STUDY:
            raise NotAgreed("policy", "a plan with a seed is for simulations", rule="plan.seed")
        work = self.works.work_of(plan)
        return Site(
            name=self.site.config.name,
            encoder=work.encoder if plan.study == canary.STUDY else Aside(work.encoder, self._aside),
            consent=ByPolicy(self._policy, self.approvals, coordinator=self.coordinator),
            journal=folder.journal,
            door=self._door(plan, folder),
            purse=work.purse,
            chance=lambda _plan, _number: Chance(samples=SystemRandomness(), rounding=np.random.default_rng()),
            watch=self._watch(plan),
            unfinished=None if plan.study == canary.STUDY else self._unfinished,
        )

    def _door(self, plan: Plan, folder: PlanFolder) -> Door:
        """Give the way out that the plan names; whether an unmasked one is allowed is the policy's business."""
        name, charter = self.site.config.name, self.site.charter
        if not plan.masked:
            return PlainDoor(name=name, rules=self._policy.rules)
        member = Membership(
            charter=charter,
            signer=self.site.signer,
            vault=PlanVault(self.site.vault, folder.plan_sha256),
            floors=self._policy.stricter(charter.floors),
        )
        return MaskedDoor(member, name=name, copy=folder.copy, entropy=os.urandom, clock=self._clock)

    def _watch(self, plan: Plan) -> Watch:
        plan_sha256 = plan.sha256

        def step(number: int, progress: Progress) -> None:
            self._require_going_on()
            self._feed.tell("step", plan=plan_sha256, round=number, step=progress.step, steps=progress.steps)

        return Watch(step=step, refusal=self._refused)

    def _refused(self, error: PartsongError) -> None:
        """Tell, at the site, which rule refused."""
        code, rule = (error.code, error.rule) if isinstance(error, NotAgreed) else ("state", type(error).__name__)
        self._feed.tell("refused", code=code, rule=word(rule))

    def _await_window(self, plan: Plan, query: wire.Open) -> None:
        """Wait until the site may train. A canary trains nothing."""
        if plan.study == canary.STUDY:
            return
        told = False
        while (opens_s := windows.next_opening(self._windows, self._clock(), zone=self._zone)) > self._clock():
            if not told:
                self.board.waits(plan, query)
                self._feed.tell("window", plan=plan.sha256, wait_s=opens_s - self._clock())
                told = True
            with self._turns.aside():
                self._wait(self.stop, min(_LONGEST_NAP_S, opens_s - self._clock()))
            self._require_going_on()
        if told:
            self._require_able(query.kind)

    def _aside(self, work: Callable[[], T]) -> T:
        """Have work done on the thread that trains, while messages of other plans are answered."""

        def unless_stopping() -> T:
            self._require_going_on()
            return work()

        with self._turns.aside():
            return self._training.submit(unless_stopping).result()

    def _require_going_on(self) -> None:
        if self.stop.is_set():
            raise Stopping


def _plan_named(kind: str, header: bytes) -> str:
    """Name what a message is about: a plan by its hash, published adapters by their kind.

    Raises:
        WireError: not a message that a site takes.
    """
    if kind == wire.Propose.kind:
        return wire.decode(header, wire.Propose).plan.sha256
    asked = ASKED.get(kind)
    return kind if asked is None else wire.decode(header, asked).plan_sha256


def policy_under(policy: Policy, charter: Charter) -> Policy:
    """Give the policy, with no floor below the charter's: a plan may not ask for what the charter rules out."""
    cohort = max(policy.data.minimum_cohort, charter.minimum_cohort)
    return dataclasses.replace(policy, data=dataclasses.replace(policy.data, minimum_cohort=cohort))
