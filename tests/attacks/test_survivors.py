"""A coordinator that lies about who survived: confirmations, quorums, both kinds of shares."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from partsong.common.codec import pack, unpack
from partsong.common.derive import derive, digest
from partsong.common.derive import number as number_of
from partsong.common.errors import Refused, WireError
from partsong.common.secure_sum import transcript
from partsong.common.secure_sum.messages import (
    Confirm,
    ConfirmRequest,
    Quorum,
    Report,
    ReportHeader,
    Signed,
    Survivors,
    Unmask,
    sign,
)
from partsong.common.secure_sum.shamir import SHARE_BYTES
from partsong.server.secure_sum.protocol import SumRound


def given(answer: bytes) -> tuple[bytes, ...]:
    return unpack(Unmask, unpack(Signed, answer).body).shares


def lie_about_survivors(lab) -> np.ndarray:
    """Ten sites, three corrupt: tell 1 and 2 that 4, 5, 6 dropped, and 4 and 5 that 1, 2, 3 did; open site 0."""
    corrupt, victim = (7, 8, 9), 0
    lab.up_to_reports()
    late, early = ([i for i in lab.everyone if i not in gone] for gone in ((4, 5, 6), (1, 2, 3)))
    told = {1: late, 2: late, 4: early, 5: early}
    own, pairs = {}, {}
    for liar, survivors in told.items():
        confirm = lab.site(liar).confirm(lab.request(liar, survivors))
        named = unpack(Confirm, unpack(Signed, confirm).body).survivors
        others = [
            pack(sign(Confirm(context=lab.context, survivors=named, site=k), lab.federation.consortium.identities[k]))
            for k in corrupt
        ]
        shares = given(lab.site(liar).unmask(lab.quorum([confirm, *others])))
        dropped = [i for i in lab.everyone if i not in survivors]
        of_victim = shares[[i for i in survivors if i != liar].index(victim)]
        pieces = [of_victim[i : i + SHARE_BYTES] for i in range(0, len(of_victim), SHARE_BYTES)]
        own[liar] = pieces[0]
        for peer, piece in zip(dropped, pieces[1:], strict=True):
            pairs.setdefault(peer, {})[liar] = piece
    for k in corrupt:
        own[k], *of_pairs = lab.all_shares_of(k)[victim]
        for peer, piece in zip(lab.everyone[1:], of_pairs, strict=True):
            pairs.setdefault(peer, {})[k] = piece
    known = {k: derive(lab.state(k).keys_by_peer()[victim], "mask", lab.context) for k in corrupt}
    seeds = known | {peer: lab.combine(shares) for peer, shares in pairs.items() if peer not in corrupt}
    return lab.unmask_by_hand(victim, lab.combine(own), seeds)


def test_equivocation_about_survivors_ends_at_the_quorum(lab: Callable) -> None:
    """Sites that are told different survivor sets give no share: neither set has seven of ten signatures."""
    with pytest.raises(Refused, match="confirm_quorum"):
        lie_about_survivors(lab(10))


def test_without_the_quorum_the_same_lie_opens_one_site_exactly(lab: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Must break: with the check deleted, three corrupt sites of ten and the coordinator read an honest vector."""
    attacked = lab(10)
    # Three corrupt holders and two that were lied to make five for each seed.
    assert attacked.threshold == 5
    monkeypatch.setattr(transcript, "require_quorum", lambda confirms, **_: ())

    recovered = lie_about_survivors(attacked)

    assert (recovered == attacked.vectors[0]).all()


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_quorum_short_of_one_opens_nothing(lab: Callable, count: int) -> None:
    """Five sites need four confirmations."""
    five = lab(5)
    five.up_to_reports()
    confirms = [five.site(i).confirm(five.request(i, five.everyone)) for i in five.everyone]

    with pytest.raises(Refused, match=f"{count} confirmations of one survivor set, 4 needed"):
        five.site(0).unmask(five.quorum(confirms[:count]))
    assert five.site(0).unmask(five.quorum(confirms[:4]))


def test_one_confirmation_many_times_is_one(lab: Callable) -> None:
    """Repeating a signature does not make a quorum."""
    five = lab(5)
    five.up_to_reports()
    confirm = five.site(0).confirm(five.request(0, five.everyone))

    with pytest.raises(WireError, match="twice"):
        five.site(0).unmask(five.quorum([confirm] * 4))


def test_confirmations_of_another_set_do_not_count(lab: Callable) -> None:
    """A confirmation of four survivors is none of five."""
    five = lab(5)
    five.up_to_reports()
    most = [five.site(i).confirm(five.request(i, five.everyone)) for i in (0, 1, 2)]
    other = five.site(3).confirm(five.request(3, [0, 1, 2, 3]))

    with pytest.raises(WireError, match="another survivor set"):
        five.site(0).unmask(five.quorum([*most, other]))


def test_a_forged_confirmation_does_not_count(lab: Callable) -> None:
    """The coordinator cannot sign for a site, nor relabel one site's signature."""
    five = lab(5)
    five.up_to_reports()
    confirms = [five.site(i).confirm(five.request(i, five.everyone)) for i in (0, 1, 2)]
    body = replace(unpack(Confirm, unpack(Signed, confirms[0]).body), site=3)
    forged = pack(five.signed(body))
    relabelled = pack(replace(unpack(Signed, confirms[2]), body=pack(body)))

    for fourth in (forged, relabelled):
        with pytest.raises(WireError, match="no valid signature"):
            five.site(0).unmask(five.quorum([*confirms, fourth]))


def test_a_site_confirms_one_survivor_set_only(lab: Callable) -> None:
    """A second, different set is refused, before and after a restart; the same one gets the same answer."""
    five = lab(5)
    five.up_to_reports()
    first = five.site(0).confirm(five.request(0, five.everyone))

    assert five.site(0).confirm(five.request(0, five.everyone)) == first
    for _ in range(2):
        with pytest.raises(Refused, match="second_survivor_set"):
            five.site(0).confirm(five.request(0, [0, 1, 2, 3]))
        five.restart(0)
    assert five.site(0).confirm(five.request(0, five.everyone)) == first


@pytest.mark.parametrize("survivors", [[0], [0, 1], [0, 1, 2]])
def test_a_sum_of_too_few_is_not_confirmed(lab: Callable, survivors: list[int]) -> None:
    """A survivor set of one, or any below four of five."""
    five = lab(5)
    five.up_to_reports()

    with pytest.raises(Refused, match=f"a sum over {len(survivors)} of 5 sites, 4 needed"):
        five.site(0).confirm(five.request(0, survivors))


def test_without_the_floor_a_sum_of_one_would_be_confirmed(lab: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with the check deleted the site signs a set of itself alone."""
    five = lab(5)
    five.up_to_reports()
    monkeypatch.setattr(transcript, "require_survivors", lambda survivors, **_: None)

    assert five.site(0).confirm(five.request(0, [0]))


def test_the_header_can_ask_for_more_survivors_but_not_for_fewer(lab: Callable) -> None:
    """A signed minimum above the floors is kept, one below changes nothing."""
    for minimum, survivors, needed in ((5, [0, 1, 2, 3], 5), (1, [0, 1, 2], 4)):
        five = lab(5)
        five.header = replace(five.header, minimum_sum=minimum)
        five.up_to_reports()

        with pytest.raises(Refused, match=f"{needed} needed"):
            five.site(0).confirm(five.request(0, survivors))


def test_a_site_left_out_confirms_nothing(lab: Callable) -> None:
    """Survivors without this site, or with another report of it, are not its sum."""
    five = lab(5)
    five.up_to_reports()
    chosen = [1, 2, 3, 4]
    bundles = tuple(five.bundle(owner, 0) for owner in chosen)
    without = pack(ConfirmRequest(survivors=five.signed(five.survivors(chosen)), bundles=bundles))

    with pytest.raises(Refused, match="own_report"):
        five.site(0).confirm(without)


def test_a_report_header_that_was_changed_is_refused(lab: Callable) -> None:
    """A swapped vector root no longer fits the site's signature."""
    five = lab(5)
    five.up_to_reports()
    header = five.reports[3].header
    changed = replace(unpack(ReportHeader, header.body), vector=bytes(32))
    five.reports[3] = replace(five.reports[3], header=replace(header, body=pack(changed)))

    with pytest.raises(WireError, match="no valid signature"):
        five.site(0).confirm(five.request(0, five.everyone))


def test_swapped_share_bundles_are_refused(lab: Callable) -> None:
    """A bundle opens only as that of its owner, for its holder."""
    five = lab(5)
    five.up_to_reports()
    request = unpack(ConfirmRequest, five.request(0, five.everyone))
    one, two, *rest = request.bundles

    with pytest.raises(Refused, match="share_bundle"):
        five.site(0).confirm(pack(replace(request, bundles=(two, one, *rest))))
    for_another = tuple(five.bundle(owner, 4 if owner != 4 else 3) for owner in (1, 2, 3, 4))
    with pytest.raises(Refused, match="share_bundle"):
        five.site(0).confirm(pack(replace(request, bundles=for_another)))


@pytest.mark.parametrize("bundles", [0, 3, 5])
def test_another_number_of_bundles_is_refused(lab: Callable, bundles: int) -> None:
    """Exactly one for each other survivor."""
    five = lab(5)
    five.up_to_reports()
    request = unpack(ConfirmRequest, five.request(0, five.everyone))

    with pytest.raises(WireError, match="number of bundles"):
        five.site(0).confirm(pack(replace(request, bundles=(request.bundles * 2)[:bundles])))


def test_no_answer_ever_holds_both_kinds_of_shares_of_one_site(lab: Callable) -> None:
    """With site 4 dropped: own seeds of survivors and pair seeds with 4, and nothing that opens 4's own mask."""
    five = lab(5)
    five.up_to_reports([0, 1, 2, 3])
    survivors = [0, 1, 2, 3]
    confirms = [five.site(i).confirm(five.request(i, survivors)) for i in survivors]
    answers = {i: given(five.site(i).unmask(five.quorum(confirms))) for i in survivors}

    for shares in answers.values():
        assert len(shares) == 3
        assert {len(share) for share in shares} == {2 * SHARE_BYTES}


def test_a_second_request_for_shares_gets_the_same_bytes(lab: Callable) -> None:
    """Also with another quorum over the same set, and after a restart; the keys are gone by then."""
    five = lab(5)
    five.up_to_reports()
    confirms = [five.site(i).confirm(five.request(i, five.everyone)) for i in five.everyone]
    keys = five.state(0).pair_keys
    first = five.site(0).unmask(five.quorum(confirms))

    assert five.site(0).unmask(five.quorum(confirms[1:])) == first
    assert five.restart(0).unmask(five.quorum(confirms)) == first
    assert not set(five.state(0).pair_keys) & set(keys)
    assert five.federation.consortium.vaults[0].read("report") is None
    with pytest.raises(Refused, match="stage"):
        five.site(0).confirm(five.request(0, five.everyone))


def test_a_report_sent_twice_is_the_same_report(lab: Callable) -> None:
    """Asked again with another vector, a site sends the first one's bytes: nothing is masked twice."""
    five = lab(5)
    five.up_to_reports()

    again = five.site(0).report(five.vectors[1])

    assert unpack(Report, again) == five.reports[0]


def test_a_quorum_or_request_of_another_context_is_dropped(lab: Callable) -> None:
    """Signed by the coordinator, but not about this round."""
    five = lab(5)
    five.up_to_reports()
    foreign = Survivors(context=bytes(32), reports=five.survivors(five.everyone).reports)
    request = replace(unpack(ConfirmRequest, five.request(0, five.everyone)), survivors=five.signed(foreign))

    with pytest.raises(WireError, match="another context's"):
        five.site(0).confirm(pack(request))
    confirms = [five.site(i).confirm(five.request(i, five.everyone)) for i in five.everyone]
    quorum = unpack(Quorum, unpack(Signed, five.quorum(confirms)).body)
    with pytest.raises(WireError, match="another context's"):
        five.site(0).unmask(pack(five.signed(replace(quorum, context=bytes(32)))))


def test_a_bundle_with_another_number_of_shares_is_refused(lab: Callable) -> None:
    """A corrupt owner cannot give some holders fewer shares than others."""
    five = lab(5)
    five.up_to_reports()
    key = five.state(1).keys_by_peer()[0]
    label = digest("share bundle", five.context, number_of(1), number_of(0))
    short = AESGCM(derive(key, "share", five.context, number_of(1), number_of(0))).encrypt(bytes(12), bytes(39), label)
    request = unpack(ConfirmRequest, five.request(0, five.everyone))

    with pytest.raises(Refused, match="the shares of site 1 do not open here"):
        five.site(0).confirm(pack(replace(request, bundles=(short, *request.bundles[1:]))))


def test_shares_that_are_no_shares_are_refused_on_both_sides(lab: Callable) -> None:
    """Values outside the field: a holder takes none from an owner, so the coordinator knows who made them up."""
    five = lab(5)
    desk = SumRound(run=five.federation.run, signer=five.federation.consortium.coordinator, header=five.header)
    for number in five.everyone:
        five.ready(number)
        desk.add_ready(pack(five.readys[number]))
    roster = desk.close_roster()
    for number in five.everyone:
        five.report(number, roster)
        desk.add_report(pack(five.reports[number]))
    key = five.state(1).keys_by_peer()[0]
    label = digest("share bundle", five.context, number_of(1), number_of(0))
    share_key = derive(key, "share", five.context, number_of(1), number_of(0))
    bundle = AESGCM(share_key).encrypt(bytes(12), b"\xff" * (5 * SHARE_BYTES), label)
    request = unpack(ConfirmRequest, five.request(0, five.everyone))

    with pytest.raises(Refused, match="the shares of site 1 do not open here"):
        five.site(0).confirm(pack(replace(request, bundles=(bundle, *request.bundles[1:]))))
    for number, good in desk.close_reports().items():
        desk.add_confirm(five.site(number).confirm(good))
    answer = unpack(Unmask, unpack(Signed, five.site(0).unmask(desk.close_confirms())).body)
    changed = replace(answer, shares=(b"\xff" * SHARE_BYTES, *answer.shares[1:]))
    with pytest.raises(WireError, match="other shares"):
        desk.add_unmask(pack(sign(changed, five.federation.consortium.identities[0])))
