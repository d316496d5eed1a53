"""A coordinator that lies about who takes part, or about what the round is."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from partsong.client.secure_sum import history
from partsong.common.codec import pack, unpack
from partsong.common.errors import Refused, RoundAborted, WireError
from partsong.common.identity.keys import Identity
from partsong.common.secure_sum import transcript
from partsong.common.secure_sum.messages import Ready, Revocation, Roster, Signed, sign
from partsong.common.secure_sum.result import words_from_bytes
from partsong.common.secure_sum.tag import TAG_WORDS
from partsong.common.thresholds import Floors
from partsong.simulations.secure_sum import next_header, run_round, set_up


@pytest.mark.parametrize("roster", [[0], [0, 1], [0, 1, 2]])
def test_a_small_roster_is_refused(lab: Callable, roster: list[int]) -> None:
    """Three of five could never be opened at these floors, so nobody masks for them."""
    five = lab(5)
    for number in five.everyone:
        five.ready(number)

    with pytest.raises(Refused, match="cohort_floor"):
        five.site(0).enter(five.roster(roster))
    assert five.site(0).enter(five.roster([0, 1, 2, 3])).roster == (0, 1, 2, 3)


def test_without_the_floor_a_roster_of_two_is_entered(lab: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    five = lab(5)
    for number in five.everyone:
        five.ready(number)
    monkeypatch.setattr(transcript, "require_cohort", lambda roster, **_: None)
    monkeypatch.setattr(transcript, "require_accepted_result", lambda roster, **_: None)

    assert five.site(0).enter(five.roster([0, 1])).roster == (0, 1)


def test_a_site_s_own_floor_is_kept_where_it_is_stricter(lab: Callable) -> None:
    """Policy above charter; a policy that the charter cannot keep stops the site at the start."""
    five = lab(5)
    policy = Floors(minimum_cohort=5, minimum_honest=3, corrupt_tolerance=1)
    strict = type(five.site(0))(
        charter=five.charter,
        signer=five.federation.consortium.identities[0],
        floors=policy,
        vault=five.federation.consortium.vaults[0],
        entropy=bytes,
        clock=lambda: 0.0,
    )
    five.federation.sites[0] = strict
    for number in five.everyone:
        five.ready(number)

    with pytest.raises(Refused, match="a roster of 4 sites, 5 needed"):
        strict.enter(five.roster([0, 1, 2, 3]))
    with pytest.raises(Refused, match="corrupt_tolerance"):
        type(strict)(
            charter=five.charter,
            signer=five.federation.consortium.identities[0],
            floors=replace(policy, corrupt_tolerance=2),
            vault=five.federation.consortium.vaults[0],
            entropy=bytes,
            clock=lambda: 0.0,
        )


def test_an_invented_site_is_refused(lab: Callable) -> None:
    """The coordinator cannot fill a roster with sites of its own: READYs are signed by keys of the charter."""
    five = lab(5)
    for number in five.everyone:
        five.ready(number)
    named = transcript.header_hash(five.signed(five.header))
    mallory = Identity(b"\x66" * 32)
    for number in (4, 9):
        sybil = sign(Ready(header=named, site=number, verdict=1, ledger=bytes(32)), mallory)
        readys = (*(five.readys[i] for i in (0, 1, 2, 3)), sybil)

        with pytest.raises(WireError, match=r"no valid signature|no member"):
            five.site(0).enter(pack(five.signed(Roster(header=named, readys=readys))))


def test_a_site_counted_twice_is_refused(lab: Callable) -> None:
    """Repeating a READY does not make a cohort, and the order is fixed."""
    five = lab(5)
    for number in five.everyone:
        five.ready(number)

    for numbers in ([0, 1, 2, 2], [0, 2, 1, 3], [3, 2, 1, 0]):
        with pytest.raises(WireError, match="twice or out of order"):
            five.site(0).enter(five.roster(numbers))


def test_a_roster_without_this_site_is_refused(lab: Callable) -> None:
    """It would mask for a sum that it is not in."""
    five = lab(5)
    for number in five.everyone:
        five.ready(number)

    with pytest.raises(Refused, match="own_ready"):
        five.site(0).enter(five.roster([1, 2, 3, 4]))


def test_a_roster_that_the_coordinator_did_not_sign_is_refused(lab: Callable) -> None:
    """Nobody on the network can make one, not even a site."""
    five = lab(5)
    for number in five.everyone:
        five.ready(number)
    roster = unpack(Roster, unpack(Signed, five.roster(five.everyone)).body)
    by_site = pack(sign(roster, five.federation.consortium.identities[1]))

    with pytest.raises(WireError, match="no valid signature"):
        five.site(0).enter(by_site)


def test_different_rosters_for_different_sites_leave_noise(lab: Callable) -> None:
    """Site 0 masks for four sites, the others for five: its report fits nobody's context and its masks stay."""
    five = lab(5)
    for number in five.everyone:
        five.ready(number)
    five.report(0, five.roster([0, 1, 2, 3]))
    for number in (1, 2, 3, 4):
        five.report(number, five.roster(five.everyone))

    with pytest.raises(WireError, match="another context"):
        five.site(1).confirm(five.request(1, five.everyone))
    with pytest.raises(Refused, match="stage"):
        five.site(0).enter(five.roster(five.everyone))
    masked = words_from_bytes(five.reports[0].words, words=five.words + TAG_WORDS)
    assert not (masked[: five.words] == five.vectors[0]).any()


def test_different_models_for_different_sites_leave_noise(lab: Callable) -> None:
    """A site that was shown another model has another header: READY, report and masks fit no common round."""
    five = lab(5)
    other = replace(five.header, model=b"\x01" * 32)
    for number in (0, 1, 2, 3):
        five.ready(number)
    five.ready(4, other)

    with pytest.raises(WireError, match="another round"):
        five.site(0).enter(five.roster(five.everyone))
    with pytest.raises(WireError, match="another round's"):
        five.site(4).enter(five.roster(five.everyone))
    with pytest.raises(WireError, match="another round"):
        five.site(4).enter(five.roster(five.everyone, other))


@pytest.mark.parametrize(
    "change",
    [
        {"query": b"\x01" * 32},
        {"encoding": b"\x01" * 32},
        {"minimum_sum": 1},
        {"noised": 0},
        {"words": 51},
        {"deadline": 5},
        {"round": 2},
    ],
)
def test_a_header_changed_after_ready_is_another_round(lab: Callable, change: dict[str, object]) -> None:
    """Clip, noise, size and every other setting stand in the header that READY and context hash."""
    five = lab(5)
    for number in five.everyone:
        five.ready(number)
    changed = replace(five.header, **change)

    with pytest.raises(WireError, match="another round"):
        five.site(0).enter(five.roster(five.everyone, changed))


def test_parallel_rounds_end_the_earlier_one(lab: Callable) -> None:
    """A second OPEN before the first is through takes its keys away; the first cannot be finished or reopened."""
    five = lab(5)
    five.up_to_reports()
    request = five.request(0, five.everyone)
    roster = five.roster(five.everyone)

    five.site(0).open(five.opening(replace(five.header, round=2)))

    with pytest.raises(Refused, match="stage"):
        five.site(0).confirm(request)
    with pytest.raises(WireError, match="another round's"):
        five.site(0).enter(roster)
    with pytest.raises(Refused, match="stage"):
        five.site(0).report(five.vectors[0])


def test_an_old_or_repeated_round_is_not_opened(lab: Callable) -> None:
    """Rounds only go up, also over a restart; the very same OPEN may be repeated until the roster stands."""
    five = lab(5)
    five.ready(0)
    five.ready(0)
    five.restart(0)
    five.ready(0)
    for number in five.everyone:
        five.ready(number)
    five.report(0, five.roster(five.everyone))

    for header in (five.header, replace(five.header, model=b"\x01" * 32)):
        with pytest.raises(Refused, match="old_round"):
            five.site(0).open(five.opening(header))


def test_another_header_with_the_same_number_is_not_opened(lab: Callable) -> None:
    """One number is one round."""
    five = lab(5)
    five.ready(0)

    with pytest.raises(Refused, match="old_round"):
        five.site(0).open(five.opening(replace(five.header, model=b"\x01" * 32)))


@pytest.mark.parametrize(("number", "opens"), [(64, True), (65, False), (10**9, False)])
def test_a_leap_of_rounds_is_bounded(lab: Callable, number: int, *, opens: bool) -> None:
    """Sixty-four rounds at most; a refused leap leaves the keys where they were."""
    five = lab(5)
    before = five.state(0)

    if opens:
        five.site(0).open(five.opening(replace(five.header, round=number)))
        assert five.state(0).key_round == number
    else:
        with pytest.raises(RoundAborted, match="the keys stay"):
            five.site(0).open(five.opening(replace(five.header, round=number)))
        assert five.state(0) == before


def test_a_message_of_another_run_is_dropped(lab: Callable) -> None:
    """Same charter, same keys of identity, other set-up: nothing carries over."""
    five = lab(5)
    run_two = set_up(five.federation.consortium, run=b"\x02" * 32)

    with pytest.raises(WireError, match="another run"):
        run_two.sites[0].open(five.opening())


def test_after_the_deadline_no_site_masks(lab: Callable) -> None:
    """A coordinator cannot keep a roster back and use it when it likes."""
    five = lab(5)
    now = [100.0]
    five.federation = set_up(five.federation.consortium, run=b"\x03" * 32, clock=lambda: now[0])
    five.header = replace(next_header(five.federation, words=five.words), deadline=100)
    for number in five.everyone:
        five.ready(number)
    roster = five.roster(five.everyone)
    entered = five.site(0).enter(roster)
    now[0] = 100.5

    assert entered.roster == five.everyone
    with pytest.raises(Refused, match="deadline"):
        five.site(0).report(five.vectors[0])
    with pytest.raises(Refused, match="deadline"):
        five.site(1).enter(roster)
    with pytest.raises(Refused, match="deadline"):
        five.site(0).open(five.opening(replace(five.header, round=2)))


def ten(lab: Callable, *, noised: int) -> tuple:
    """Ten sites after one round with all of them."""
    made = lab(10)
    header = next_header(made.federation, words=made.words, noised=noised)
    run_round(made.federation, header, lambda i, _: made.vectors[i])
    return made, next_header(made.federation, words=made.words, noised=noised)


def test_without_noise_a_roster_that_differs_by_one_site_is_refused(lab: Callable) -> None:
    """Two sums that differ by one or two sites would be subtracted; by three sites, or under noise, they may be."""
    made, header = ten(lab, noised=0)
    with pytest.raises(Refused, match="may not change by 1 sites"):
        run_round(made.federation, header, lambda i, _: made.vectors[i], drop={4: "ready"})
    made, header = ten(lab, noised=0)
    with pytest.raises(Refused, match="may not change by 2 sites"):
        run_round(made.federation, header, lambda i, _: made.vectors[i], drop={4: "ready", 5: "ready"})
    made, header = ten(lab, noised=0)
    dropped = dict.fromkeys((4, 5, 6), "ready")
    assert run_round(made.federation, header, lambda i, _: made.vectors[i], drop=dropped)
    made, header = ten(lab, noised=1)
    assert run_round(made.federation, header, lambda i, _: made.vectors[i], drop={4: "ready"})


def test_without_the_membership_rule_one_site_is_singled_out(lab: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: two exact sums of the same vectors, one site apart, differ by its vector."""
    monkeypatch.setattr(history, "require_membership", lambda roster, **_: None)
    made, header = ten(lab, noised=0)
    first = made.federation.last.words
    second = run_round(made.federation, header, lambda i, _: made.vectors[i], drop={4: "ready"}).words

    assert (first - second == made.vectors[4]).all()


def test_a_revoked_site_enters_no_roster(lab: Callable) -> None:
    """On the word of the coordinator or of the site itself; of nobody else, and for this run only."""
    five = lab(5)
    revocation = Revocation(setup=five.federation.run.setup, site=4)
    identities = five.federation.consortium.identities
    with pytest.raises(WireError, match="no valid signature"):
        five.site(0).revoke(pack(sign(revocation, identities[1])))
    with pytest.raises(WireError, match="another run"):
        five.site(0).revoke(pack(sign(replace(revocation, setup=bytes(32)), identities[4])))
    with pytest.raises(WireError, match="no member"):
        five.site(0).revoke(pack(sign(replace(revocation, site=5), five.federation.consortium.coordinator)))
    five.site(0).revoke(pack(sign(revocation, identities[4])))
    five.site(1).revoke(pack(five.signed(revocation)))
    five.restart(1)
    for number in five.everyone:
        five.ready(number)

    for number in (0, 1):
        with pytest.raises(Refused, match="revoked_site"):
            five.site(number).enter(five.roster(five.everyone))
    assert five.site(0).enter(five.roster([0, 1, 2, 3])).roster == (0, 1, 2, 3)
