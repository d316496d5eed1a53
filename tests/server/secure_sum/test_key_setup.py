"""The relay of set-up passes on what members sign, in turn, once."""

import os
from dataclasses import replace

import pytest

from partsong.client.secure_sum.key_setup import KeySetup
from partsong.common.codec import pack, unpack
from partsong.common.errors import RoundAborted, WireError
from partsong.common.secure_sum.messages import Bundle, Pairing, Pairings, Reveal, Signed, sign
from partsong.server.secure_sum.key_setup import SetupRelay
from partsong.simulations.secure_sum import Consortium, found


class Relayed:
    """Three sites and a relay, one step after the other."""

    def __init__(self) -> None:
        self.consortium: Consortium = found(["a", "b", "c"])
        charter = self.consortium.charter
        self.relay = SetupRelay(charter=charter, signer=self.consortium.coordinator, run=bytes(32), attempt=1)
        self.sites = [
            KeySetup(charter=charter, site_id=m.id, signer=k, floors=charter.floors, vault=v)
            for m, k, v in zip(charter.sites, self.consortium.identities, self.consortium.vaults, strict=True)
        ]
        self.bundles = [site.begin(self.relay.begin(), entropy=os.urandom) for site in self.sites]

    def resigned(self, signed: Signed, cls: type, by: int, **change: object) -> Signed:
        return sign(replace(unpack(cls, signed.body), **change), self.consortium.identities[by])

    def paired(self) -> list[bytes]:
        for bundle in self.bundles:
            self.relay.add_bundle(bundle)
        everyone = self.relay.bundles()
        return [site.pair(everyone) for site in self.sites]

    def revealed(self) -> list[bytes]:
        for pairings in self.paired():
            self.relay.add_pairings(pairings)
        return [self.sites[number].reveal(data) for number, data in self.relay.pairings().items()]


def test_each_message_gives_its_sender() -> None:
    """Sent once or twice; the last site has nobody to pair with."""
    made = Relayed()

    assert [made.relay.add_bundle(bundle) for bundle in made.bundles * 2] == [0, 1, 2] * 2
    everyone = made.relay.bundles()
    assert [made.relay.add_pairings(site.pair(everyone)) for site in made.sites] == [0, 1, None]
    reveals = [made.sites[number].reveal(data) for number, data in made.relay.pairings().items()]
    assert [made.relay.add_reveal(reveal) for reveal in reveals * 2] == [0, 1, 2] * 2
    assert made.sites[0].finish(made.relay.reveals()) == made.relay.finish()


def test_a_bundle_of_another_set_up_or_too_late_is_dropped() -> None:
    """Membership is closed once the bundles went out."""
    made, other = Relayed(), Relayed()
    foreign = unpack(Bundle, unpack(Signed, other.bundles[0]).body)
    wrong = sign(foreign, made.consortium.identities[0])
    with pytest.raises(WireError, match="another set-up"):
        made.relay.add_bundle(pack(wrong))
    made.paired()

    with pytest.raises(WireError, match="too late"):
        made.relay.add_bundle(made.bundles[0])


def test_a_second_different_message_of_a_site_is_dropped() -> None:
    """The first one stands."""
    made = Relayed()
    made.relay.add_bundle(made.bundles[0])
    other = made.resigned(unpack(Signed, made.bundles[0]), Bundle, 0, commitment=bytes(32))

    with pytest.raises(WireError, match="another message than the one it sent before"):
        made.relay.add_bundle(pack(other))


def test_a_sender_that_is_not_listed_is_dropped() -> None:
    """Before any signature is looked at."""
    made = Relayed()
    stranger = made.resigned(unpack(Signed, made.bundles[0]), Bundle, 0, site=3)

    with pytest.raises(WireError, match="not listed"):
        made.relay.add_bundle(pack(stranger))


def test_pairings_are_for_all_higher_sites_of_one_sender() -> None:
    """None missing, none of another, none over another transcript."""
    made = Relayed()
    of_zero = unpack(Pairings, made.paired()[0]).pairings
    moved = made.resigned(of_zero[1], Pairing, 1, site=1)
    elsewhere = made.resigned(of_zero[1], Pairing, 0, transcript=bytes(32))

    for bad in (of_zero[:1], of_zero[::-1], (of_zero[0], moved), (of_zero[0], elsewhere)):
        with pytest.raises(WireError, match="others than one for each higher site"):
            made.relay.add_pairings(pack(Pairings(pairings=tuple(bad))))
    with pytest.raises(RoundAborted, match="no pairings from a, b"):
        made.relay.pairings()


def test_a_reveal_of_another_set_up_is_dropped() -> None:
    """Its transcript says which it belongs to."""
    made = Relayed()
    reveal = unpack(Signed, made.revealed()[0])

    with pytest.raises(WireError, match="another set-up"):
        made.relay.add_reveal(pack(made.resigned(reveal, Reveal, 0, transcript=bytes(32))))
    with pytest.raises(RoundAborted, match="no reveal from a, b, c"):
        made.relay.reveals()
