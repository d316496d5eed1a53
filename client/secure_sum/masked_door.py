"""How words leave a site through the secure sum, under one plan.

Covers: the words are opened only as part of one sum over enough sites; the coordinator's history of sums and adapters
is recomputed, and a site that finds it wrong takes no further part.
Does not cover: what the sum says about a site (differential privacy does).

Specification: PROTOCOL.md; the steps are those of `partsong.client.secure_sum.protocol`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partsong.client.rules.consent import NotAgreed
from partsong.client.secure_sum.door import Witnessed
from partsong.client.secure_sum.follow import Follower
from partsong.client.secure_sum.key_setup import KeySetup
from partsong.client.secure_sum.protocol import SecureSumSite
from partsong.client.secure_sum.site_state import Stage
from partsong.client.secure_sum.spot_check import SpotCheck
from partsong.client.secure_sum.vault import Vault
from partsong.common import wire
from partsong.common.adapters.adapter import FloatVec
from partsong.common.codec import unpack
from partsong.common.errors import Refused, WireError
from partsong.common.groups import asked_in
from partsong.common.identity.charter import Charter
from partsong.common.identity.keys import Signer
from partsong.common.plan import Plan
from partsong.common.secure_sum.fixed_point import WordVec
from partsong.common.secure_sum.messages import Begin, Header, Open, Ready, Result, Signed
from partsong.common.secure_sum.opened import encoding_hash, model_hash, query_hash
from partsong.common.secure_sum.result import OpenedSum
from partsong.common.secure_sum.shamir import Entropy
from partsong.common.thresholds import Floors

_PLAN_RECORD, _ENDED_RECORD = "plan", "ended plans"
_HASH_BYTES = 32
_NO_WORDS = np.zeros(0, np.uint64)
"""A report that is in the vault does not look at words; one that is not refuses these."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Membership:
    """What a site has from onboarding: the pinned charter, its key, and where it keeps what must not be lost."""

    charter: Charter
    signer: Signer
    vault: Vault
    floors: Floors
    """Of the site's own policy."""


class MaskedDoor:
    """The secure sum, under one plan."""

    masked = True

    def __init__(
        self,
        membership: Membership,
        *,
        name: str,
        copy: Path,
        entropy: Entropy,
        clock: Callable[[], float],
        threads: int = 1,
    ) -> None:
        """Go on where the vault ends.

        Args:
            membership: of the site.
            name: of the site, as in the charter.
            copy: file of the site's own copy of the adapter.
            entropy: secret uniform bytes, in production `os.urandom`.
            clock: Unix time in seconds.
            threads: workers for the key streams.
        """
        self._member, self._name = membership, name
        self._entropy, self._clock, self._threads = entropy, clock, threads
        self._follower = Follower(copy)
        self._spot = SpotCheck(membership.vault, entropy=entropy)
        self._plan: Plan | None = None
        self._setup: KeySetup | None = None
        self._sum: SecureSumSite | None = None
        self._witnessed: Witnessed | None = None

    @property
    def share(self) -> float:
        """Give this site's weight over the largest, by the charter."""
        charter = self._member.charter
        return charter.share(charter.number_of(self._name))

    def agree(self, plan: Plan, start_P: FloatVec) -> None:
        """Follow a plan; keys that were set up for it are taken up again.

        Raises:
            NotAgreed: noise on the sum that counts on more honest shares than this site does, or on equal ones under
                a charter with weights; nothing was changed.
        """
        self._require_shares(plan)
        self._follower.start(plan, start_P)
        self._plan, self._setup, self._sum = plan, None, None
        if self._member.vault.read(_PLAN_RECORD) == bytes.fromhex(plan.sha256):
            self._sum = self._woken()

    def keys(self, step: wire.KeyStep, note: bytes) -> bytes:
        """Take a step of set-up: once per plan, unless no round was opened since."""
        if step == "begin":
            return self._begin(note)
        setup = self._required_setup()
        if step == "pair":
            return setup.pair(note)
        if step == "reveal":
            return setup.reveal(note)
        self._end_other_plan()
        setup.finish(note)
        self._member.vault.write(_PLAN_RECORD, bytes.fromhex(self._required_plan().sha256))
        self._setup, self._sum = None, self._woken()
        return b""

    def open(self, query: wire.Open, note: bytes) -> None:
        """Take OPEN: check the last sum, recompute the adapter from it, and compare with the one that was sent."""
        plan, site = self._required_plan(), self._required_sum()
        self._spot.require_trust(site.run)
        self._require_no_gap(note)
        opened = site.open(note)
        _require_header(opened.header, plan, query)
        if opened.previous is not None:
            self._note_own_head(unpack(Open, note).result)
        if opened.previous_fits and opened.previous is not None:
            self._follower.take(opened.previous, number=query.summed, charter=self._member.charter)
        right = opened.previous_fits and query.adapter_sha256 == self._follower.sha256_of_query(number=query.round)
        if not right:
            site.ready(verdict=False)
            raise Refused(
                "wrong_adapter",
                reason="the adapter of this round does not follow from the sums that were checked here",
                remedy="compare the results with the other sites; this site takes no further part in the run",
            )
        last = unpack(Open, note).result if plan.spot_checks else b""
        asked = asked_in(plan, query.round, [self._member.charter.sites[member].id for member in site.run.members])
        self._spot.pick(last, members=len(asked))

    def ready(self, ledger: bytes) -> bytes:
        """Give the signed READY, with a verdict of 1: `open` has refused everything else."""
        return self._required_sum().ready(verdict=True, ledger=ledger)

    def witnessed(self) -> Witnessed | None:
        """Give what this site signed itself, as the round's survivors have it; None if it was not in the roster."""
        return self._witnessed

    @property
    def wanted(self) -> int:
        """Block of the last sum that this site has picked."""
        return self._spot.wanted

    def enter(self, roster: wire.Roster, note: bytes, block: bytes) -> None:
        """Take the signed ROSTER, once the block of the last sum is what it has to be."""
        self._spot.require(block, run=self._required_sum().run)
        self._enter(roster, note)

    def report(self, words_W: WordVec) -> tuple[bytes, bytes]:
        """Mask the words and give the signed REPORT."""
        return b"", self._required_sum().report(words_W)

    def repeat(self, roster: wire.Roster, note: bytes) -> tuple[bytes, bytes] | None:
        """Give the REPORT from the vault, where this roster's vector was masked by an earlier process."""
        site = self._required_sum()
        if site.stage not in (Stage.MASKING, Stage.REPORTED):
            return None
        self._enter(roster, note)
        return b"", site.report(_NO_WORDS)

    def confirm(self, note: bytes) -> bytes:
        """Sign one survivor set."""
        return self._required_sum().confirm(note)

    def unmask(self, note: bytes) -> bytes:
        """Give the shares of one sum."""
        return self._required_sum().unmask(note)

    def check(self, result: wire.Result, note: bytes) -> bytes:
        """Take a sum over, and say whether it and the adapter that is said to follow from it are right.

        A site that is not asked in the next round meets its own READY here, and not with OPEN.
        """

        def follows(opened: OpenedSum) -> bool:
            self._follower.take(opened, number=result.summed, charter=self._member.charter)
            return result.adapter_sha256 in ("", self._follower.adapter_sha256)

        model = model_hash(result.adapter_sha256) if result.adapter_sha256 else bytes(32)
        said = self._required_sum().close(note, verdict=follows, model=model)
        self._note_own_head(note)
        return said

    def _enter(self, roster: wire.Roster, note: bytes) -> None:
        """Take the signed ROSTER, whose names have to be those of the header."""
        entered = self._required_sum().enter(note)
        names = {self._member.charter.sites[number].id for number in entered.roster}
        if names != set(roster.sites) or len(roster.sites) != len(names):
            raise WireError(
                "message roster: found other names than those that signed; the update was not sealed",
                rule="roster.names",
            )

    def _note_own_head(self, result: bytes) -> None:
        """Remember this site's own READY in a result whose signatures were checked; one without it changes nothing."""
        readys = [unpack(Ready, signed.body) for signed in unpack(Result, result).readys]
        digests = {self._member.charter.sites[ready.site].id: ready.ledger for ready in readys}
        mine = digests.pop(self._name, bytes(32))
        if any(mine):
            self._witnessed = Witnessed(digest=mine, sites=tuple(digests))

    def _require_no_gap(self, note: bytes) -> None:
        """Refuse a sum whose predecessor this site lacks, before it is taken over: it could not be followed later."""
        packed = unpack(Open, note).result
        if packed:
            last = unpack(Header, unpack(Result, packed).header.body)
            self._follower.require_next(round_=last.round, previous=last.previous_round)

    def _require_shares(self, plan: Plan) -> None:
        """Refuse noise on the sum that is short where as many sites are corrupt as this site reckons with."""
        noise, charter = plan.on_sum, self._member.charter
        if noise is None:
            return
        corrupt = max(1, charter.floors.stricter(self._member.floors).corrupt_tolerance)
        if noise.colluders < corrupt:
            raise NotAgreed(
                "policy",
                f"noise on the sum that {noise.colluders} colluding sites know in part, {corrupt} reckoned with here",
                rule="privacy.placement",
            )
        if charter.weights:
            raise NotAgreed("policy", "noise on the sum, and a charter that weighs its sites", rule="privacy.placement")

    def _begin(self, note: bytes) -> bytes:
        run = bytes.fromhex(self._required_plan().sha256)
        in_use = self._sum is not None and self._sum.stage is not Stage.IDLE
        if in_use or run in self._ended_plans():
            raise Refused(
                "keys_in_use",
                reason="this plan had keys here, and what was done with them is not forgotten",
                remedy="go on with those keys, or start a new run",
            )
        if unpack(Begin, unpack(Signed, note).body).run != run:
            raise WireError("message begin: found another plan's; it was dropped")
        setup = KeySetup(
            charter=self._member.charter,
            site_id=self._name,
            signer=self._member.signer,
            floors=self._member.floors,
            vault=self._member.vault,
        )
        bundle = setup.begin(note, entropy=self._entropy)
        self._setup, self._sum = setup, None
        return bundle

    def _ended_plans(self) -> tuple[bytes, ...]:
        """Plans whose keys were replaced by those of another. A second set-up would forget their history."""
        ended = self._member.vault.read(_ENDED_RECORD) or b""
        return tuple(ended[at : at + _HASH_BYTES] for at in range(0, len(ended), _HASH_BYTES))

    def _end_other_plan(self) -> None:
        """Note, before its keys are replaced, that the plan which had keys here is over.

        A crash from here to the end of set-up leaves keys that are of no plan, never keys of the wrong one.
        """
        vault, run = self._member.vault, bytes.fromhex(self._required_plan().sha256)
        before = vault.read(_PLAN_RECORD)
        if before is not None and before != run:
            vault.write(_ENDED_RECORD, b"".join((*self._ended_plans(), before)))
            vault.erase(_PLAN_RECORD)

    def _woken(self) -> SecureSumSite:
        return SecureSumSite(
            charter=self._member.charter,
            signer=self._member.signer,
            floors=self._member.floors,
            vault=self._member.vault,
            entropy=self._entropy,
            clock=self._clock,
            threads=self._threads,
        )

    def _required_plan(self) -> Plan:
        if self._plan is None:
            raise NotAgreed("state", "no plan was accepted here")
        return self._plan

    def _required_setup(self) -> KeySetup:
        if self._setup is None:
            raise NotAgreed("state", "no set-up was begun here")
        return self._setup

    def _required_sum(self) -> SecureSumSite:
        if self._sum is None:
            raise NotAgreed("state", "no keys were set up for this plan")
        return self._sum


def _require_header(header: Header, plan: Plan, query: wire.Open) -> None:
    """Refuse a signed header that is about something else than the message it came with."""
    expected = {
        "model": model_hash(query.adapter_sha256),
        "query": query_hash(plan, number=query.round),
        "encoding": encoding_hash(plan, number=query.round),
        "words": plan.encoding_of(query.round).words(),
        "minimum_sum": plan.minimum_sum,
        "noised": int(plan.survives_differences),
    }
    wrong = [name for name, value in expected.items() if getattr(header, name) != value]
    if wrong:
        raise Refused(
            "other_query", reason=f"the signed header names another {wrong[0]}", remedy="sign what the query says"
        )
