"""The rules of a round, as functions of its public messages.

Both sides and the offline check read the same messages through these functions. Each rule that stands between a
lying coordinator and one site's update is a function of its own.

Specification: PROTOCOL.md sections 6 to 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from partsong.common.codec import unpack
from partsong.common.derive import digest
from partsong.common.errors import Refused, WireError
from partsong.common.identity.charter import Charter
from partsong.common.secure_sum.committee import Holders, holders_of
from partsong.common.secure_sum.messages import (
    Confirm,
    Header,
    Message,
    Ready,
    ReportHeader,
    Signed,
    open_signed,
    require_signature,
)
from partsong.common.thresholds import Floors, quorum, smallest_sum


class _FromSite(Message, Protocol):
    @property
    def site(self) -> int: ...


T = TypeVar("T", bound=_FromSite)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """What set-up fixed and everyone may know."""

    charter: Charter
    setup: bytes
    """32 bytes: hash of charter, run, keys, group key and beacon."""
    members: tuple[int, ...]
    """Numbers of the sites that took part in set-up, ascending."""

    def holders(self, roster: Sequence[int]) -> Holders:
        """Give the sites of `roster` that hold shares of the others' seeds."""
        corrupt = self.charter.corrupt_tolerance
        return holders_of(setup=self.setup, members=self.members, corrupt=corrupt, roster=roster)


def header_hash(header: Signed) -> bytes:
    """Name a round's header."""
    return digest("header", header.body)


def context_of(header: Signed, readys: Sequence[Signed]) -> bytes:
    """Name one round with one roster: everything that the sites have to agree on before masking.

    The header holds set-up, model, query and the previous result. Signatures are left out, because a signer can
    make several for one message.
    """
    return digest("context", header.body, *(ready.body for ready in readys))


def survivors_hash(context: bytes, reports: Sequence[Signed]) -> bytes:
    """Name one survivor set with everything its members sent."""
    return digest("survivor set", context, *(report.body for report in reports))


def read_header(header: Signed, run: RunFacts) -> Header:
    """Read a header that the coordinator signed for this run."""
    read = open_signed(Header, header, key=run.charter.coordinator_key)
    if read.setup != run.setup:
        raise WireError("message header: found another run's; it was dropped", rule="sum.run")
    return read


def read_from_sites(cls: type[T], signed: Sequence[Signed], run: RunFacts) -> tuple[T, ...]:
    """Read messages of different members, each signed by its own, in ascending order.

    Raises:
        WireError: a sender is no member, stands twice or out of order, or did not sign; all were dropped.
    """
    messages = tuple(_read_from_member(cls, one, run) for one in signed)
    numbers = [message.site for message in messages]
    if numbers != sorted(set(numbers)):
        raise WireError(f"messages {cls.LABEL}: found senders twice or out of order; they were dropped")
    return messages


def _read_from_member(cls: type[T], signed: Signed, run: RunFacts) -> T:
    # The number is read first only to find the key; nothing else of the message is used before the signature.
    message = unpack(cls, signed.body)
    if message.site not in run.members:
        raise WireError(f"message {cls.LABEL}: found a sender that is no member of the run; it was dropped")
    require_signature(cls, signed, key=run.charter.site_key(message.site))
    return message


def read_roster(header: Signed, readys: Sequence[Signed], run: RunFacts) -> tuple[Ready, ...]:
    """Read the READYs of a roster: all about this header."""
    read, expected = read_from_sites(Ready, readys, run), header_hash(header)
    if any(ready.header != expected or ready.verdict not in (0, 1) for ready in read):
        raise WireError("message ready: found one of another round; it was dropped")
    return read


def require_cohort(roster: Sequence[Ready], *, floors: Floors) -> None:
    """Refuse a roster so small that its sum could not be opened at these floors."""
    smallest = max(floors.minimum_cohort, smallest_sum(roster=len(roster), floors=floors))
    if len(roster) < smallest:
        raise Refused(
            "cohort_floor",
            reason=f"a roster of {len(roster)} sites, {smallest} needed",
            remedy="open a new round with more sites",
        )


def require_holders(sites: Sequence[int], *, roster: Sequence[int], run: RunFacts) -> None:
    """Refuse to go on with so few share holders that the sum could not be opened.

    Args:
        sites: that are still there, of `roster`.
        roster: of the round; the same as `sites` when the round begins.
        run: of the round.
    """
    holders = run.holders(roster)
    left, needed = len(set(holders.sites) & set(sites)), holders.threshold + 1
    # A holder has no share of its own seeds, so it takes one more. Two sites have each other.
    if left < needed:
        raise Refused(
            "share_holders",
            reason=f"{left} sites that hold shares, {needed} needed",
            remedy="open a new round with more of the sites that the run drew",
        )


def require_accepted_result(roster: Sequence[Ready], *, floors: Floors) -> None:
    """Refuse to go on from a result that too few sites found right."""
    needed = quorum(roster=len(roster), corrupt=floors.corrupt_tolerance)
    right = sum(ready.verdict for ready in roster)
    if right < needed:
        raise Refused(
            "result_rejected",
            reason=f"{right} of {len(roster)} sites found the previous result right, {needed} needed",
            remedy="find out who changed the sum before going on",
        )


def read_survivors(
    reports: Sequence[Signed], *, context: bytes, roster: Sequence[int], run: RunFacts
) -> tuple[ReportHeader, ...]:
    """Read the reports of a survivor set: all of this context, all of its roster."""
    read = read_from_sites(ReportHeader, reports, run)
    if any(report.context != context or report.site not in roster for report in read):
        raise WireError("message report header: found one of another context or roster; it was dropped")
    return read


def require_survivors(survivors: int, *, roster: int, floors: Floors, minimum_sum: int) -> None:
    """Refuse to open a sum of too few vectors."""
    smallest = max(smallest_sum(roster=roster, floors=floors), minimum_sum)
    if survivors < smallest:
        raise Refused(
            "survivor_floor",
            reason=f"a sum over {survivors} of {roster} sites, {smallest} needed",
            remedy="open a new round; the updates of this one are gone",
        )


def require_quorum(
    confirms: Sequence[Signed],
    *,
    context: bytes,
    survivors: bytes,
    survivor_sites: Sequence[int],
    roster: int,
    floors: Floors,
    run: RunFacts,
) -> tuple[Confirm, ...]:
    """Refuse to open shares unless enough survivors confirmed this one survivor set.

    Guarantees:
        - with at most `corrupt_tolerance` corrupt sites no other survivor set of this context has a quorum too.
    """
    read = read_from_sites(Confirm, confirms, run)
    right = (confirm.context == context and confirm.survivors == survivors for confirm in read)
    if not all(right) or any(confirm.site not in survivor_sites for confirm in read):
        raise WireError("message confirm: found one of another survivor set; all were dropped")
    needed = quorum(roster=roster, corrupt=floors.corrupt_tolerance)
    if len(read) < needed:
        raise Refused(
            "confirm_quorum",
            reason=f"{len(read)} confirmations of one survivor set, {needed} needed",
            remedy="collect more confirmations; no share was opened",
        )
    return read
