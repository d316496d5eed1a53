"""A coordinator or a site that lies while keys are agreed."""

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from partsong.client.secure_sum.key_setup import MOST_ATTEMPTS, KeySetup
from partsong.client.secure_sum.site_state import SiteState
from partsong.common.codec import pack, unpack
from partsong.common.errors import Refused, RoundAborted, WireError
from partsong.common.identity.keys import Identity
from partsong.common.secure_sum.messages import (
    Begin,
    Bundle,
    Bundles,
    Message,
    Pairing,
    Pairings,
    Reveal,
    Reveals,
    Signed,
    sign,
)
from partsong.common.secure_sum.pairwise import make_setup_keys
from partsong.common.thresholds import Floors
from partsong.server.secure_sum.key_setup import SetupRelay
from partsong.simulations.secure_sum import Consortium, found

MALLORY = Identity(b"\x66" * 32)


class Stage:
    """A set-up among five sites that can be stopped between any two messages."""

    def __init__(self, sites: int = 5) -> None:
        self.consortium = found([f"site{i}" for i in range(sites)])
        self.sites = [self.setup(number) for number in range(sites)]
        self.relay = relay_of(self.consortium)
        self.bundles = [site.begin(self.relay.begin(), entropy=os.urandom) for site in self.sites]
        for bundle in self.bundles:
            self.relay.add_bundle(bundle)

    def setup(self, number: int) -> KeySetup:
        charter = self.consortium.charter
        return KeySetup(
            charter=charter,
            site_id=charter.sites[number].id,
            signer=self.consortium.identities[number],
            floors=charter.floors,
            vault=self.consortium.vaults[number],
        )

    def signed_bundles(self) -> list[Signed]:
        return [unpack(Signed, bundle) for bundle in self.bundles]

    def pair_all(self) -> dict[int, list[Signed]]:
        """Let all sites pair and give each one's incoming pairings."""
        everyone = self.relay.bundles()
        for site in self.sites:
            self.relay.add_pairings(site.pair(everyone))
        return {n: list(unpack(Pairings, data).pairings) for n, data in self.relay.pairings().items()}

    def reveal_all(self) -> list[Signed]:
        return [
            unpack(Signed, self.sites[n].reveal(pack(Pairings(pairings=tuple(signed)))))
            for n, signed in self.pair_all().items()
        ]


def relay_of(consortium: Consortium) -> SetupRelay:
    return SetupRelay(charter=consortium.charter, signer=consortium.coordinator, run=bytes(32), attempt=1)


def resigned(signed: Signed, cls: type[Message], signer: Identity, **change: object) -> Signed:
    return sign(replace(unpack(cls, signed.body), **change), signer)


def test_a_substituted_key_is_refused() -> None:
    """The coordinator's own keys under a site's name lack that site's signature."""
    stage = Stage()
    own = make_setup_keys(os.urandom)
    bundles = stage.signed_bundles()
    bundles[3] = resigned(bundles[3], Bundle, MALLORY, exchange=own.exchange_public, kem=own.kem_public)

    with pytest.raises(WireError, match="no valid signature"):
        stage.sites[0].pair(pack(Bundles(bundles=tuple(bundles))))


def test_one_site_s_bundle_is_not_another_s() -> None:
    """Site 4's bundle in site 3's place, or 4's keys under a header of 3."""
    stage = Stage()
    bundles = stage.signed_bundles()

    with pytest.raises(WireError, match="twice or out of order"):
        stage.sites[0].pair(pack(Bundles(bundles=(*bundles[:3], bundles[4], bundles[4]))))
    bundles[3] = resigned(bundles[4], Bundle, stage.consortium.identities[4], site=3)
    with pytest.raises(WireError, match="no valid signature"):
        stage.sites[0].pair(pack(Bundles(bundles=tuple(bundles))))


def test_a_site_that_the_charter_does_not_list_is_refused() -> None:
    """A sybil has no key there."""
    stage = Stage()
    bundles = stage.signed_bundles()
    sybil = resigned(bundles[4], Bundle, MALLORY, site=9)

    with pytest.raises(WireError, match="no member"):
        stage.sites[0].pair(pack(Bundles(bundles=(*bundles, sybil))))


def test_a_bundle_of_another_set_up_is_refused() -> None:
    """Keys that were used once are not used again, even with a good signature."""
    stage, earlier = Stage(), Stage()
    bundles = stage.signed_bundles()
    old = unpack(Bundle, earlier.signed_bundles()[3].body)
    bundles[3] = sign(old, stage.consortium.identities[3])

    with pytest.raises(WireError, match="another set-up"):
        stage.sites[0].pair(pack(Bundles(bundles=tuple(bundles))))


@pytest.mark.parametrize("kept", [[0], [0, 1, 2], [1, 2, 3, 4]])
def test_a_set_up_of_few_or_without_this_site_is_refused(kept: list[int]) -> None:
    """The coordinator may not cut the run down to the sites that it controls, nor replace this site's bundle."""
    stage = Stage()
    bundles = stage.signed_bundles()

    with pytest.raises(Refused, match=r"cohort_floor|own_bundle"):
        stage.sites[0].pair(pack(Bundles(bundles=tuple(bundles[i] for i in kept))))


def test_sites_that_were_shown_different_bundles_find_out() -> None:
    """Site 4 signs two bundles, and half of the sites get each: no pairing crosses the border."""
    stage = Stage()
    bundles = stage.signed_bundles()
    own = make_setup_keys(os.urandom)
    other = resigned(bundles[4], Bundle, stage.consortium.identities[4], exchange=own.exchange_public)
    from_zero = stage.sites[0].pair(pack(Bundles(bundles=tuple(bundles))))
    stage.sites[1].pair(pack(Bundles(bundles=(*bundles[:4], other))))

    for_one = unpack(Pairings, from_zero).pairings[0]

    with pytest.raises(WireError, match="others than one of each lower site"):
        stage.sites[1].reveal(pack(Pairings(pairings=(for_one,))))


def test_a_missing_swapped_or_foreign_pairing_is_refused() -> None:
    """Exactly one of each lower site, made for this one."""
    stage = Stage()
    incoming = stage.pair_all()
    good, other = incoming[3], incoming[2]

    for bad in (good[:2], [*good, good[2]], [good[0], good[2]], other, [other[0], *good[1:]]):
        with pytest.raises(WireError, match=r"others than one of each lower|twice"):
            stage.sites[3].reveal(pack(Pairings(pairings=tuple(bad))))


def test_a_pairing_sealed_by_the_coordinator_is_refused() -> None:
    """Its ciphertext lacks the site's signature, and a relabelled one does not open."""
    stage = Stage()
    incoming = stage.pair_all()
    forged = resigned(incoming[1][0], Pairing, MALLORY)
    broken = resigned(incoming[1][0], Pairing, stage.consortium.identities[0], sealed=bytes(1168))

    with pytest.raises(WireError, match="no valid signature"):
        stage.sites[1].reveal(pack(Pairings(pairings=(forged,))))
    with pytest.raises(RoundAborted, match="does not open"):
        stage.sites[1].reveal(pack(Pairings(pairings=(broken,))))


def test_two_group_keys_are_found_out() -> None:
    """A first site that gives different group keys to different sites is named by the reveals."""
    stage = Stage()
    incoming = stage.pair_all()
    for_two = incoming[2][0]
    for_one = incoming[1][0]
    group = unpack(Pairing, for_one.body).group
    incoming[2][0] = resigned(for_two, Pairing, stage.consortium.identities[0], group=group)

    with pytest.raises(RoundAborted, match="group key does not open"):
        stage.sites[2].reveal(pack(Pairings(pairings=tuple(incoming[2]))))
    stage = Stage()
    reveals = stage.reveal_all()
    reveals[4] = resigned(reveals[4], Reveal, stage.consortium.identities[4], group=bytes(32))
    with pytest.raises(RoundAborted, match="site 4 has another group key"):
        stage.sites[0].finish(pack(Reveals(reveals=tuple(reveals))))


def test_a_nonce_that_was_not_committed_to_is_refused() -> None:
    """Nobody chooses its part of the beacon after seeing the others'."""
    stage = Stage()
    reveals = stage.reveal_all()
    reveals[4] = resigned(reveals[4], Reveal, stage.consortium.identities[4], nonce=bytes(32))

    with pytest.raises(RoundAborted, match="site 4 did not reveal what it committed to"):
        stage.sites[0].finish(pack(Reveals(reveals=tuple(reveals))))


def test_a_withheld_reveal_ends_set_up_by_name() -> None:
    """The relay names the site; a site refuses a list without it."""
    stage = Stage()
    reveals = stage.reveal_all()
    for signed in reveals[:4]:
        stage.relay.add_reveal(pack(signed))

    with pytest.raises(RoundAborted, match="no reveal from site4"):
        stage.relay.reveals()
    with pytest.raises(WireError, match="one of each member"):
        stage.sites[0].finish(pack(Reveals(reveals=tuple(reveals[:4]))))


def test_set_ups_that_do_not_finish_are_counted() -> None:
    """Whoever withholds reveals chooses among at most sixteen beacons, also over restarts."""
    stage = Stage()
    for _ in range(MOST_ATTEMPTS - 1):
        stage.setup(0).begin(stage.relay.begin(), entropy=os.urandom)

    with pytest.raises(Refused, match="setup_attempts"):
        stage.setup(0).begin(stage.relay.begin(), entropy=os.urandom)


def test_a_finished_set_up_resets_the_count() -> None:
    """Runs follow each other without end."""
    stage = Stage(3)
    reveals = stage.reveal_all()
    stage.sites[0].finish(pack(Reveals(reveals=tuple(reveals))))

    for _ in range(MOST_ATTEMPTS):
        assert stage.setup(0).begin(stage.relay.begin(), entropy=os.urandom)


def test_begin_counts_only_with_the_coordinator_s_signature_and_the_pinned_charter() -> None:
    """Neither the network nor another charter starts a set-up."""
    stage = Stage(3)
    begin = Begin(charter=stage.consortium.charter.hash, run=bytes(32), attempt=1)

    with pytest.raises(WireError, match="no valid signature"):
        stage.setup(0).begin(pack(sign(begin, MALLORY)), entropy=os.urandom)
    other = replace(begin, charter=bytes(32))
    with pytest.raises(Refused, match="other_charter"):
        stage.setup(0).begin(pack(sign(other, stage.consortium.coordinator)), entropy=os.urandom)


def test_messages_out_of_turn_are_refused() -> None:
    """Each step once, in order."""
    stage = Stage(3)
    fresh = stage.setup(0)

    for call in (fresh.pair, fresh.reveal, fresh.finish):
        with pytest.raises(Refused, match="setup_order"):
            call(b"")
    with pytest.raises(Refused, match="setup_order"):
        stage.sites[0].begin(stage.relay.begin(), entropy=os.urandom)


def test_a_site_sets_up_with_its_own_key_and_a_policy_that_the_charter_keeps() -> None:
    """Otherwise it does not start."""
    consortium = found(["a", "b", "c", "d"])
    common = {"charter": consortium.charter, "vault": consortium.vaults[0]}

    with pytest.raises(Refused, match="own_key"):
        KeySetup(site_id="a", signer=consortium.identities[1], floors=consortium.charter.floors, **common)
    floors = Floors(minimum_cohort=3, minimum_honest=2, corrupt_tolerance=2)
    with pytest.raises(Refused, match="corrupt_tolerance"):
        KeySetup(site_id="a", signer=consortium.identities[0], floors=floors, **common)


def test_the_relay_never_sees_a_key() -> None:
    """No pair key and no group key occurs in anything that passes through the coordinator."""
    stage = Stage(3)
    wire = [*stage.bundles]
    reveals = stage.reveal_all()
    wire += [pack(signed) for signed in reveals]
    wire += list(stage.relay.pairings().values())
    everything = b"".join(wire)
    for site in stage.sites:
        site.finish(pack(Reveals(reveals=tuple(reveals))))

    for vault in stage.consortium.vaults:
        record = vault.read("run")
        state = unpack_state(record)
        for key in (state.group_key, *state.pair_keys):
            assert key not in everything


def unpack_state(record: bytes) -> SiteState:
    return unpack(SiteState, record)


def test_all_pairs_agree_and_no_two_pairs_have_one_key() -> None:
    """Every pair has one key of its own, everyone the same group key."""
    stage = Stage(4)
    reveals = stage.reveal_all()
    facts = [site.finish(pack(Reveals(reveals=tuple(reveals)))) for site in stage.sites]
    states = [unpack_state(vault.read("run")) for vault in stage.consortium.vaults]
    keys = [state.keys_by_peer() for state in states]

    assert len({fact.setup for fact in facts}) == 1
    assert len({state.group_key for state in states}) == 1
    assert all(keys[i][j] == keys[j][i] for i in range(4) for j in range(i))
    assert len({keys[i][j] for i in range(4) for j in range(i)}) == 6


@pytest.mark.parametrize("message", ["bundle", "pairings", "reveal"])
def test_the_relay_drops_what_is_not_a_member_s(message: str) -> None:
    """Wrong signatures, repeated senders with other contents and messages out of turn leave it as it was."""
    stage = Stage()
    relay = relay_of(stage.consortium)
    calls: dict[str, Callable[[], object]] = {
        "bundle": lambda: relay.add_bundle(pack(resigned(stage.signed_bundles()[0], Bundle, MALLORY))),
        "pairings": lambda: relay.add_pairings(
            pack(Pairings(pairings=tuple(resigned(s, Pairing, MALLORY) for s in stage.pair_all()[1])))
        ),
        "reveal": lambda: relay.add_reveal(pack(resigned(stage.reveal_all()[0], Reveal, MALLORY))),
    }

    with pytest.raises(WireError):
        calls[message]()
