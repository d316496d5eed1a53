"""From one charter version to the next: who has to sign, and what may not change."""

import json
import os
from dataclasses import replace

import pytest

from partsong.common.identity.charter import (
    Charter,
    CharterError,
    Member,
    SignedCharter,
    check_successor,
    read,
    read_successor,
    sign_as_coordinator,
    sign_as_site,
)
from partsong.common.identity.keys import Identity, P384Identity, make_identity
from partsong.common.identity.suite import SUITES

NAMES = ("bergamo", "lyon", "porto", "turku", "utrecht")
Key = Identity | P384Identity


class Consortium:
    """Keys of one suite, and charters about them."""

    def __init__(self, suite: str) -> None:
        self.suite = suite
        self.coordinator = make_identity(suite, os.urandom)
        self.keys: dict[str, Key] = {name: make_identity(suite, os.urandom) for name in (*NAMES, "zagreb")}
        self.first = self.draft()

    def draft(self, names: tuple[str, ...] = NAMES, **change: object) -> Charter:
        fields = {
            "consortium": "oncology",
            "version": 1,
            "previous": None,
            "suite": self.suite,
            "coordinator": self.coordinator.public_key.hex(),
            "sites": tuple(Member(id=name, key=self.keys[name].public_key.hex()) for name in names),
            "minimum_cohort": 3,
            "corrupt_tolerance": 1,
        }
        return Charter(**(fields | change))

    def second(self, names: tuple[str, ...] = NAMES, **change: object) -> Charter:
        return self.draft(names, **({"version": 2, "previous": self.first.hash.hex()} | change))

    def signed(self, charter: Charter) -> SignedCharter:
        return SignedCharter(
            charter=charter,
            coordinator_signature=sign_as_coordinator(charter, self.coordinator),
            site_signatures={
                member.id: sign_as_site(charter, site_id=member.id, signer=self.keys[member.id])
                for member in charter.sites
            },
        )

    def revoked(self, *names: str) -> tuple[str, ...]:
        return tuple(sorted(self.keys[name].public_key.hex() for name in names))


@pytest.fixture(scope="module", params=SUITES)
def made(request: pytest.FixtureRequest) -> Consortium:
    return Consortium(request.param)


def without(signed: SignedCharter, site: str) -> bytes:
    rest = {name: signature for name, signature in signed.site_signatures.items() if name != site}
    return replace(signed, site_signatures=rest).to_bytes()


def test_a_charter_of_each_suite_is_signed_and_read_back(made: Consortium) -> None:
    """Keys and signatures have their suite's lengths, and the coordinator alone makes no charter."""
    whole = made.signed(made.first)

    assert read(whole.to_bytes()) == whole
    assert len(whole.site_signatures["lyon"]) == {"A": 128, "F": 192}[made.suite]
    with pytest.raises(CharterError, match="missing"):
        read(replace(whole, site_signatures={}).to_bytes())


def test_a_site_joins_when_every_old_one_and_itself_sign(made: Consortium) -> None:
    """One signature short, of a site that stays or of the one that joins, there is no next version."""
    wider = made.signed(made.second((*NAMES, "zagreb")))

    assert read_successor(wider.to_bytes(), pinned=made.first) == wider
    for site in (*NAMES, "zagreb"):
        with pytest.raises(CharterError, match=f"missing.*{site}"):
            read_successor(without(wider, site), pinned=made.first)


def test_a_site_is_removed_when_every_remaining_one_signs(made: Consortium) -> None:
    """Not without one of them, and without the one that goes: it might be the one whose key was stolen."""
    remaining = NAMES[:-1]
    smaller = made.signed(made.second(remaining, revoked=made.revoked("utrecht")))

    assert read_successor(smaller.to_bytes(), pinned=made.first) == smaller
    for site in remaining:
        with pytest.raises(CharterError, match=f"missing.*{site}"):
            read_successor(without(smaller, site), pinned=made.first)
    leaver = sign_as_site(made.first, site_id="utrecht", signer=made.keys["utrecht"])
    with pytest.raises(CharterError, match="not listed"):
        read(replace(smaller, site_signatures={**smaller.site_signatures, "utrecht": leaver}).to_bytes())


def test_the_signatures_of_one_version_are_none_of_the_next(made: Consortium) -> None:
    """What a site signed for version 1 does not carry it into version 2."""
    first, second = made.signed(made.first), made.signed(made.second())

    for old in ({"site_signatures": first.site_signatures}, {"coordinator_signature": first.coordinator_signature}):
        with pytest.raises(CharterError, match="no valid signature"):
            read_successor(replace(second, **old).to_bytes(), pinned=made.first)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"previous": "00" * 32}, "version 2 after another one"),
        ({"version": 3}, "version 3 after another one"),
        ({"version": 1, "previous": None}, "version 1 after another one"),
        ({"consortium": "cardiology"}, "another consortium"),
    ],
)
def test_a_version_follows_the_pinned_one_and_no_other(made: Consortium, change: dict[str, object], says: str) -> None:
    """Nothing is skipped, repeated or rolled back, though everyone signed it."""
    check_successor(made.second(), pinned=made.first)

    with pytest.raises(CharterError, match=says):
        read_successor(made.signed(made.second(**change)).to_bytes(), pinned=made.first)


def test_a_revocation_is_never_taken_back(made: Consortium) -> None:
    """A revoked key stays out of every later version."""
    first = made.draft(revoked=made.revoked("zagreb"))
    later = made.draft(version=2, previous=first.hash.hex())

    with pytest.raises(CharterError, match="taken back"):
        check_successor(later, pinned=first)
    with pytest.raises(ValueError, match="no key that is revoked"):
        made.draft((*NAMES, "zagreb"), version=2, previous=first.hash.hex(), revoked=made.revoked("zagreb"))


def test_a_key_is_replaced_only_by_revoking_it(made: Consortium) -> None:
    """A coordinator that lists its own key under a site's name has to show everyone that the old one goes."""
    stolen = made.revoked("lyon")
    fresh = Consortium(made.suite)
    fresh.keys = made.keys | {"lyon": fresh.keys["lyon"]}
    fresh.first, fresh.coordinator = made.first, made.coordinator

    with pytest.raises(CharterError, match="a key that was replaced"):
        read_successor(fresh.signed(fresh.second()).to_bytes(), pinned=made.first)
    replaced = fresh.signed(fresh.second(revoked=stolen))
    assert read_successor(replaced.to_bytes(), pinned=made.first) == replaced


def test_the_coordinator_s_key_is_replaced_in_the_same_way(made: Consortium) -> None:
    """By all sites, and the old one may never come back."""
    old = made.coordinator.public_key.hex()
    fresh = Consortium(made.suite)
    fresh.keys, fresh.first = made.keys, made.first

    with pytest.raises(CharterError, match="a key that was replaced"):
        check_successor(fresh.second(), pinned=made.first)
    check_successor(fresh.second(revoked=(old,)), pinned=made.first)


def test_the_suite_is_that_of_the_first_version() -> None:
    """Down as little as up: a consortium that changes its suite is founded anew, fingerprints compared."""
    for old, new in (SUITES, SUITES[::-1]):
        one, other = Consortium(old), Consortium(new)
        other.first = one.first
        next_one = other.signed(other.second())

        assert read(next_one.to_bytes()) == next_one
        with pytest.raises(CharterError, match=f"suite {new}, expected suite {old}"):
            read_successor(next_one.to_bytes(), pinned=one.first)


def test_a_site_does_not_sign_a_charter_of_another_suite() -> None:
    """It names both suites."""
    one, other = Consortium("A"), Consortium("F")

    for charter, key, names in (
        (one.first, other.keys, "suite A, expected one of suite F"),
        (other.first, one.keys, "suite F"),
    ):
        with pytest.raises(CharterError, match=names):
            sign_as_site(charter, site_id="lyon", signer=key["lyon"])


@pytest.mark.parametrize(("suite", "other"), [SUITES, SUITES[::-1]])
def test_keys_of_two_suites_in_one_charter_are_not_built(suite: str, other: str) -> None:
    """Neither a site's, the coordinator's nor a revoked one."""
    made, foreign = Consortium(suite), Consortium(other).coordinator.public_key.hex()
    sites = (*made.first.sites[:-1], Member(id="utrecht", key=foreign))

    for change, says in (
        ({"sites": sites}, "key of site utrecht"),
        ({"coordinator": foreign}, "key of the coordinator"),
        ({"revoked": (foreign,)}, "revoked keys of this suite"),
    ):
        with pytest.raises(ValueError, match=says):
            made.draft(**change)


def test_the_suite_is_signed() -> None:
    """Another letter in the file is another charter, and not even one that can be built."""
    made = Consortium("F")
    tree = json.loads(made.signed(made.first).to_bytes())
    tree["charter"]["suite"] = "A"

    with pytest.raises(CharterError, match="another format"):
        read(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode())
