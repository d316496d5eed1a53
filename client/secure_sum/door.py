"""How words leave a site: through the secure sum, or, where the policy allows it by name, as they are.

Everything that a site sends about its records passes `report` of a door: `PlainDoor` here, or `MaskedDoor` of
`partsong.client.secure_sum.masked_door`.

Covers, unmasked: a roster below the floor, or without this site, gets nothing.
Does not cover, unmasked: anything else; the coordinator could read the words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from partsong.client.rules.consent import NotAgreed, Rules
from partsong.client.secure_sum.spot_check import NONE
from partsong.common import wire
from partsong.common.adapters.adapter import FloatVec
from partsong.common.plan import Plan
from partsong.common.secure_sum.fixed_point import WordVec


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a site sends back."""

    header: bytes
    vector: bytes = b""
    note: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Witnessed:
    """An entry of a site's ledger that others have seen in a message which the site signed."""

    digest: bytes
    """32 bytes, of the newest entry at that time."""
    sites: tuple[str, ...]


class Door(Protocol):
    """One site's way out."""

    masked: bool

    @property
    def share(self) -> float:
        """Give what an update is multiplied by before it is sealed."""
        ...

    def agree(self, plan: Plan, start_P: FloatVec) -> None:
        """A plan was accepted; what was of another one is over."""
        ...

    def keys(self, step: wire.KeyStep, note: bytes) -> bytes:
        """Take a step of set-up."""
        ...

    def open(self, query: wire.Open, note: bytes) -> None:
        """Take OPEN, before a record is read.

        Raises:
            Refused, WireError: it does not fit the plan or the sums so far; nothing may be read.
        """
        ...

    def ready(self, ledger: bytes) -> bytes:
        """Give the note of READY, which tells the others where this site's ledger is."""
        ...

    def witnessed(self) -> Witnessed | None:
        """Give what this site said of its ledger in the last sum's round, and who has seen it."""
        ...

    @property
    def wanted(self) -> int:
        """Block of the last sum that has to come with ROSTER; -1: none."""
        ...

    def enter(self, roster: wire.Roster, note: bytes, block: bytes) -> None:
        """Take ROSTER, before the vector is sealed.

        Raises:
            NotAgreed, Refused, WireError: too few sites, or not this round's; nothing may be sealed.
        """
        ...

    def report(self, words_W: WordVec) -> tuple[bytes, bytes]:
        """Give vector and note of REPORT. `words_W` is used up."""
        ...

    def repeat(self, roster: wire.Roster, note: bytes) -> tuple[bytes, bytes] | None:
        """Give the REPORT that went under this ROSTER before a crash, to the byte; None: there is none.

        Raises:
            Refused, WireError: not this round's, or masking was begun and never ended; nothing is masked again.
        """
        ...

    def confirm(self, note: bytes) -> bytes:
        """Take the survivors."""
        ...

    def unmask(self, note: bytes) -> bytes:
        """Take a quorum and give shares."""
        ...

    def check(self, result: wire.Result, note: bytes) -> bytes:
        """Take a sum outside of a round and give a verdict."""
        ...


class PlainDoor:
    """No masks: the coordinator could read the words. The sites' names in the roster are the coordinator's word."""

    masked = False
    share = 1.0

    def __init__(self, *, name: str, rules: Rules) -> None:
        """Prepare.

        Args:
            name: of this site.
            rules: its floors.
        """
        self._name, self._rules = name, rules
        self._plan: Plan | None = None

    def agree(self, plan: Plan, start_P: FloatVec) -> None:  # noqa: ARG002 - nobody recomputes the adapter here
        """Keep the plan."""
        self._plan = plan

    def keys(self, step: wire.KeyStep, note: bytes) -> bytes:
        """There are none."""
        raise NotAgreed("plan", f"set-up ({step}, {len(note)} bytes) for a plan without a secure sum")

    def open(self, query: wire.Open, note: bytes) -> None:
        """Nothing to check: there is no history."""

    def ready(self, ledger: bytes) -> bytes:  # noqa: ARG002 - there is no note to put it into
        """Nothing to say."""
        return b""

    def witnessed(self) -> Witnessed | None:
        """Nobody has: a ledger that is rolled back goes unnoticed."""
        return None

    wanted = NONE

    def enter(self, roster: wire.Roster, note: bytes, block: bytes) -> None:  # noqa: ARG002 - without a secure sum
        """Check the roster as far as it can be."""
        if self._plan is None or self._name not in roster.sites:
            raise NotAgreed("state", "the roster is of another plan, or this site is not in it")
        floor = max(self._plan.minimum_cohort, self._rules.minimum_cohort)
        summands = len(set(roster.sites))
        if not floor <= summands == len(roster.sites) <= self._plan.encoding.max_sites:
            raise NotAgreed("policy", f"{summands} sites in a roster of {len(roster.sites)}, at least {floor} needed")

    def report(self, words_W: WordVec) -> tuple[bytes, bytes]:
        """Give the words as they are."""
        return wire.vector_bytes(words_W), b""

    def repeat(self, roster: wire.Roster, note: bytes) -> None:
        """Nothing is kept of words that nothing hides."""

    def confirm(self, note: bytes) -> bytes:
        """There is no such phase."""
        raise NotAgreed("plan", f"survivors ({len(note)} bytes) in a plan without a secure sum")

    def unmask(self, note: bytes) -> bytes:
        """There is no such phase."""
        raise NotAgreed("plan", f"a quorum ({len(note)} bytes) in a plan without a secure sum")

    def check(self, result: wire.Result, note: bytes) -> bytes:
        """Nobody can."""
        raise NotAgreed("plan", f"a sum to check ({len(note)} bytes, round {result.summed}) without a secure sum")
