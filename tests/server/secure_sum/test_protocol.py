"""The coordinator takes what honest sites send, drops the rest, and opens one exact sum or none."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from partsong.common.codec import pack, unpack
from partsong.common.errors import Refused, WireError
from partsong.common.secure_sum.messages import Confirm, Ready, Report, Result, Signed, Unmask, sign
from partsong.common.secure_sum.opening import SeedsDoNotFit
from partsong.common.secure_sum.result import words_to_bytes
from partsong.server.secure_sum.protocol import SumRound
from partsong.simulations.secure_sum import Federation, found, next_header, set_up

WORDS = 10
VECTORS = {i: np.full(WORDS, 10**i, np.uint64) for i in range(5)}


@pytest.fixture
def made() -> Federation:
    return set_up(found([f"site{i}" for i in range(5)]), run=bytes(32))


def desk_of(made: Federation) -> SumRound:
    header = next_header(made, words=WORDS)
    return SumRound(run=made.run, signer=made.consortium.coordinator, header=header)


def ready_all(made: Federation, desk: SumRound) -> None:
    for site in made.sites.values():
        site.open(desk.open(result=b""))
        desk.add_ready(site.ready(verdict=True))


def reports_of(made: Federation, desk: SumRound) -> dict[int, bytes]:
    roster = desk.close_roster()
    reports = {}
    for number, site in made.sites.items():
        site.enter(roster)
        reports[number] = site.report(VECTORS[number])
    return reports


def resigned(made: Federation, message: bytes, cls: type, by: int, **change: object) -> bytes:
    return pack(sign(replace(unpack(cls, unpack(Signed, message).body), **change), made.consortium.identities[by]))


def up_to_unmasks(made: Federation, desk: SumRound, sites: list[int]) -> dict[int, bytes]:
    ready_all(made, desk)
    for number, report in reports_of(made, desk).items():
        if number in sites:
            desk.add_report(report)
    requests = desk.close_reports()
    for number in sites:
        desk.add_confirm(made.sites[number].confirm(requests[number]))
    quorum = desk.close_confirms()
    return {number: made.sites[number].unmask(quorum) for number in sites}


def test_phases_close_only_with_enough_sites(made: Federation) -> None:
    """Too few is an answer, not an end: the missing message may still come."""
    desk = desk_of(made)
    with pytest.raises(Refused, match="cohort_floor"):
        desk.close_roster()
    ready_all(made, desk)
    reports = reports_of(made, desk)
    for number in (0, 1, 2):
        desk.add_report(reports[number])
    with pytest.raises(Refused, match="survivor_floor"):
        desk.close_reports()
    desk.add_report(reports[4])
    requests = desk.close_reports()
    for number in (0, 1, 2):
        desk.add_confirm(made.sites[number].confirm(requests[number]))
    with pytest.raises(Refused, match="confirm_quorum"):
        desk.close_confirms()
    desk.add_confirm(made.sites[4].confirm(requests[4]))

    assert desk.close_confirms()
    assert desk.survivors == (0, 1, 2, 4)


def test_a_report_that_is_not_what_its_header_says_is_not_added(made: Federation) -> None:
    """Other words, other bundles, too few bundles, a wrong signature, another round: the sum stays right."""
    desk = desk_of(made)
    ready_all(made, desk)
    reports = reports_of(made, desk)
    good = unpack(Report, reports[0])
    other = unpack(Report, reports[1])
    bad = [
        replace(good, words=other.words),
        replace(good, words=bytes(good.words) + bytes(8)),
        replace(good, bundles=other.bundles),
        replace(good, bundles=good.bundles[:3]),
        replace(good, header=replace(good.header, signature=other.header.signature)),
    ]
    for report in bad:
        with pytest.raises(WireError):
            desk.add_report(pack(report))
    with pytest.raises(WireError, match="out of turn"):
        desk_of(made).add_report(reports[0])
    unmasks = {}
    for report in reports.values():
        desk.add_report(report)
    requests = desk.close_reports()
    for number, site in made.sites.items():
        desk.add_confirm(site.confirm(requests[number]))
    quorum = desk.close_confirms()
    for number, site in made.sites.items():
        unmasks[number] = desk.add_unmask(site.unmask(quorum))

    _, opened = desk.open_sum()

    assert (opened.words == 11111).all()


def test_a_site_cannot_say_two_things(made: Federation) -> None:
    """The first READY counts; a second, different one is refused."""
    desk = desk_of(made)
    ready_all(made, desk)
    ready = made.sites[0].ready(verdict=True)

    with pytest.raises(WireError, match="another message than the one it sent before"):
        desk.add_ready(resigned(made, ready, Ready, 0, verdict=0))
    with pytest.raises(WireError, match="another round"):
        desk.add_ready(resigned(made, ready, Ready, 0, verdict=2))
    with pytest.raises(WireError, match="no valid signature"):
        desk.add_ready(resigned(made, ready, Ready, 0, site=1))


def test_messages_out_of_turn_are_dropped(made: Federation) -> None:
    """READY after the roster, REPORT after the survivors, CONFIRM before them."""
    desk = desk_of(made)
    ready_all(made, desk)
    late = made.sites[0].ready(verdict=True)
    reports = reports_of(made, desk)
    with pytest.raises(WireError, match="out of turn"):
        desk.add_ready(late)
    with pytest.raises(WireError, match="out of turn"):
        desk.add_confirm(late)
    with pytest.raises(WireError, match="out of turn"):
        desk.add_unmask(late)
    for number in (0, 1, 2, 3):
        desk.add_report(reports[number])
    requests = desk.close_reports()
    with pytest.raises(WireError, match="out of turn"):
        desk.add_report(reports[4])
    confirm = made.sites[0].confirm(requests[0])
    for change in ({"context": bytes(32)}, {"survivors": bytes(32)}):
        with pytest.raises(WireError, match="another survivor set"):
            desk.add_confirm(resigned(made, confirm, Confirm, 0, **change))


def with_a_wrong_share(made: Federation, desk: SumRound, sites: list[int]) -> None:
    """Site 0 changes its share of the first other site's seed, and signs it."""
    unmasks = up_to_unmasks(made, desk, sites)
    for number in sites[1:]:
        desk.add_unmask(unmasks[number])
    shares = list(unpack(Unmask, unpack(Signed, unmasks[0]).body).shares)
    shares[0] = bytes([shares[0][0] ^ 1]) + shares[0][1:]
    desk.add_unmask(resigned(made, unmasks[0], Unmask, 0, shares=tuple(shares)))


def test_one_wrong_share_of_four_is_left_out_where_three_are_enough(made: Federation) -> None:
    """Four shares do not show which of them is wrong; the sum does, and the round goes on."""
    desk = desk_of(made)
    with_a_wrong_share(made, desk, [0, 1, 2, 3, 4])

    _, opened = desk.open_sum()

    assert (opened.words == 11111).all()
    assert desk.disputed == {1: (0,)}
    assert desk.liars == ()


def test_a_wrong_share_among_exactly_enough_opens_nothing(made: Federation) -> None:
    """Three of three: no sum, rather than noise that would be published."""
    desk = desk_of(made)
    with_a_wrong_share(made, desk, [0, 1, 2, 3])

    with pytest.raises(SeedsDoNotFit, match="nothing was opened"):
        desk.open_sum()


def test_other_shares_than_asked_for_are_dropped(made: Federation) -> None:
    """Their number, their size, their context and their sender."""
    desk = desk_of(made)
    unmasks = up_to_unmasks(made, desk, [0, 1, 2, 3])
    shares = unpack(Unmask, unpack(Signed, unmasks[0]).body).shares

    for change in (
        {"shares": shares[:2]},
        {"shares": (*shares[:2], shares[2][:39])},
        {"shares": (*shares[:2], shares[2] + bytes(39))},
        {"context": bytes(32)},
    ):
        with pytest.raises(WireError, match="other shares"):
            desk.add_unmask(resigned(made, unmasks[0], Unmask, 0, **change))
    with pytest.raises(WireError, match="no valid signature"):
        desk.add_unmask(resigned(made, unmasks[0], Unmask, 1))


def test_the_coordinator_keeps_nothing_of_one_site_unmasked(made: Federation) -> None:
    """Neither a vector nor a masked vector of a single site is left in its memory, opened or not."""
    desk = desk_of(made)
    unmasks = up_to_unmasks(made, desk, [0, 1, 2, 3, 4])
    for unmask in unmasks.values():
        desk.add_unmask(unmask)
    result, _ = desk.open_sum()

    held = b"".join(pack_all(vars(desk)))
    for vector in VECTORS.values():
        assert words_to_bytes(vector) not in held
        assert words_to_bytes(vector) not in result
    assert len(unpack(Result, result).words) == 8 * (WORDS + 3)


def pack_all(values: dict[str, object]) -> list[bytes]:
    found_bytes: list[bytes] = []
    stack: list[object] = list(values.values())
    while stack:
        value = stack.pop()
        if isinstance(value, bytes):
            found_bytes.append(value)
        elif isinstance(value, np.ndarray):
            found_bytes.append(value.tobytes())
        elif isinstance(value, dict):
            stack += value.values()
        elif isinstance(value, (list, tuple)):
            stack += value
        elif isinstance(value, (Signed, Unmask)):
            stack.append(pack(value))
    return found_bytes


def test_a_restarted_coordinator_comes_to_the_same_point(made: Federation) -> None:
    """Given the same site messages again, every message it makes is byte for byte the same."""
    readys: list[bytes] = []
    first = desk_of(made)
    for site in made.sites.values():
        site.open(first.open(result=b""))
        readys.append(site.ready(verdict=True))
    rosters: list[bytes] = []
    again: list[Callable[[], bytes]] = []
    for desk in (first, desk_of(made)):
        for ready in readys:
            desk.add_ready(ready)
        rosters.append(desk.close_roster())
        again.append(lambda d=desk: d.open(result=b""))

    assert rosters[0] == rosters[1]
    assert again[0]() == again[1]()
