"""A coordinator that would choose the share holders: it cannot add one, nor gain by leaving some out."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from partsong.common.codec import pack, unpack
from partsong.common.errors import Refused, WireError
from partsong.common.secure_sum import committee
from partsong.common.secure_sum.messages import ConfirmRequest, Signed, Unmask, sign
from partsong.common.secure_sum.shamir import BadShares, combine
from partsong.common.thresholds import default_tolerance
from partsong.server.secure_sum.protocol import SumRound


def twelve(lab: Callable, monkeypatch: pytest.MonkeyPatch):
    """Twelve sites, a committee of which holds the shares."""
    monkeypatch.setattr(committee, "ALL_HOLD_UP_TO", 4)
    made = lab(12)
    assert made.threshold < len(made.holders) < 12
    return made


def outside(made) -> list[int]:
    return [site for site in made.everyone if site not in made.holders]


def all_confirm(made) -> list[bytes]:
    return [made.site(i).confirm(made.request(i, made.everyone)) for i in made.everyone]


def test_a_roster_of_the_corrupt_and_three_others_does_not_make_them_the_holders() -> None:
    """The smallest roster that sites accept, with every corrupt site in it: they stay below the threshold."""
    members, corrupt = tuple(range(200)), set(range(66))
    roster = (*corrupt, 80, 120, 160)

    holders = committee.holders_of(setup=bytes(32), members=members, corrupt=len(corrupt), roster=roster)

    assert len(corrupt & set(holders.sites)) < holders.threshold


def test_a_roster_with_too_few_holders_is_refused_before_anything_is_masked(
    lab: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One holder more than the threshold is needed; below that no vector is used up."""
    made = twelve(lab, monkeypatch)
    for number in made.everyone:
        made.ready(number)
    kept = made.holders[: made.threshold]
    roster = made.roster(i for i in made.everyone if i not in made.holders or i in kept)

    with pytest.raises(Refused, match=f"{len(kept)} sites that hold shares, {made.threshold + 1} needed"):
        made.site(kept[0]).enter(roster)
    assert made.site(kept[0]).enter(made.roster(made.everyone))


def test_the_coordinator_cannot_make_a_site_a_holder(lab: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site outside the committee takes no bundles, and gives no shares although the quorum is right."""
    made = twelve(lab, monkeypatch)
    made.up_to_reports()
    stranger = outside(made)[0]
    request = unpack(ConfirmRequest, made.request(stranger, made.everyone))
    bundles = tuple(made.bundle(i, made.holders[0]) for i in made.everyone if i not in (stranger, made.holders[0]))

    for given in (bundles, (b"",) * 11, (b"",)):
        with pytest.raises(WireError, match="number of bundles"):
            made.site(stranger).confirm(pack(replace(request, bundles=given)))
    quorum = made.quorum(all_confirm(made))
    with pytest.raises(Refused, match="no_shares"):
        made.site(stranger).unmask(quorum)
    assert made.site(made.holders[0]).unmask(quorum)


def test_a_site_that_holds_no_shares_confirms_one_survivor_set_and_forgets_the_round(
    lab: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keys are gone with its CONFIRM; the same request gets the same bytes, another one none, also restarted."""
    made = twelve(lab, monkeypatch)
    made.up_to_reports()
    stranger = outside(made)[0]
    keys, request = made.state(stranger).pair_keys, made.request(stranger, made.everyone)
    others = [i for i in made.everyone if i != outside(made)[1]]

    first = made.site(stranger).confirm(request)

    assert not set(made.state(stranger).pair_keys) & set(keys)
    assert made.federation.consortium.vaults[stranger].read("report") is None
    for _ in range(2):
        assert made.site(stranger).confirm(request) == first
        with pytest.raises(Refused, match="second_survivor_set"):
            made.site(stranger).confirm(made.request(stranger, others))
        made.restart(stranger)


def test_shares_of_a_site_that_holds_none_are_dropped(lab: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corrupt site outside the committee copies a holder's shares under its own name: the sum stays right."""
    made = twelve(lab, monkeypatch)
    desk = SumRound(run=made.federation.run, signer=made.federation.consortium.coordinator, header=made.header)
    for number in made.everyone:
        made.ready(number)
        desk.add_ready(pack(made.readys[number]))
    roster = desk.close_roster()
    for number in made.everyone:
        made.report(number, roster)
        desk.add_report(pack(made.reports[number]))
    for number, request in desk.close_reports().items():
        desk.add_confirm(made.site(number).confirm(request))
    quorum, stranger = desk.close_confirms(), outside(made)[0]
    answers = {number: made.site(number).unmask(quorum) for number in desk.holders}
    copied = replace(unpack(Unmask, unpack(Signed, answers[made.holders[0]]).body), site=stranger)

    with pytest.raises(WireError, match="other shares"):
        desk.add_unmask(pack(sign(copied, made.federation.consortium.identities[stranger])))
    for answer in answers.values():
        desk.add_unmask(answer)
    assert (desk.open_sum()[1].words == sum(made.vectors.values())).all()


def test_it_takes_the_threshold_of_corrupt_holders_to_read_a_vector(
    lab: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fewer cannot tell any seed from another; the threshold of them, and every other site, read it: the control."""
    made = twelve(lab, monkeypatch)
    made.up_to_reports()
    victim = outside(made)[0]
    corrupt = made.holders[: made.threshold]
    peers = [i for i in made.everyone if i != victim]
    shares = {holder: made.all_shares_of(holder)[victim] for holder in corrupt}

    def seeds(held: dict[int, list[bytes]]) -> list[bytes]:
        return [made.combine({holder: held[holder][place] for holder in held}) for place in range(len(peers) + 1)]

    own, *pairs = seeds(shares)
    assert (made.unmask_by_hand(victim, own, dict(zip(peers, pairs, strict=True))) == made.vectors[victim]).all()
    last = corrupt[-1]
    with pytest.raises(BadShares, match=f"found {made.threshold - 1}, expected {made.threshold}"):
        seeds({holder: shares[holder] for holder in corrupt[:-1]})
    # Whatever the missing share is said to be, some seed comes out: the first limb runs through all of them.
    known = {holder + 1: shares[holder][0] for holder in corrupt[:-1]}
    guesses = {
        combine(known | {last + 1: guess.to_bytes(3, "little") + shares[last][0][3:]}, threshold=made.threshold)[0]
        for guess in guessable(made, known, last, shares[last][0])
    }
    assert len(guesses) == 50


def guessable(made, known: dict[int, bytes], last: int, right: bytes) -> list[int]:
    """Fifty values of the missing share's first limb with which a seed of 256 bits comes out."""
    found: list[int] = []
    for guess in range(2**21 - 9):
        try:
            combine(known | {last + 1: guess.to_bytes(3, "little") + right[3:]}, threshold=made.threshold)
        except BadShares:
            continue
        found.append(guess)
        if len(found) == 50:
            break
    return found


@pytest.mark.parametrize("sites", [65, 101, 1000])
def test_corrupt_sites_that_are_a_third_do_not_reach_the_threshold_in_many_runs(sites: int) -> None:
    """In three hundred draws for each size: never near it; with half the threshold they would, the control."""
    corrupt, members = set(range(default_tolerance(sites))), tuple(range(sites))
    held = []
    for run in range(300):
        holders = committee.holders_of(
            setup=run.to_bytes(32, "big"), members=members, corrupt=len(corrupt), roster=members
        )
        held.append(len(corrupt & set(holders.sites)))

    assert max(held) < holders.threshold
    assert max(held) >= holders.threshold // 2
