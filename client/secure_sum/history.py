"""What a site holds a coordinator to across rounds: one history of results, and rosters that single nobody out.

Covers: a result is taken over only from a confirmed round, never an older one than the site has seen, and never
another one for the same round, and no result that follows another one than the site has; a site that found a result
wrong enters no roster that builds on it.
Does not cover: two disjoint groups of sites led along two histories; they find out when they meet, or when one is given
a result of the other.

Specification: PROTOCOL.md sections 6 and 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from partsong.client.secure_sum.site_state import SiteState, Stage
from partsong.common.codec import unpack
from partsong.common.errors import Refused, WireError
from partsong.common.secure_sum.messages import Header, Revocation, Signed, open_signed
from partsong.common.secure_sum.result import OpenedSum, read_result, sum_fits
from partsong.common.secure_sum.transcript import RunFacts
from partsong.common.thresholds import Floors


def check_result(data: bytes, *, state: SiteState, run: RunFacts) -> OpenedSum:
    """Read a result and compare it with what this site confirmed itself.

    Raises:
        WireError: malformed, unsigned or of another run; it was dropped.
        Refused: floors or quorum are missed, or this site confirmed another survivor set in that context.
    """
    result = read_result(data, run=run, floors=run.charter.floors)
    same = result.context == state.context and state.stage >= Stage.CONFIRMED
    if same and result.survivors != state.survivors:
        raise _split("this site confirmed another survivor set")
    return result


def follow(header: Header, data: bytes, *, state: SiteState, run: RunFacts) -> tuple[SiteState, OpenedSum | None]:
    """Follow the history that a new header claims.

    Args:
        header: of the new round, signed by the coordinator.
        data: the packed result that came with it, or empty.
        state: of this site.
        run: of this site.
    Returns:
        the state with the result and this site's finding on its tag, and the result where it came along.
    Raises:
        WireError: the result is malformed, unsigned, or not the one that the header names.
        Refused: an older history, another history, or a result that this site would need and did not get.
    """
    if header.previous_round < state.result_round:
        raise Refused("old_result", reason="a later result was checked", remedy="open from the last result")
    result = check_result(data, state=state, run=run) if data else None
    if result is not None and (result.header.round, result.hash) != (header.previous_round, header.previous):
        raise WireError("message open: found another result than its header names; it was dropped")
    if header.previous_round == state.result_round:
        if header.previous != state.result:
            raise _split("another result of that round was checked")
        return state, result
    if result is None:
        raise Refused("missing_result", reason="this site lacks the previous result", remedy="send it with OPEN")
    return _taken(result, state), result


def take_last(data: bytes, *, state: SiteState, run: RunFacts) -> tuple[SiteState, OpenedSum]:
    """Take the result with which a run ends.

    Raises:
        WireError: malformed, unsigned or of another run; it was dropped.
        Refused: older than a result that was checked, another one for its round, one that follows another one, or
            without floors or quorum.
    """
    result = check_result(data, state=state, run=run)
    if result.header.round < state.result_round:
        raise Refused("old_result", reason="a later result was checked", remedy="send the last one")
    if result.header.round > state.result_round:
        return _taken(result, state), result
    if result.hash != state.result:
        raise _split("another result of that round was checked")
    return state, result


def _taken(result: OpenedSum, state: SiteState) -> SiteState:
    if result.header.previous_round == state.result_round and result.header.previous != state.result:
        raise _split("it follows another result than the one that was checked here")
    # What builds on a result that was found wrong is wrong as well.
    right = int(bool(state.verdict) and sum_fits(result, group_key=state.group_key))
    return replace(state, result_round=result.header.round, result=result.hash, verdict=right)


def require_own_verdict(state: SiteState) -> None:
    """Refuse to build on a result that this site found wrong."""
    if not state.verdict:
        raise Refused("own_verdict", reason="this site found the previous result wrong", remedy="ask the other sites")


def require_membership(roster: Sequence[int], *, state: SiteState, header: Header, floors: Floors) -> None:
    """Refuse a revoked site, and without noise a roster from which the last one could be subtracted."""
    require_unrevoked(roster, state=state)
    changed = len(set(roster) ^ set(state.last_roster)) if state.last_roster else 0
    if not header.noised and 1 <= changed < floors.minimum_honest:
        raise Refused(
            "membership_step",
            reason=f"without noise the roster may not change by {changed} sites",
            remedy=f"change it by none or by at least {floors.minimum_honest}",
        )


def require_unrevoked(sites: Sequence[int], *, state: SiteState) -> None:
    """Refuse a roster or a survivor set with a revoked site."""
    if set(sites) & set(state.revoked):
        raise Refused("revoked_site", reason="a revoked site is among the sites", remedy="leave it out")


def revoke(message: bytes, *, state: SiteState, run: RunFacts) -> SiteState:
    """Add a site to the revoked ones, on the word of the coordinator or of that site itself.

    Raises:
        WireError: signed by neither, of another run, or naming no member; nothing changed.
    """
    signed = unpack(Signed, message)
    site = unpack(Revocation, signed.body).site
    if site not in run.members:
        raise WireError("message revocation: found no member's; it was dropped")
    try:
        revocation = open_signed(Revocation, signed, key=run.charter.coordinator_key)
    except WireError:
        revocation = open_signed(Revocation, signed, key=run.charter.site_key(site))
    if revocation.setup != run.setup:
        raise WireError("message revocation: found another run's; it was dropped")
    return replace(state, revoked=tuple(sorted({*state.revoked, site})))


def _split(reason: str) -> Refused:
    return Refused("split_history", reason=reason, remedy="compare the results with the other sites")
