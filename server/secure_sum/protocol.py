"""The coordinator's side of a round: it passes messages on and opens one sum.

Covers: honest sites' messages give the exact sum over the confirmed survivors, or the round ends without one.
What a malformed, repeated or late message of a site can do is nothing.
Does not cover: secrecy. The sites keep that, whatever runs here.

Masked vectors are added up as they arrive; none is kept.

Specification: PROTOCOL.md sections 6 to 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from partsong.common.codec import pack, unpack
from partsong.common.derive import digest
from partsong.common.errors import WireError
from partsong.common.identity.keys import Signer
from partsong.common.secure_sum import transcript
from partsong.common.secure_sum.fixed_point import add_into
from partsong.common.secure_sum.merkle import root_of
from partsong.common.secure_sum.messages import (
    Confirm,
    ConfirmRequest,
    Header,
    Open,
    Quorum,
    Ready,
    Report,
    Result,
    Roster,
    Signed,
    Statement,
    Survivors,
    Unmask,
    sign,
)
from partsong.common.secure_sum.opening import fitting_seeds, liars, opens_to_tags, read_unmasks, take_masks_off
from partsong.common.secure_sum.result import OpenedSum, read_result, words_in, words_to_bytes
from partsong.common.secure_sum.tag import TAG_WORDS
from partsong.common.secure_sum.transcript import RunFacts

T = TypeVar("T")


class SumRound:
    """One round. `add_*` takes a site's message and gives the site's number; the others move the round on."""

    def __init__(self, *, run: RunFacts, signer: Signer, header: Header, threads: int = 1) -> None:
        """Prepare a round.

        Args:
            run: of set-up.
            signer: with the coordinator's key.
            header: what the round is about.
            threads: workers for the key streams.
        """
        self._run, self._signer, self._threads = run, signer, threads
        self._floors = run.charter.floors
        self._header, self._signed_header = header, sign(header, signer)
        self._total_W = np.zeros(header.words + TAG_WORDS, np.uint64)
        self._readys: dict[int, Signed] = {}
        self._reports: dict[int, Signed] = {}
        self._bundles: dict[int, tuple[bytes, ...]] = {}
        self._confirms: dict[int, Signed] = {}
        self._unmasks: dict[int, Unmask] = {}
        self._disputed: Mapping[int, tuple[int, ...]] = {}
        self._roster: tuple[int, ...] = ()
        self._holding: tuple[int, ...] = ()
        self._survivors: tuple[int, ...] = ()
        self._context = self._survivors_hash = b""

    @property
    def roster(self) -> tuple[int, ...]:
        """The sites of the round, once closed."""
        return self._roster

    @property
    def survivors(self) -> tuple[int, ...]:
        """The sites whose vectors are in the sum, once closed."""
        return self._survivors

    @property
    def holders(self) -> tuple[int, ...]:
        """The survivors that hold shares, once closed: all of them, or a committee. UNMASK is asked of these."""
        return tuple(site for site in self._survivors if site in self._holding)

    @property
    def disputed(self) -> Mapping[int, tuple[int, ...]]:
        """For each owner of a seed the holders whose shares did not fit the others', in the opened sum."""
        return self._disputed

    @property
    def liars(self) -> tuple[int, ...]:
        """The sites that the disputes prove wrong, by the signed UNMASKs."""
        return liars(self._disputed, corrupt=self._floors.corrupt_tolerance)

    @property
    def context(self) -> bytes:
        """32 bytes that name the round and its roster, once closed."""
        return self._context

    def open(self, *, result: bytes) -> bytes:
        """Give OPEN, for all members.

        Args:
            result: of the last round that has one, for sites that lack it; or empty.
        """
        return pack(Open(header=self._signed_header, result=result))

    def add_ready(self, message: bytes) -> int:
        """Take a READY.

        Raises:
            WireError: not of this round, not signed by a member, another one than before, or too late; dropped.
        """
        self._require(not self._roster, "ready")
        signed = unpack(Signed, message)
        (ready,) = transcript.read_roster(self._signed_header, [signed], self._run)
        _add_once(self._readys, ready.site, signed)
        return ready.site

    def close_roster(self) -> bytes:
        """End READY and give ROSTER, for its sites.

        Raises:
            Refused: too few sites or share holders, or too few that found the previous result right. More may still
                come.
        """
        readys = tuple(self._readys[site] for site in sorted(self._readys))
        read = [unpack(Ready, ready.body) for ready in readys]
        transcript.require_cohort(read, floors=self._floors)
        transcript.require_accepted_result(read, floors=self._floors)
        roster = tuple(sorted(self._readys))
        transcript.require_holders(roster, roster=roster, run=self._run)
        self._roster, self._holding = roster, self._run.holders(roster).sites
        self._context = transcript.context_of(self._signed_header, readys)
        named = transcript.header_hash(self._signed_header)
        return pack(sign(Roster(header=named, readys=readys), self._signer))

    def add_report(self, message: bytes) -> int:
        """Take a REPORT and add its masked words.

        Raises:
            WireError: not of this context, not signed by a site of the roster, words or bundles that are not those
                of its header, another one than before, or too late; dropped, nothing was added.
        """
        self._require(bool(self._roster) and not self._survivors, "report")
        report = unpack(Report, message)
        (header,) = transcript.read_survivors(
            [report.header], context=self._context, roster=self._roster, run=self._run
        )
        fits = header.vector == root_of(report.words) and header.bundles == digest("bundles", *report.bundles)
        if not fits or len(report.bundles) != len(self._holding) - (header.site in self._holding):
            raise WireError("message report: found words or bundles that its header does not name; it was dropped")
        masked_W = words_in(report.words, words=self._total_W.size)
        if header.site not in self._reports:
            add_into(self._total_W, masked_W)
        _add_once(self._reports, header.site, report.header)
        self._bundles[header.site] = report.bundles
        return header.site

    def close_reports(self) -> Mapping[int, bytes]:
        """End REPORT and give each survivor its request for CONFIRM.

        Raises:
            Refused: too few reports, or too few of sites that hold shares. More may still come.
        """
        survivors = tuple(sorted(self._reports))
        transcript.require_survivors(
            len(survivors), roster=len(self._roster), floors=self._floors, minimum_sum=self._header.minimum_sum
        )
        transcript.require_holders(survivors, roster=self._roster, run=self._run)
        self._survivors = survivors
        reports = tuple(self._reports[site] for site in survivors)
        self._survivors_hash = transcript.survivors_hash(self._context, reports)
        signed = sign(Survivors(context=self._context, reports=reports), self._signer)
        return {
            site: pack(
                ConfirmRequest(
                    survivors=signed,
                    bundles=tuple(self._bundle(owner, site) for owner in survivors if owner != site)
                    if site in self._holding
                    else (),
                )
            )
            for site in survivors
        }

    def add_confirm(self, message: bytes) -> int:
        """Take a CONFIRM.

        Raises:
            WireError: not of this survivor set, not signed by a survivor, another one than before; dropped.
        """
        self._require(bool(self._survivors), "confirm")
        signed = unpack(Signed, message)
        (confirm,) = transcript.read_from_sites(Confirm, [signed], self._run)
        right = confirm.context == self._context and confirm.survivors == self._survivors_hash
        if not right or confirm.site not in self._survivors:
            raise WireError("message confirm: found one of another survivor set; it was dropped")
        _add_once(self._confirms, confirm.site, signed)
        return confirm.site

    def close_confirms(self) -> bytes:
        """Give the request for UNMASK, for all `holders`.

        Raises:
            Refused: too few confirmations. More may still come.
        """
        confirms = self._ordered_confirms()
        transcript.require_quorum(
            confirms,
            context=self._context,
            survivors=self._survivors_hash,
            survivor_sites=self._survivors,
            roster=len(self._roster),
            floors=self._floors,
            run=self._run,
        )
        return pack(sign(Quorum(context=self._context, confirms=confirms), self._signer))

    def add_unmask(self, message: bytes) -> int:
        """Take an UNMASK.

        Raises:
            WireError: not of this context, not signed by a survivor that holds shares, or other shares than asked
                for; dropped.
        """
        self._require(bool(self._confirms), "unmask")
        signed = unpack(Signed, message)
        (unmask,) = read_unmasks(
            [signed], context=self._context, roster=self._roster, survivors=self._survivors, run=self._run
        )
        _add_once(self._unmasks, unmask.site, unmask)
        return unmask.site

    def open_sum(self) -> tuple[bytes, OpenedSum]:
        """Take the masks off and give RESULT, for all members, and what it says. Once: the masked total is used up.

        Raises:
            BadShares: too few shares of a seed yet, or too many that contradict each other; nothing was opened. It
                names the seed's owner. More may still come.
            SeedsDoNotFit: what comes out is no sum of tagged vectors; nothing was opened.
        """
        seeds = fitting_seeds(
            list(self._unmasks.values()),
            roster=self._roster,
            survivors=self._survivors,
            threshold=self._run.holders(self._roster).threshold,
            fits=lambda seeds: opens_to_tags(self._total_W, seeds, context=self._context),
        )
        self._disputed = seeds.disputed
        opened_W, self._total_W = self._total_W, np.zeros(0, np.uint64)
        take_masks_off(opened_W, seeds, context=self._context, threads=self._threads)
        data = words_to_bytes(opened_W)
        statement = Statement(context=self._context, survivors=self._survivors_hash, sum=root_of(data))
        result = pack(
            Result(
                statement=sign(statement, self._signer),
                header=self._signed_header,
                readys=tuple(self._readys[site] for site in self._roster),
                reports=tuple(self._reports[site] for site in self._survivors),
                confirms=self._ordered_confirms(),
                words=data,
            )
        )
        return result, read_result(result, run=self._run, floors=self._floors)

    def _bundle(self, owner: int, holder: int) -> bytes:
        return self._bundles[owner][[site for site in self._holding if site != owner].index(holder)]

    def _ordered_confirms(self) -> tuple[Signed, ...]:
        return tuple(self._confirms[site] for site in sorted(self._confirms))

    def _require(self, fits: bool, what: str) -> None:  # noqa: FBT001 - a condition, not a switch
        if not fits:
            raise WireError(f"message {what}: found one out of turn; it was dropped")


def _add_once(known: dict[int, T], site: int, message: T) -> None:
    if known.setdefault(site, message) != message:
        raise WireError(f"site {site}: found another message than the one it sent before; it was dropped")
