"""The coordinator's half of the charter: draft the next version, gather the sites' signatures, publish it.

Covers: a version is published only when every listed site has signed these exact bytes; adding or taking away a site
touches no other site's keys.
Does not cover: what the sites agree to; each of them looks for itself.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from partsong.common.build import build
from partsong.common.derive import digest
from partsong.common.errors import ConfigError, InputError
from partsong.common.identity import charter as charters
from partsong.common.identity import letters
from partsong.common.identity.charter import Charter, CharterError, Member, SignedCharter
from partsong.common.identity.keys import Signer, signature_fits
from partsong.common.identity.letters import Cosignature, Draft, LetterError
from partsong.common.identity.suite import suite_of_key
from partsong.common.private_files import write_private
from partsong.common.thresholds import Floors, default_tolerance, smallest_sum
from partsong.server.membership.home import CoordinatorHome
from partsong.server.membership.onboarding import require_site_id
from partsong.server.membership.opened import all_enrolled, enrolled, newest_charter, read_config


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Floors that were asked for; None keeps those of the version before, or takes the usual ones."""

    minimum_cohort: int | None = None
    minimum_honest: int | None = None
    corrupt_tolerance: int | None = None
    two_sites: bool = False


def draft(
    home: CoordinatorHome,
    signer: Signer,
    *,
    wanted: Wanted,
    revoke: Collection[str] = (),
    before: Charter | None = None,
) -> bytes:
    """Draft the next version from the sites that are enrolled. An open draft and its signatures are given up.

    Args:
        home: of the coordinator.
        signer: its key.
        wanted: floors.
        revoke: identity keys in hex that may never be listed again, besides those of sites that got a new key.
        before: the version that this follows, for a coordinator that took over; None: the newest published here.
    Returns:
        the draft, for every site that it lists.
    Raises:
        CharterError: no valid charter comes of it, or no sum could be opened under its floors; nothing was changed.
    """
    if before is None:
        newest = newest_charter(home)
        before = None if newest is None else newest.charter
    charter = _next(home, signer, before=before, wanted=wanted, revoke=revoke)
    if before is not None:
        charters.check_successor(charter, pinned=before)
    signature = charters.sign_as_coordinator(charter, signer)
    signed = SignedCharter(charter=charter, coordinator_signature=signature, site_signatures={})
    write_private(home.draft, signed.to_bytes())
    return letters.to_bytes(Draft(charter=charter, signature=signature))


def collect(home: CoordinatorHome, cosignature: Cosignature, *, place: str) -> SignedCharter:
    """Enter one site's signature on the open draft; once more changes nothing.

    Returns:
        the draft with all signatures so far.
    Raises:
        LetterError: of another consortium or for another draft.
        CharterError: of a site that is not listed, or not valid. Nothing was entered.
    """
    signed = open_draft(home)
    charter = signed.charter
    if (cosignature.consortium, cosignature.charter) != (charter.consortium, charter.hash.hex()):
        raise LetterError(
            place,
            found="a signature of another draft",
            expected=f"one of version {charter.version}, {charter.hash.hex()[:12]}",
            remedy="send the newest draft to the site again",
        )
    key = charter.site_key(charter.number_of(cosignature.site))
    message = digest("charter of site", charter.hash, cosignature.site.encode())
    if not signature_fits(key, _unhex(cosignature.signature), message):
        raise CharterError(place, found=f"no valid signature of site {cosignature.site}", expected="one of its key")
    signatures = {**signed.site_signatures, cosignature.site: cosignature.signature}
    signed = replace(signed, site_signatures=signatures)
    write_private(home.draft, signed.to_bytes())
    return signed


def missing(signed: SignedCharter) -> tuple[str, ...]:
    """Name the sites that have not signed."""
    return tuple(site.id for site in signed.charter.sites if site.id not in signed.site_signatures)


def publish(home: CoordinatorHome) -> bytes:
    """Put the draft in force at the coordinator, once everyone has signed it.

    Guarantees: killed in between, the same call finishes.
    Returns:
        the charter, for every site.
    Raises:
        CharterError: a signature is missing, or the draft does not follow from the newest version; nothing changed.
    """
    signed = open_draft(home)
    charters.check_signatures(signed)
    newest = newest_charter(home)
    if newest is not None and newest != signed and newest.charter.version >= signed.charter.version:
        raise CharterError("draft", found="a version that was overtaken", expected="one after the newest")
    data = signed.to_bytes()
    write_private(home.charters / f"{signed.charter.version}.json", data)
    home.draft.unlink(missing_ok=True)
    return data


def remove(home: CoordinatorHome, site: str) -> str:
    """Take a site off the list of those who may connect, at once; the next draft leaves it out.

    Returns:
        its identity key in hex, to be revoked if it may be in other hands.
    Raises:
        InputError: it is not enrolled.
    """
    require_site_id(site)
    known = enrolled(home, site)
    if known is None:
        raise InputError("site", found=site, expected="a site that is enrolled")
    (home.enrolled / f"{site}.json").unlink()
    return known.key


def open_draft(home: CoordinatorHome) -> SignedCharter:
    """Read the draft with the signatures so far.

    Raises:
        InputError: none is open, or the file is damaged.
    """
    try:
        tree: Any = json.loads(home.draft.read_bytes())
        return build(SignedCharter, tree, where="draft.json")
    except FileNotFoundError as err:
        raise InputError(
            str(home.draft), found="no draft", expected="one", remedy="`partsong coordinator charter draft`"
        ) from err
    except (ValueError, ConfigError) as err:
        raise CharterError(str(home.draft), found="another format", expected="a draft") from err


def _next(
    home: CoordinatorHome, signer: Signer, *, before: Charter | None, wanted: Wanted, revoke: Collection[str]
) -> Charter:
    entries = all_enrolled(home)
    sites = tuple(Member(id=entry.site, key=entry.key) for entry in entries)
    keys = {entry.site: entry.key for entry in entries}
    floors = _floors(len(sites), before=before, wanted=wanted)
    revoked = set(revoke) | (set() if before is None else set(before.revoked))
    if before is not None:
        revoked |= {site.key for site in before.sites if keys.get(site.id, site.key) != site.key}
        revoked |= {before.coordinator} - {signer.public_key.hex()}
    two_sites = len(sites) == 2 and (wanted.two_sites or (before is not None and before.two_sites))
    try:
        charter = Charter(
            consortium=read_config(home).consortium,
            version=1 if before is None else before.version + 1,
            previous=None if before is None else before.hash.hex(),
            suite=suite_of_key(signer.public_key) or "A",
            coordinator=signer.public_key.hex(),
            sites=sites,
            minimum_cohort=floors.minimum_cohort,
            minimum_honest=floors.minimum_honest,
            corrupt_tolerance=floors.corrupt_tolerance,
            two_sites=two_sites,
            revoked=tuple(sorted(revoked)),
        )
    except ValueError as err:
        raise CharterError("draft", found="sites and floors that make no charter", expected=str(err)) from err
    if smallest_sum(roster=len(sites), floors=floors) > len(sites):
        raise CharterError(
            "draft",
            found=f"floors that need {smallest_sum(roster=len(sites), floors=floors)} sites for a sum",
            expected=f"floors that {len(sites)} sites can keep",
        )
    return charter


def _floors(sites: int, *, before: Charter | None, wanted: Wanted) -> Floors:
    """Take what was asked for, else what was agreed before, else the usual; never more than the sites can keep."""
    tolerance = wanted.corrupt_tolerance
    if tolerance is None:
        usual = default_tolerance(sites) if sites > 2 else 0
        tolerance = usual if before is None else min(before.corrupt_tolerance, usual)
    honest = wanted.minimum_honest
    if honest is None:
        honest = min(3, sites) if before is None else before.minimum_honest
    cohort = wanted.minimum_cohort
    if cohort is None:
        cohort = min(3, sites) if before is None else before.minimum_cohort
    return Floors(minimum_cohort=cohort, minimum_honest=honest, corrupt_tolerance=tolerance)


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
