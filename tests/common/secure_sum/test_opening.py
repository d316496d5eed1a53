"""Seeds from shares of which some are wrong: rebuilt where enough are right, and proven liars are named."""

from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.secure_sum import site_state
from partsong.common.codec import pack, unpack
from partsong.common.derive import derive, digest, number
from partsong.common.secure_sum.messages import Report, ReportHeader, Signed, Unmask, sign
from partsong.common.secure_sum.opening import SeedsDoNotFit, fitting_seeds, liars
from partsong.common.secure_sum.shamir import SHARE_BYTES, BadShares
from partsong.server.secure_sum.protocol import SumRound
from partsong.simulations.secure_sum import deal_keys, found, next_header

WORDS, SITES, DROPPED = 10, 10, 9


class Played:
    """A round of ten sites, three of which may be corrupt, the last one dropped, up to the answers to UNMASK."""

    def __init__(self, *, dealer: int | None = None, deceived: tuple[int, ...] = ()) -> None:
        self.made = deal_keys(found([f"site{i}" for i in range(SITES)]), run=bytes(32))
        sites, header = self.made.sites, next_header(self.made, words=WORDS)
        self.desk = SumRound(run=self.made.run, signer=self.made.consortium.coordinator, header=header)
        for site in sites.values():
            site.open(self.desk.open(result=b""))
            self.desk.add_ready(site.ready(verdict=True))
        roster = self.desk.close_roster()
        for name in range(SITES - 1):
            sites[name].enter(roster)
            report = sites[name].report(np.full(WORDS, 1 << name, np.uint64))
            self.desk.add_report(self.dealt_wrong(report, name, deceived) if name == dealer else report)
        requests = self.desk.close_reports()
        # Its real process knows another report, and would not confirm this one.
        answering = [name for name in self.desk.survivors if name != dealer]
        for name in answering:
            self.desk.add_confirm(sites[name].confirm(requests[name]))
        quorum = self.desk.close_confirms()
        self.answers = {name: sites[name].unmask(quorum) for name in answering}

    def dealt_wrong(self, report: bytes, dealer: int, deceived: tuple[int, ...]) -> bytes:
        """A report with bundles of noise for some holders, properly sealed and signed."""
        context, read = self.desk.context, unpack(Report, report)
        keys = site_state.load(self.made.consortium.vaults[dealer], charter=self.made.run.charter).keys_by_peer()
        bundles = list(read.bundles)
        for holder in deceived:
            ends = (number(dealer), number(holder))
            key = derive(keys[holder], "share", context, *ends)
            noise = bytes([1, 2, 3]) * (13 * SITES)
            place = holder - (holder > dealer)
            bundles[place] = AESGCM(key).encrypt(bytes(12), noise, digest("share bundle", context, *ends))
        header = replace(unpack(ReportHeader, read.header.body), bundles=digest("bundles", *bundles))
        signed = sign(header, self.made.consortium.identities[dealer])
        return pack(replace(read, header=signed, bundles=tuple(bundles)))

    def lie(self, site: int, *, about: range | tuple[int, ...]) -> None:
        """Change a site's answer in its shares of some owners' seeds, under its own signature."""
        answer = unpack(Unmask, unpack(Signed, self.answers[site]).body)
        shares = list(answer.shares)
        for place in about:
            # Another byte for each owner, of the own-mask seed or of a pair seed.
            at = (7 * place) % len(shares[place])
            shares[place] = shares[place][:at] + bytes([shares[place][at] ^ 1]) + shares[place][at + 1 :]
        changed = sign(replace(answer, shares=tuple(shares)), self.made.consortium.identities[site])
        self.answers[site] = pack(changed)

    def open(self) -> int:
        for answer in self.answers.values():
            self.desk.add_unmask(answer)
        _, opened = self.desk.open_sum()
        assert (opened.words == opened.words[0]).all()
        return int(opened.words[0])


RIGHT = sum(1 << name for name in range(SITES - 1))


def test_without_a_wrong_share_nobody_is_named() -> None:
    """Nine survivors, one orphaned pair each."""
    played = Played()

    assert played.open() == RIGHT
    assert (played.desk.disputed, played.desk.liars) == ({}, ())


def test_a_wrong_share_does_not_end_the_round_and_its_sender_is_named() -> None:
    """One holder lies about everybody: eight shares of each seed, five needed, one wrong."""
    played = Played()
    played.lie(4, about=range(8))

    assert played.open() == RIGHT
    assert played.desk.disputed == {owner: (4,) for owner in range(9) if owner != 4}
    assert played.desk.liars == (4,)


def test_one_wrong_share_shows_a_dispute_and_names_nobody() -> None:
    """The holder may have changed it, or the owner may have made it so."""
    played = Played()
    played.lie(4, about=(2,))

    assert played.open() == RIGHT
    assert played.desk.disputed == {2: (4,)}
    assert played.desk.liars == ()


def test_two_wrong_shares_of_eight_are_found_by_the_sum() -> None:
    """Eight shares alone stand one wrong one; left out as a pair, the two let the sum come out."""
    played = Played()
    played.lie(4, about=(0,))
    played.lie(5, about=(0, 1))

    assert played.open() == RIGHT
    assert played.desk.disputed == {0: (4, 5), 1: (5,)}


def test_three_wrong_shares_of_eight_are_too_many_and_end_the_round_by_name() -> None:
    """The seed's owner is named, and nothing comes out."""
    played = Played()
    for site in (4, 5, 6):
        played.lie(site, about=(0,))

    with pytest.raises(BadShares, match=r"seeds of site 0: .*contradict each other; no secret was reconstructed"):
        played.open()


def test_seeds_that_fit_nothing_are_not_used() -> None:
    """The control: where no sum would do, none is taken, after at most 256 choices."""
    played, tried = Played(), []
    unmasks = [unpack(Unmask, unpack(Signed, answer).body) for answer in played.answers.values()]

    with pytest.raises(SeedsDoNotFit, match="nothing was opened"):
        fitting_seeds(
            unmasks,
            roster=range(SITES),
            survivors=range(DROPPED),
            threshold=5,
            fits=lambda seeds: bool(tried.append(seeds)),
        )

    # All of them, one of nine less, two less; at most two may be missing from eight where five are needed.
    assert len(tried) == 1 + 9 + 36


def test_a_dealer_of_wrong_shares_does_not_end_the_round() -> None:
    """Site 3 deals noise to one holder: the sum over all nine stands, 3 and the holder are in dispute."""
    played = Played(dealer=3, deceived=(6,))

    assert played.open() == RIGHT
    assert played.desk.disputed == {3: (6,)}
    assert played.desk.liars == ()


def test_more_answers_make_room_for_another_subset() -> None:
    """Six answers leave five shares of a seed, one of them wrong; three more answers come, and the round opens."""
    played = Played()
    played.lie(4, about=range(8))
    late = {name: played.answers.pop(name) for name in (6, 7, 8)}
    with pytest.raises((BadShares, SeedsDoNotFit)):
        played.open()
    for answer in late.values():
        played.desk.add_unmask(answer)

    assert played.desk.open_sum()[1].words[0] == RIGHT
    assert played.desk.liars == (4,)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_only_corrupt_sites_are_named_and_a_holder_that_lies_about_all_is(data: st.DataObject) -> None:
    """However corrupt sites deal and hold, in disputes that they alone can cause."""
    sites = data.draw(st.integers(4, 20))
    corrupt = data.draw(st.sets(st.integers(0, sites - 1), max_size=(sites - 1) // 3))
    possible = [(o, h) for o in range(sites) for h in range(sites) if o != h and {o, h} & corrupt]
    pairs = data.draw(st.sets(st.sampled_from(possible))) if possible else set()
    disputed = {o: tuple(sorted(h for a, h in pairs if a == o)) for o, _ in pairs}
    loud = next(iter(corrupt), None)

    assert set(liars(disputed, corrupt=len(corrupt))) <= corrupt
    if loud is not None and len(corrupt) < sites - 2:
        everyone = {o: (loud,) for o in range(sites) if o != loud}
        assert liars(everyone, corrupt=len(corrupt)) == (loud,)


def test_with_more_corrupt_sites_than_assumed_an_honest_one_could_be_named() -> None:
    """The control: three that lie about one site, where two may be corrupt."""
    assert liars({0: (1, 2, 3)}, corrupt=2) == (0,)
    assert liars({0: (1, 2, 3)}, corrupt=3) == ()


def test_the_size_of_a_share_is_that_of_the_specification() -> None:
    """39 bytes; the dealer above makes ten of them."""
    assert len(bytes([1, 2, 3]) * (13 * SITES)) == SHARE_BYTES * SITES
