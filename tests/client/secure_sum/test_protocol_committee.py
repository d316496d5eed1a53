"""Rounds in which a committee holds the shares."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.secure_sum.protocol import SecureSumSite
from partsong.client.secure_sum.site_state import Stage
from partsong.common.codec import pack, unpack
from partsong.common.errors import Refused, RoundAborted
from partsong.common.secure_sum import committee
from partsong.common.secure_sum.messages import Report, Signed, Unmask
from partsong.common.secure_sum.recompute import recompute
from partsong.common.secure_sum.shamir import SHARE_BYTES
from partsong.common.secure_sum.transcript import RunFacts
from partsong.common.thresholds import Floors, quorum, smallest_sum
from partsong.server.secure_sum.protocol import SumRound
from partsong.simulations.secure_sum import (
    Federation,
    Phase,
    deal_keys,
    found,
    next_header,
    run_round,
    set_up,
    wake,
)

WORDS = 20
PHASES: tuple[Phase, ...] = ("ready", "report", "confirm", "unmask")


def vector(site: int, round_number: int) -> np.ndarray:
    return np.random.default_rng([site, round_number]).integers(0, 2**56, WORDS, dtype=np.uint64)


def dealt(sites: int, *, corrupt: int, run: bytes = bytes(32)) -> Federation:
    floors = Floors(minimum_cohort=3, minimum_honest=2, corrupt_tolerance=corrupt)
    return deal_keys(found([f"site{i:03}" for i in range(sites)], floors=floors), run=run)


def survivors_of(run: RunFacts, sites: int, drop: dict[int, Phase]) -> list[int] | None:
    """Who should be in the sum, or None where the round should end without one; from the rules alone."""

    def sends(phase: Phase) -> list[int]:
        return [i for i in range(sites) if i not in drop or PHASES.index(drop[i]) > PHASES.index(phase)]

    roster, reported, confirmed, unmasked = (sends(phase) for phase in PHASES)
    floors, holders = run.charter.floors, run.holders(range(sites))
    smallest = smallest_sum(roster=len(roster), floors=floors)
    if min(len(roster), len(reported)) < smallest:
        return None
    if len(set(reported) & set(holders.sites)) <= holders.threshold:
        return None
    if len(confirmed) < quorum(roster=len(roster), corrupt=floors.corrupt_tolerance):
        return None
    answering = [i for i in unmasked if i in holders.sites]
    fewest = min(len(answering) - (owner in answering) for owner in reported)
    return reported if fewest >= holders.threshold else None


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_drop_outs_give_the_exact_sum_of_survivors_or_none(data: st.DataObject) -> None:
    """For any size, tolerance, draw and drop-outs in any phase of two rounds in a row."""
    sites = data.draw(st.integers(6, 14), label="sites")
    corrupt = data.draw(st.integers(0, (sites - 1) // 3), label="corrupt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(committee, "ALL_HOLD_UP_TO", 4)
        made = dealt(sites, corrupt=corrupt, run=data.draw(st.binary(min_size=32, max_size=32), label="run"))
        for number in (1, 2):
            drop = data.draw(st.dictionaries(st.integers(0, sites - 1), st.sampled_from(PHASES), max_size=sites // 2))
            expected = survivors_of(made.run, sites, drop)
            try:
                opened = run_round(made, next_header(made, words=WORDS), lambda i, _, r=number: vector(i, r), drop=drop)
            except (Refused, RoundAborted):
                assert expected is None
                continue

            assert list(opened.sites) == expected
            assert (opened.words == sum(vector(i, number) for i in expected)).all()


@pytest.mark.slow
def test_a_run_of_66_sites_with_real_set_up_draws_a_committee_and_opens_the_exact_sum() -> None:
    """Set-up to result at the defaults; four sites drop out, one in each phase, two of them holders."""
    made = set_up(found([f"site{i:02}" for i in range(66)]), run=bytes(32))
    holders = made.run.holders(range(66))
    others = [i for i in range(66) if i not in holders.sites]
    drop: dict[int, Phase] = {
        others[0]: "ready",
        holders.sites[0]: "report",
        others[1]: "confirm",
        holders.sites[1]: "unmask",
    }

    opened = run_round(made, next_header(made, words=WORDS), lambda i, _: vector(i, 1), drop=drop)

    assert len(holders.sites) == committee.smallest_committee(sites=66, corrupt=21)[0]
    assert opened.sites == tuple(i for i in range(66) if i not in (others[0], holders.sites[0]))
    assert (opened.words == sum(vector(i, 1) for i in opened.sites)).all()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Federation:
    """Twelve sites, some of which hold shares."""
    monkeypatch.setattr(committee, "ALL_HOLD_UP_TO", 4)
    return dealt(12, corrupt=3)


def up_to_reports(made: Federation) -> tuple[SumRound, dict[int, bytes]]:
    desk = SumRound(run=made.run, signer=made.consortium.coordinator, header=next_header(made, words=WORDS))
    for site in made.sites.values():
        site.open(desk.open(result=b""))
        desk.add_ready(site.ready(verdict=True))
    roster, reports = desk.close_roster(), {}
    for number, site in made.sites.items():
        site.enter(roster)
        reports[number] = site.report(vector(number, 1))
        desk.add_report(reports[number])
    return desk, reports


def test_shares_go_to_the_committee_and_to_nobody_else(made: Federation) -> None:
    """A bundle for each other holder in REPORT, bundles for holders alone in the request, shares from them alone."""
    holders = made.run.holders(range(12)).sites
    desk, reports = up_to_reports(made)
    sizes = {number: len(unpack(Report, report).bundles) for number, report in reports.items()}
    requests = desk.close_reports()
    confirms = {number: made.sites[number].confirm(requests[number]) for number in range(12)}
    for confirm in confirms.values():
        desk.add_confirm(confirm)
    answer = unpack(Unmask, unpack(Signed, made.sites[holders[0]].unmask(desk.close_confirms())).body)

    assert desk.holders == holders
    assert sizes == {i: len(holders) - (i in holders) for i in range(12)}
    assert {len(requests[i]) > 12 * SHARE_BYTES * 11 for i in holders} == {True}
    assert len({len(requests[i]) for i in range(12) if i not in holders}) == 1
    assert [len(share) for share in answer.shares] == [SHARE_BYTES] * 11


def test_a_site_that_holds_no_shares_is_done_with_its_confirm(made: Federation) -> None:
    """Its stage says so, and the next round finds its keys in step."""
    stranger = next(i for i in range(12) if i not in made.run.holders(range(12)).sites)
    desk, _ = up_to_reports(made)
    made.sites[stranger].confirm(desk.close_reports()[stranger])
    made.rounds += 1

    assert wake(made.consortium, stranger).stage == Stage.DONE
    opened = run_round(made, next_header(made, words=WORDS), lambda i, _: vector(i, 2))
    assert (opened.words == sum(vector(i, 2) for i in range(12))).all()


def test_a_round_with_a_committee_is_recomputed(made: Federation) -> None:
    """From the masked vectors and the holders' signed shares alone."""
    desk, reports = up_to_reports(made)
    for number, request in desk.close_reports().items():
        desk.add_confirm(made.sites[number].confirm(request))
    quorum_of = desk.close_confirms()
    answers = [made.sites[number].unmask(quorum_of) for number in desk.holders]
    for answer in answers:
        desk.add_unmask(answer)
    result, opened = desk.open_sum()

    vectors = {number: unpack(Report, report).words for number, report in reports.items()}
    again = recompute(result=result, vectors=vectors, unmasks=[unpack(Signed, a) for a in answers], run=made.run)

    assert (again.words == opened.words).all()
    assert (opened.words == sum(vector(i, 1) for i in range(12))).all()


def test_dealt_keys_are_those_of_a_run(made: Federation) -> None:
    """Both ends of a pair have one key, no two pairs have the same, and all sites have one group key."""
    states = [site._state for site in made.sites.values()]
    keys = {(s.site, peer): key for s in states for peer, key in s.keys_by_peer().items()}

    assert all(keys[i, j] == keys[j, i] for i, j in keys)
    assert len(set(keys.values())) == 12 * 11 // 2
    assert len({s.group_key for s in states}) == 1
    assert isinstance(made.sites[0], SecureSumSite)
    assert pack(states[0]) != pack(states[1])
