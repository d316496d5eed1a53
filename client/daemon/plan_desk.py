"""The plans of one site, each with a `Site` of its own: finds the one that a message is for, and wakes it from disk.

Covers: a plan's journal, keys and adapter copy are its own; a plan that was accepted goes on after a restart, checked
anew against the rules of that day; a plan that was purged never comes back. While one plan waits or trains others may
be answered, so what it had looked up before it waited is looked up again.
Does not cover: what of a query outlives its process (`partsong.client.training.unfinished`).
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from partsong.client.daemon.board import Board
from partsong.client.daemon.plan_folder import Life, PlanFolder, all_plans
from partsong.client.home.purge import purge_plan
from partsong.client.rules.consent import NotAgreed
from partsong.client.secure_sum.door import Answer
from partsong.client.site import Site
from partsong.common import canary, wire
from partsong.common.errors import DataError, WireError
from partsong.common.plan import Plan

MOST_PLANS = 500
"""Plans that may have a folder here; a coordinator cannot fill the disk with proposals."""
MOST_CANARIES = 20
"""Canaries that are kept. They need nobody's approval, so the oldest makes room for the next one."""
MOST_REMEMBERED = 10_000
"""Plans that were here at all. Of each that was purged a note stays, and there could be ever more canaries."""
MOST_AWAKE = 8
"""Plans that are held in memory, besides those whose update waits there."""
_Asked = wire.Keys | wire.Open | wire.Roster | wire.Confirm | wire.Unmask | wire.Result
ASKED: dict[str, type[_Asked]] = {cls.kind: cls for cls in get_args(_Asked)}
"""Messages about a plan that was accepted, by kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Awake:
    """A plan in memory."""

    site: Site
    plan: Plan
    records: int
    """How often the records had changed when it was taken up."""


class PlanDesk:
    """Hands messages to the site of their plan."""

    def __init__(
        self,
        plans: Path,
        *,
        make: Callable[[Plan, PlanFolder], Site],
        before_query: Callable[[Plan, wire.Open], None],
        retire: Callable[[str], None],
        board: Board,
        clock: Callable[[], float],
    ) -> None:
        """Use a folder, which need not exist.

        Args:
            plans: has one folder for each plan.
            make: sets a site up on the folder of a plan.
            before_query: called before a query is looked at; may wait.
            retire: called with the hash of a canary that is never taken up again.
            board: shows where plans stand.
            clock: seconds since 1970.
        """
        self._plans, self._make, self._before_query, self._clock = plans, make, before_query, clock
        self._board, self._retire = board, retire
        self._awake: OrderedDict[str, _Awake] = OrderedDict()
        self._busy: set[str] = set()
        """Plans that a message is answered for: they may let others go on meanwhile, and are not let go."""
        self._records = 0

    def answer(self, header: bytes, *, vector: bytes, note: bytes) -> Answer:
        """Answer one message of the coordinator.

        Raises:
            NotAgreed: it is about no plan of this site.
            WireError: not a message about a plan; nothing was done.
            PartsongError: as `Site.handle`.
        """
        if wire.kind_of(header) == wire.Propose.kind:
            return self._propose(header, vector)
        return self._ask(header, vector, note)

    def records_changed(self) -> None:
        """Take every plan up anew at its next query: what was counted of the records no longer holds."""
        self._records += 1

    def _propose(self, header: bytes, vector: bytes) -> Answer:
        plan = wire.decode(header, wire.Propose).plan
        plan_sha256 = plan.sha256
        folder = PlanFolder(self._plans, plan_sha256)
        self._require_room(folder)
        known = self._known(plan_sha256, begins=True) or self._taken_up(plan, folder)
        answer = known.site.handle(header, vector=vector)
        if wire.kind_of(answer.header) == wire.Accept.kind:
            folder.keep(header, vector, run=plan.run, study=plan.study, now_ms=self._now_ms())
            self._hold(plan_sha256, known)
            self._retire_canaries()
        return answer

    def _ask(self, header: bytes, vector: bytes, note: bytes) -> Answer:
        kind = wire.kind_of(header)
        if kind not in ASKED:
            raise WireError("message header: a kind that no site takes")
        message = wire.decode(header, ASKED[kind])
        folder = PlanFolder(self._plans, message.plan_sha256)
        woken = self._woken(folder, begins=kind == wire.Open.kind)
        if isinstance(woken, Answer):
            return woken
        if isinstance(message, wire.Open):
            self._before_query(woken.plan, message)
            woken = self._woken(folder, begins=True)  # the records may be others by now
            if isinstance(woken, Answer):
                return woken
            folder.asked(now_ms=self._now_ms())
        with self._board.showing(woken.plan, message), self._held_awake(folder.plan_sha256):
            answer = woken.site.handle(header, vector=vector, note=note)
        last = isinstance(message, wire.Result) and bool(message.adapter_sha256)
        if last and wire.kind_of(answer.header) == wire.Checked.kind:
            folder.ended(now_ms=self._now_ms())
        return answer

    def _known(self, plan_sha256: str, *, begins: bool) -> _Awake | None:
        """Give a plan that is in memory, unless the records have changed and nothing of the old ones is under way."""
        known = self._awake.get(plan_sha256)
        if known is None or known.records == self._records or (known.site.holds_update and not begins):
            return known
        return None

    def _taken_up(self, plan: Plan, folder: PlanFolder) -> _Awake:
        """Set a plan up on the records as they are now."""
        return _Awake(records=self._records, site=self._make(plan, folder), plan=plan)

    @contextlib.contextmanager
    def _held_awake(self, plan_sha256: str) -> Iterator[None]:
        self._busy.add(plan_sha256)
        try:
            yield
        finally:
            self._busy.discard(plan_sha256)

    def _woken(self, folder: PlanFolder, *, begins: bool) -> _Awake | Answer:
        """Give a plan that was accepted, or its site's refusal to go on with it."""
        known = self._known(folder.plan_sha256, begins=begins)
        if known is None:
            header, vector, plan = _accepted(folder)
            known = self._taken_up(plan, folder)
            answer = known.site.handle(header, vector=vector)
            if wire.kind_of(answer.header) != wire.Accept.kind:
                return answer
        self._hold(folder.plan_sha256, known)
        return known

    def _hold(self, plan_sha256: str, awake: _Awake) -> None:
        """Keep a plan in memory, and let those go that were not asked about for the longest time."""
        self._awake[plan_sha256] = awake
        self._awake.move_to_end(plan_sha256)
        busy = {*self._busy, plan_sha256}
        idle = [sha for sha, one in self._awake.items() if not one.site.holds_update and sha not in busy]
        for old in idle[: max(0, len(self._awake) - MOST_AWAKE)]:
            del self._awake[old]

    def _require_room(self, folder: PlanFolder) -> None:
        life = folder.life()
        if life is not None and life.purged_ms is not None:
            raise NotAgreed("state", "what this plan did here was purged", rule="plan.purged")
        if life is None and len(self._kept()) >= MOST_PLANS:
            raise NotAgreed("state", f"{MOST_PLANS} plans are kept here; purge those that ended", rule="plans.kept")
        if life is None and sum(1 for _ in all_plans(self._plans)) >= MOST_REMEMBERED:
            raise NotAgreed("state", f"{MOST_REMEMBERED} plans were here; remove those of canaries", rule="plans.kept")

    def _kept(self) -> list[tuple[Life, PlanFolder]]:
        """Give the plans that were not purged."""
        found = ((folder.life(), folder) for folder in all_plans(self._plans))
        return [(life, folder) for life, folder in found if life is not None and life.purged_ms is None]

    def _retire_canaries(self) -> None:
        """Purge the canaries that were not asked about for the longest time."""
        canaries = [(life.asked_ms, folder) for life, folder in self._kept() if life.study == canary.STUDY]
        canaries.sort(key=lambda one: (one[0], one[1].plan_sha256))
        for _, folder in canaries[: max(0, len(canaries) - MOST_CANARIES)]:
            purge_plan(folder, now_ms=self._now_ms())
            self._awake.pop(folder.plan_sha256, None)
            self._retire(folder.plan_sha256)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _accepted(folder: PlanFolder) -> tuple[bytes, bytes, Plan]:
    """Read the proposal that was accepted: header, vector and the plan that the header holds."""
    proposal = folder.proposal()
    if proposal is None:
        raise NotAgreed("state", "no such plan was accepted here", rule="plan.accepted")
    try:
        plan = wire.decode(proposal[0], wire.Propose).plan
    except WireError as err:
        raise _damaged(folder) from err
    if plan.sha256 != folder.plan_sha256:
        raise _damaged(folder)
    return *proposal, plan


def _damaged(folder: PlanFolder) -> DataError:
    return DataError(
        f"plans/{folder.plan_sha256[:12]}",
        found="another plan than the folder names",
        expected="the proposal as it was accepted",
        remedy="leave the run: what was agreed to cannot be read",
    )
