"""A site's half of the charter: look, compare, co-sign, pin.

Covers: nothing is signed before its operator has seen every name, key and floor, with what differs from the charter in
force, and has said that the keys that are new were compared; nothing is pinned that not everyone signed, that does not
follow from the version before, or that comes from another coordinator than the one that invited.
Does not cover: whether the operator really compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partsong.client.home.layout import SiteHome
from partsong.client.home.opened import newest_charter, read_config, require_listed
from partsong.common.derive import digest
from partsong.common.errors import InputError
from partsong.common.identity import charter as charters
from partsong.common.identity import letters
from partsong.common.identity.charter import Charter, CharterError, SignedCharter
from partsong.common.identity.heard import parse_heard, spoken_for
from partsong.common.identity.keys import Signer, fingerprint, signature_fits
from partsong.common.identity.letters import Cosignature, Draft, Invitation
from partsong.common.private_files import write_private

COORDINATOR = "COORDINATOR"
"""No site has a name in capitals."""
_FLOORS = ("minimum_cohort", "minimum_honest", "corrupt_tolerance")


@dataclass(frozen=True, kw_only=True, slots=True)
class Review:
    """What an operator has to look at before signing."""

    site: str
    """Who looks."""
    charter: Charter
    keys: tuple[tuple[str, str], ...]
    """Fingerprint of the coordinator and of each site, by name."""
    new: frozenset[str]
    """Names whose keys this site has not pinned yet; its own is none of them."""
    differences: tuple[str, ...]
    """From the charter in force, in words; empty for the first."""


def review(home: SiteHome, file: Path) -> Review:
    """Check a draft as far as a machine can, and say what is left to a person.

    Raises:
        LetterError: the file is no draft.
        CharterError: not signed by its coordinator, not this consortium's, not the version after the one in force, or
            it lists this site with another key, or not at all.
    """
    draft = letters.read_letter(Draft, file)
    charter, pinned = draft.charter, newest_charter(home)
    signature = _unhex(draft.signature)
    if not signature_fits(charter.coordinator_key, signature, digest("charter of coordinator", charter.hash)):
        raise CharterError(str(file), found="no valid signature of the coordinator", expected="one over this draft")
    if pinned is None:
        _require_inviter(home, charter)
    else:
        charters.check_successor(charter, pinned=pinned.charter)
    require_listed(home, charter)
    return _review(home, charter, pinned=None if pinned is None else pinned.charter)


def in_force(home: SiteHome) -> Review:
    """Show the charter that is pinned.

    Raises:
        InputError: there is none yet.
    """
    pinned = newest_charter(home)
    if pinned is None:
        raise InputError(
            str(home.charters), found="no charter", expected="one that was joined with `partsong site join`"
        )
    return _review(home, pinned.charter, pinned=pinned.charter)


def require_heard(review: Review, heard: Sequence[str]) -> bool:
    """Compare fingerprints that were heard from their owners.

    Args:
        review: of a draft.
        heard: `WHO=FINGERPRINT` each, or the fingerprint alone.
    Returns:
        whether every new key was among them.
    Raises:
        InputError: one differs from the draft's, or names nobody in it; nothing was signed.
    """
    keys = dict(review.keys)
    given = [parse_heard(text, known=keys) for text in heard]
    for one in given:
        if not spoken_for((one,), keys):
            raise InputError(
                f"fingerprint of {one.who}" if one.who else "--fingerprint",
                found=f"{keys[one.who]} in the draft" if one.who else "one that is of no key in the draft",
                expected="the one that was given",
                remedy="do not sign: somebody may have put a key of his own into the draft; ask the coordinator",
            )
    return bool(heard) and review.new <= spoken_for(given, keys)


def require_word(word: bool) -> None:  # noqa: FBT001  # the answer of a person
    """Refuse to sign without a person's word.

    Raises:
        InputError: it was not given; nothing was signed.
    """
    if not word:
        raise InputError(
            "draft",
            found="no word of a person",
            expected="that every new fingerprint was compared over another channel",
            remedy="compare them, then add --yes-i-compared, or --fingerprint WHO=... for each",
        )


def cosign(home: SiteHome, review: Review, signer: Signer) -> bytes:
    """Sign a draft that was reviewed; the hash of what was signed last is kept.

    Returns:
        the cosignature, for the coordinator.
    Raises:
        CharterError: the key is not the one listed; nothing was signed.
    """
    charter = review.charter
    signature = charters.sign_as_site(charter, site_id=review.site, signer=signer)
    write_private(home.enrolment / "cosigned", f"{charter.version} {charter.hash.hex()}\n".encode())
    return letters.to_bytes(
        Cosignature(consortium=charter.consortium, site=review.site, charter=charter.hash.hex(), signature=signature)
    )


def pin(home: SiteHome, data: bytes) -> SignedCharter:
    """Put a charter in force that everyone signed; the one in force once more changes nothing.

    Guarantees: the file is whole or absent; a version is never lower than the one before, and follows from it.
    Raises:
        CharterError: not signed by everyone, of another consortium or coordinator, not the next version, or without
            this site; the one in force stays.
    """
    pinned = newest_charter(home)
    if pinned is not None and pinned.to_bytes() == data:
        return pinned
    if pinned is None:
        signed = charters.read(data)
        _require_inviter(home, signed.charter)
    else:
        signed = charters.read_successor(data, pinned=pinned.charter)
    require_listed(home, signed.charter)
    write_private(home.charters / f"{signed.charter.version}.json", data)
    return signed


def review_tree(review: Review) -> dict[str, Any]:
    """Give a review as data."""
    charter = review.charter
    return {
        "consortium": charter.consortium,
        "version": charter.version,
        "sha256": charter.hash.hex(),
        "suite": charter.suite,
        "floors": {name: getattr(charter, name) for name in _FLOORS},
        "fingerprints": dict(review.keys),
        "new": sorted(review.new),
        "revoked": len(charter.revoked),
        "differences": list(review.differences),
    }


def review_words(review: Review) -> str:
    """Say what a charter lists; what is new or weaker is marked."""
    charter = review.charter
    width = max(len(who) for who, _ in review.keys)
    lines = [
        f"charter of {charter.consortium}, version {charter.version}, suite {charter.suite}: {charter.hash.hex()}",
        *(f"  {who:<{width}}  {text}  {_mark(review, who)}".rstrip() for who, text in review.keys),
        f"  a sum needs {charter.minimum_cohort} sites at least",
        f"  {charter.minimum_honest} honest ones beside {charter.corrupt_tolerance} that may work with the coordinator",
        *(["  TWO SITES: each learns the other's update from the sum"] if charter.two_sites else []),
        *(f"  revoked: {len(charter.revoked)} keys" for _ in range(bool(charter.revoked))),
        *(f"  * {line}" for line in review.differences),
    ]
    return "\n".join(lines)


def _mark(review: Review, who: str) -> str:
    if who == review.site:
        return "(this site)"
    return "NEW: compare it with them over another channel" if who in review.new else ""


def _review(home: SiteHome, charter: Charter, *, pinned: Charter | None) -> Review:
    site = read_config(home).name
    before = {} if pinned is None else _keys(pinned)
    now = _keys(charter)
    new = frozenset(who for who, text in now.items() if before.get(who) != text and who != site)
    return Review(
        site=site,
        charter=charter,
        keys=tuple(now.items()),
        new=new,
        differences=() if pinned is None else _differences(charter, pinned),
    )


def _keys(charter: Charter) -> dict[str, str]:
    sites = {site.id: fingerprint(bytes.fromhex(site.key)) for site in charter.sites}
    return {COORDINATOR: fingerprint(charter.coordinator_key), **sites}


def _differences(charter: Charter, pinned: Charter) -> tuple[str, ...]:
    before, now = _keys(pinned), _keys(charter)
    lines = [f"{who} joins" for who in now if who not in before]
    lines += [f"{who} is removed" for who in before if who not in now]
    lines += [f"{who} has another key" for who in now if who in before and before[who] != now[who]]
    for name in _FLOORS:
        old, new = getattr(pinned, name), getattr(charter, name)
        if old != new:
            lines.append(f"{name} {old} -> {new}" + (" (LOWER: protects less)" if new < old else ""))
    if charter.two_sites and not pinned.two_sites:
        lines.append("two_sites (LOWER: protects less)")
    more = len(set(charter.revoked) - set(pinned.revoked))
    return (*lines, *([f"{more} more keys revoked"] if more else []))


def _require_inviter(home: SiteHome, charter: Charter) -> None:
    invitation = letters.read_letter(Invitation, home.enrolment / "invitation.json")
    if (charter.consortium, charter.suite) != (invitation.consortium, invitation.suite):
        expected = f"{invitation.consortium}, suite {invitation.suite}, as in the invitation"
        raise CharterError("charter", found="another consortium or suite", expected=expected)
    if charter.coordinator != invitation.coordinator:
        raise CharterError("charter", found="another coordinator's key", expected="that of the invitation")


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
