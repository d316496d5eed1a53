"""The survivors that the coordinator names to a site, and what the site gives for them.

Covers: for one survivor set, shares of the survivors' own seeds and of their pair seeds with dropped sites; never
both kinds for one site. Which sites dropped is not in any message: it is the roster without the survivors.
Does not cover: that only one set is served. `secure_sum` signs one, and gives shares after a quorum signed it.

Specification: PROTOCOL.md section 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from partsong.client.secure_sum import masking
from partsong.client.secure_sum.site_state import SiteState
from partsong.common.codec import unpack
from partsong.common.errors import WireError
from partsong.common.secure_sum import transcript
from partsong.common.secure_sum.messages import ConfirmRequest, Header, Survivors, open_signed
from partsong.common.secure_sum.transcript import RunFacts
from partsong.common.thresholds import Floors


@dataclass(frozen=True, kw_only=True, slots=True)
class SurvivorSet:
    """A request that was checked, its bundles not yet opened."""

    hash: bytes
    sites: tuple[int, ...]
    reports: tuple[bytes, ...]
    """Bodies of the report headers, in the order of `sites`."""
    bundles: Mapping[int, bytes]
    """Sealed for this site, under the number of each other survivor; none where this site holds no shares."""


def read_request(
    message: bytes, *, state: SiteState, roster: Sequence[int], header: Header, run: RunFacts, floors: Floors
) -> SurvivorSet:
    """Read a request for CONFIRM.

    Raises:
        WireError: not signed by the coordinator, of another context, with a report that is not of the roster or not
            signed by its site, or with another number of bundles; it was dropped.
        Refused: too few survivors.
    """
    request = unpack(ConfirmRequest, message)
    survivors = open_signed(Survivors, request.survivors, key=run.charter.coordinator_key)
    if survivors.context != state.context:
        raise WireError("message survivors: found another context's; it was dropped")
    read = transcript.read_survivors(survivors.reports, context=state.context, roster=roster, run=run)
    transcript.require_survivors(len(read), roster=len(roster), floors=floors, minimum_sum=header.minimum_sum)
    sites = tuple(report.site for report in read)
    others = [site for site in sites if site != state.site] if state.site in run.holders(roster).sites else []
    if len(others) != len(request.bundles):
        raise WireError("message confirm request: found another number of bundles; it was dropped")
    return SurvivorSet(
        hash=transcript.survivors_hash(state.context, survivors.reports),
        sites=sites,
        reports=tuple(report.body for report in survivors.reports),
        bundles=dict(zip(others, request.bundles, strict=True)),
    )


def open_bundles(survivors: SurvivorSet, *, state: SiteState, roster: Sequence[int]) -> dict[int, bytes]:
    """Open the bundles of all other survivors.

    Raises:
        Refused: one does not open; it names the site.
    """
    keys = state.keys_by_peer()
    return {
        owner: masking.open_bundle(
            bundle,
            context=state.context,
            owner=owner,
            holder=state.site,
            pair_key=keys[owner],
            roster=len(roster),
        )
        for owner, bundle in survivors.bundles.items()
    }


def shares_to_give(survivors: SurvivorSet, *, state: SiteState, roster: Sequence[int]) -> tuple[bytes, ...]:
    """Collect what this site gives after the quorum, for each other survivor by ascending number."""
    shares = open_bundles(survivors, state=state, roster=roster)
    dropped = [site for site in roster if site not in survivors.sites]
    return tuple(
        masking.pick_shares(shares[owner], owner=owner, roster=roster, dropped=dropped) for owner in sorted(shares)
    )
