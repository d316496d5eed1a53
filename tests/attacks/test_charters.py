"""A coordinator that lies about who belongs to the consortium, under each suite."""

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from partsong.common.identity.charter import (
    Charter,
    CharterError,
    Member,
    SignedCharter,
    read,
    read_successor,
    sign_as_coordinator,
    sign_as_site,
)
from partsong.common.identity.keys import Identity, P384Identity, make_identity
from partsong.common.identity.suite import SUITES
from partsong.simulations.secure_sum import Consortium, found

NAMES = ["bergamo", "lyon", "porto", "turku", "utrecht"]
Keys = dict[str, Identity | P384Identity]


def consortia() -> Iterator[tuple[Consortium, Keys]]:
    for suite in SUITES:
        made = found(NAMES, suite=suite)
        yield made, dict(zip(NAMES, made.identities, strict=True))


def signed(made: Consortium, charter: Charter, keys: Keys) -> SignedCharter:
    return SignedCharter(
        charter=charter,
        coordinator_signature=sign_as_coordinator(charter, made.coordinator),
        site_signatures={m.id: sign_as_site(charter, site_id=m.id, signer=keys[m.id]) for m in charter.sites},
    )


def second(made: Consortium, **change: object) -> Charter:
    return replace(made.charter, version=2, previous=made.charter.hash.hex(), **change)


def with_key(made: Consortium, name: str, key: Identity | P384Identity) -> tuple[Member, ...]:
    return tuple(replace(m, key=key.public_key.hex()) if m.id == name else m for m in made.charter.sites)


def test_the_coordinator_cannot_sign_for_the_sites() -> None:
    """With its own key, or with one site's signature in every place."""
    for made, keys in consortia():
        whole = signed(made, made.charter, keys)
        own = sign_as_coordinator(made.charter, made.coordinator)
        for forged in (own, whole.site_signatures["lyon"]):
            bad = replace(whole, site_signatures=dict.fromkeys(NAMES, forged))
            with pytest.raises(CharterError, match="no valid signature of site bergamo"):
                read(bad.to_bytes())


def test_the_network_cannot_change_a_charter_without_the_coordinator() -> None:
    """All sites signed, it did not."""
    for made, keys in consortia():
        whole = signed(made, made.charter, keys)
        bad = replace(whole, coordinator_signature=whole.site_signatures["lyon"])
        with pytest.raises(CharterError, match="no valid signature of the coordinator"):
            read(bad.to_bytes())


def test_a_signature_of_a_site_that_is_not_listed_is_refused() -> None:
    """One more than there are sites."""
    for made, keys in consortia():
        whole = signed(made, made.charter, keys)
        more = {**whole.site_signatures, "zagreb": whole.site_signatures["lyon"]}
        with pytest.raises(CharterError, match="not listed"):
            read(replace(whole, site_signatures=more).to_bytes())


def test_a_site_does_not_sign_for_a_key_that_is_not_its_own() -> None:
    """The draft lists the coordinator's key under the site's name."""
    for made, keys in consortia():
        draft = replace(made.charter, sites=with_key(made, "lyon", make_identity(made.charter.suite, os.urandom)))
        with pytest.raises(CharterError, match="another key in the charter"):
            sign_as_site(draft, site_id="lyon", signer=keys["lyon"])


def test_a_site_s_key_is_not_exchanged_unseen_in_the_next_version() -> None:
    """Signed with the new key, by whoever has it: the old one does not stand among the revoked."""
    for made, keys in consortia():
        mine = make_identity(made.charter.suite, os.urandom)
        charter = second(made, sites=with_key(made, "lyon", mine))
        with pytest.raises(CharterError, match="a key that was replaced"):
            read_successor(signed(made, charter, keys | {"lyon": mine}).to_bytes(), pinned=made.charter)


def test_another_history_does_not_take_the_place_of_the_pinned_one() -> None:
    """A version that follows another one, however well it is signed."""
    for made, keys in consortia():
        for change in ({"previous": "00" * 32}, {"version": 3}):
            charter = replace(second(made), **change)
            with pytest.raises(CharterError, match="after another one"):
                read_successor(signed(made, charter, keys).to_bytes(), pinned=made.charter)


def test_a_charter_of_another_consortium_does_not_follow() -> None:
    """It names the pinned one as its predecessor."""
    for made, keys in consortia():
        other = signed(made, second(made, consortium="another"), keys)
        with pytest.raises(CharterError, match="another consortium"):
            read_successor(other.to_bytes(), pinned=made.charter)


def test_a_revoked_key_does_not_come_back() -> None:
    """The next version forgets that it was revoked."""
    for made, keys in consortia():
        gone = make_identity(made.charter.suite, os.urandom).public_key.hex()
        pinned = replace(made.charter, revoked=(gone,))
        charter = replace(second(made), previous=pinned.hash.hex())
        with pytest.raises(CharterError, match="a revocation taken back"):
            read_successor(signed(made, charter, keys).to_bytes(), pinned=pinned)


def test_the_next_version_does_not_step_down_to_another_suite() -> None:
    """Everyone signs it with a key of that suite."""
    for made, _ in consortia():
        other = found(NAMES, suite=SUITES[1 - SUITES.index(made.charter.suite)])
        keys = dict(zip(NAMES, other.identities, strict=True))
        charter = replace(other.charter, version=2, previous=made.charter.hash.hex(), revoked=())
        with pytest.raises(CharterError, match=f"found suite {charter.suite}"):
            read_successor(signed(other, charter, keys).to_bytes(), pinned=made.charter)
