"""The charter: who belongs to the consortium, and on which floors they agreed.

Covers: a charter holds only if every listed site and the coordinator signed these exact bytes; a later version
names the earlier one by hash, so no version can be slipped in or rolled back unseen.
Does not cover: whether a key belongs to the hospital it claims. People check that, by comparing `fingerprint`s over
another channel before they co-sign.

Specification: PROTOCOL.md section 3.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from partsong.common.build import build, canonical_json
from partsong.common.derive import digest
from partsong.common.errors import ConfigError, InputError, Refused
from partsong.common.identity.keys import Signer, signature_fits
from partsong.common.identity.suite import PUBLIC_KEY_BYTES, SuiteName, suite_of_key
from partsong.common.thresholds import Floors

MOST_SITES = 1000
HEAVIEST = 100
"""Largest weight of a site, where the lightest has 1."""
_SITE_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_HASH = re.compile(r"[0-9a-f]{64}")


class CharterError(InputError):
    """A charter that not everyone agreed to, or that does not follow from the one before; it was not accepted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One site of the consortium."""

    id: str
    """Lower-case letters, digits and inner hyphens, at most 63."""
    key: str
    """Identity key in lower-case hex: 32 bytes of Ed25519 in suite A, a point of P-384 in 97 bytes in suite F."""

    def __post_init__(self) -> None:
        if not _SITE_ID.fullmatch(self.id):
            raise ValueError("id of 1 to 63 lower-case letters, digits and inner hyphens")


@dataclass(frozen=True, kw_only=True, slots=True)
class Charter:
    """What everyone signs. A site's number in the protocol is its place in `sites`, counted from 0."""

    consortium: str
    version: int
    """1 for the first, then one more each time."""
    previous: str | None
    """Hash of the version before; None for the first."""
    suite: SuiteName
    """What all keys of this charter are for; see `suite`. It is the same in every version."""
    coordinator: str
    """Signing key of the coordinator, in lower-case hex."""
    sites: tuple[Member, ...]
    """Sorted by id."""
    minimum_cohort: int
    """Fewest sites in a roster and in a sum."""
    minimum_honest: int = 3
    """Fewest sites of a sum left after taking off `corrupt_tolerance`."""
    corrupt_tolerance: int
    """Sites that may work with the coordinator without anything being learned; see `default_tolerance`."""
    two_sites: bool = False
    """Allows a consortium of two, where each site learns the other's update from the sum."""
    revoked: tuple[str, ...] = ()
    """Identity keys that may never be listed again, sorted."""
    weights: tuple[int, ...] = ()
    """Weight of each site's update in the mean, in the order of `sites`; empty: all alike. Agreed and public, never
    counted from records. The more a site outweighs the others, the more of a sum is its own update."""

    def __post_init__(self) -> None:
        self._check_keys()
        self._check_members()
        self._check_floors()
        if self.weights and len(self.weights) != len(self.sites):
            raise ValueError("weights for every site, or for none")
        if not all(1 <= weight <= HEAVIEST for weight in self.weights):
            raise ValueError(f"weights between 1 and {HEAVIEST}")
        if self.version < 1 or (self.version == 1) != (self.previous is None):
            raise ValueError("version 1 without a previous hash, or a later version with one")
        if self.previous is not None and not _HASH.fullmatch(self.previous):
            raise ValueError("previous as 64 lower-case hex digits")

    def _check_keys(self) -> None:
        digits = 2 * PUBLIC_KEY_BYTES.of(self.suite)
        form = re.compile(rf"[0-9a-f]{{{digits}}}")
        named = {f"key of site {site.id}": site.key for site in self.sites}
        for name, key in (named | {"key of the coordinator": self.coordinator}).items():
            if not form.fullmatch(key):
                raise ValueError(f"{name} as {digits} lower-case hex digits, in suite {self.suite}")
        if list(self.revoked) != sorted(set(self.revoked)) or not all(map(form.fullmatch, self.revoked)):
            raise ValueError("revoked keys of this suite as sorted lower-case hex, without repeats")

    def _check_members(self) -> None:
        ids, keys = [site.id for site in self.sites], [site.key for site in self.sites]
        if not (2 if self.two_sites else 3) <= len(ids) <= MOST_SITES:
            raise ValueError(f"3 to {MOST_SITES} sites (two only with two_sites), not {len(ids)}")
        if ids != sorted(set(ids)):
            raise ValueError("sites sorted by id, without repeats")
        if len({self.coordinator, *keys}) != len(keys) + 1:
            raise ValueError("a key of its own for the coordinator and each site")
        if {self.coordinator, *keys} & set(self.revoked):
            raise ValueError("no key that is revoked")

    def _check_floors(self) -> None:
        sites = len(self.sites)
        if self.minimum_honest < 2:
            raise ValueError(f"minimum_honest of at least 2, not {self.minimum_honest}")
        if self.corrupt_tolerance < 0 or self.corrupt_tolerance + self.minimum_honest > sites:
            raise ValueError(f"corrupt_tolerance between 0 and {sites - self.minimum_honest} for {sites} sites")
        if not min(3, sites) <= self.minimum_cohort <= sites:
            raise ValueError(f"minimum_cohort between {min(3, sites)} and {sites}, not {self.minimum_cohort}")

    @property
    def hash(self) -> bytes:
        """32 bytes that every site pins."""
        return digest("charter", canonical_json(self))

    @property
    def floors(self) -> Floors:
        """The numbers that every site keeps, unless its own policy is stricter."""
        return Floors(
            minimum_cohort=self.minimum_cohort,
            minimum_honest=self.minimum_honest,
            corrupt_tolerance=self.corrupt_tolerance,
        )

    @property
    def coordinator_key(self) -> bytes:
        """The coordinator's public key."""
        return bytes.fromhex(self.coordinator)

    def site_key(self, number: int) -> bytes:
        """The public key of site `number`."""
        return bytes.fromhex(self.sites[number].key)

    def share(self, number: int) -> float:
        """Give site `number`'s weight over the largest: what its update is multiplied by before it is sealed."""
        return self.weights[number] / max(self.weights) if self.weights else 1.0

    def number_of(self, site_id: str) -> int:
        """Give the number of the site called `site_id`.

        Raises:
            CharterError: it is not listed.
        """
        for number, site in enumerate(self.sites):
            if site.id == site_id:
                return number
        raise CharterError("charter", found=f"no site {site_id}", expected="a listed site")


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedCharter:
    """A charter with everyone's signature; `read` is the only way in from outside."""

    charter: Charter
    coordinator_signature: str
    site_signatures: Mapping[str, str]
    """Signature in hex by site id."""

    def to_bytes(self) -> bytes:
        """Encode for a file; equal values give equal bytes."""
        return canonical_json(self)


def sign_as_coordinator(charter: Charter, signer: Signer) -> str:
    """Sign a draft as the coordinator, giving lower-case hex."""
    return signer.sign(digest("charter of coordinator", charter.hash)).hex()


def sign_as_site(charter: Charter, *, site_id: str, signer: Signer) -> str:
    """Co-sign as a listed site, after its operator has compared every fingerprint. Gives lower-case hex.

    Raises:
        CharterError: the signer's key is of another suite or not the one listed for this site; nothing was signed.
    """
    suite = suite_of_key(signer.public_key)
    if suite != charter.suite:
        raise CharterError(
            f"site {site_id}", found=f"a charter of suite {charter.suite}", expected=f"one of suite {suite}, as its key"
        )
    if charter.site_key(charter.number_of(site_id)) != signer.public_key:
        raise CharterError(f"site {site_id}", found="another key in the charter", expected="this site's own key")
    return signer.sign(_site_message(charter, site_id)).hex()


def check_signatures(signed: SignedCharter) -> None:
    """Accept a charter that the coordinator and every listed site signed, and no other.

    Raises:
        CharterError: a signature is missing, wrong or too many; the charter does not hold.
    """
    charter = signed.charter
    own = digest("charter of coordinator", charter.hash)
    if not signature_fits(charter.coordinator_key, _unhex(signed.coordinator_signature), own):
        raise CharterError("charter", found="no valid signature of the coordinator", expected="one over this version")
    listed = {site.id for site in charter.sites}
    if set(signed.site_signatures) != listed:
        missing = sorted(listed - set(signed.site_signatures)) or "signatures of sites that are not listed"
        raise CharterError("charter", found=f"signatures missing or too many: {missing}", expected="one of each site")
    for number, site in enumerate(charter.sites):
        signature = _unhex(signed.site_signatures[site.id])
        if not signature_fits(charter.site_key(number), signature, _site_message(charter, site.id)):
            raise CharterError("charter", found=f"no valid signature of site {site.id}", expected="one of each site")


def read(data: bytes) -> SignedCharter:
    """Read a charter file and check all signatures.

    Raises:
        CharterError: not a charter in its one canonical form, or not signed by everyone; it was not accepted.
    """
    try:
        signed = build(SignedCharter, json.loads(data), where="charter")
    except (ConfigError, ValueError, RecursionError) as err:
        raise CharterError("charter", found="another format", expected="a signed charter") from err
    if signed.to_bytes() != data:
        raise CharterError("charter", found="a form that is not canonical", expected="the bytes that were signed")
    check_signatures(signed)
    return signed


def check_successor(new: Charter, *, pinned: Charter) -> None:
    """Accept `new` as the version after the pinned one.

    Who has to sign it follows from its list: every site that stays, and every site that joins. A site that is left
    out has no say, because otherwise a stolen key could not be shut out.

    Raises:
        CharterError: it is of another consortium or suite, skips or repeats a version, does not name the pinned one,
            forgets a revocation, or gives a site or the coordinator another key without revoking the one before;
            the pinned one stays.
    """
    expected = f"version {pinned.version + 1} after the pinned one"
    if new.consortium != pinned.consortium:
        raise CharterError("charter", found="another consortium", expected=expected)
    if new.suite != pinned.suite:
        raise CharterError("charter", found=f"suite {new.suite}", expected=f"suite {pinned.suite} in every version")
    if new.version != pinned.version + 1 or new.previous != pinned.hash.hex():
        raise CharterError("charter", found=f"version {new.version} after another one", expected=expected)
    if not set(pinned.revoked) <= set(new.revoked):
        raise CharterError("charter", found="a revocation taken back", expected="all earlier revocations")
    now = {site.id: site.key for site in new.sites}
    replaced = {site.key for site in pinned.sites if now.get(site.id, site.key) != site.key}
    if new.coordinator != pinned.coordinator:
        replaced.add(pinned.coordinator)
    if not replaced <= set(new.revoked):
        raise CharterError("charter", found="a key that was replaced", expected="the one before it among the revoked")


def read_successor(data: bytes, *, pinned: Charter) -> SignedCharter:
    """Read the file of the version after the pinned one; its hash is then the one to pin.

    Raises:
        CharterError: as `read` and `check_successor`; the pinned one stays.
    """
    signed = read(data)
    check_successor(signed.charter, pinned=pinned)
    return signed


def effective_floors(charter: Charter, *, policy: Floors) -> Floors:
    """Combine the charter's floors with those of a site's own policy, the stricter of each.

    Raises:
        Refused: the policy tolerates more corrupt sites than the charter. Shares are made with the charter's
            number, so the site could not keep its own alone.
    """
    if policy.corrupt_tolerance > charter.corrupt_tolerance:
        raise Refused(
            "corrupt_tolerance",
            reason=f"the charter tolerates {charter.corrupt_tolerance} corrupt sites, the policy "
            f"{policy.corrupt_tolerance}",
            remedy="agree on a charter version with the higher number",
        )
    return charter.floors.stricter(policy)


def _site_message(charter: Charter, site_id: str) -> bytes:
    return digest("charter of site", charter.hash, site_id.encode())


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
