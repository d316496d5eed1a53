"""Rounds of any size with any drop-outs, and crashes at every write."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.secure_sum.protocol import Entered
from partsong.common.codec import unpack
from partsong.common.errors import Refused, RoundAborted
from partsong.common.secure_sum.fixed_point import Block, Encoding, decode_sum, encode
from partsong.common.secure_sum.messages import Report, Result
from partsong.common.thresholds import Floors, quorum, share_threshold, smallest_sum
from partsong.server.secure_sum.protocol import SumRound
from partsong.simulations.secure_sum import (
    Federation,
    Phase,
    default_floors,
    found,
    next_header,
    run_round,
    set_up,
    wake,
)

WORDS = 20
PHASES: tuple[Phase, ...] = ("ready", "report", "confirm", "unmask")


def federation(sites: int, *, floors: Floors | None = None, run: bytes = bytes(32)) -> Federation:
    return set_up(found([f"site{i:02}" for i in range(sites)], floors=floors), run=run)


def vector(site: int, round_number: int) -> np.ndarray:
    """Words with all bits in use, small enough that sixteen sites do not wrap."""
    return np.random.default_rng([site, round_number]).integers(0, 2**60, WORDS, dtype=np.uint64)


def survivors_of(floors: Floors, sites: int, drop: dict[int, Phase]) -> list[int] | None:
    """Who should be in the sum, or None where the round should end without one; from the rules alone."""

    def sends(phase: Phase) -> list[int]:
        return [i for i in range(sites) if i not in drop or PHASES.index(drop[i]) > PHASES.index(phase)]

    roster, reported, confirmed, unmasked = (sends(phase) for phase in PHASES)
    smallest = smallest_sum(roster=len(roster), floors=floors)
    corrupt = floors.corrupt_tolerance
    if len(roster) < smallest or len(reported) < smallest:
        return None
    if len(confirmed) < quorum(roster=len(roster), corrupt=corrupt):
        return None
    threshold = share_threshold(roster=len(roster), corrupt=corrupt)
    holders = [sum(h != owner for h in unmasked) for owner in reported]
    return reported if min(holders) >= threshold else None


@st.composite
def floors_of(draw: st.DrawFn, sites: int) -> Floors:
    if sites == 2:
        return default_floors(2)
    corrupt = draw(st.integers(0, (sites - 1) // 2))
    honest = draw(st.integers(2, max(2, min(3, sites - corrupt))))
    return Floors(
        minimum_cohort=draw(st.integers(3, sites)),
        minimum_honest=honest,
        corrupt_tolerance=min(corrupt, sites - honest),
    )


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_drop_outs_give_the_exact_sum_of_survivors_or_none(data: st.DataObject) -> None:
    """For any size, floors and drop-outs in any phase of three rounds in a row."""
    sites = data.draw(st.integers(2, 9), label="sites")
    floors = data.draw(floors_of(sites), label="floors")
    made = federation(sites, floors=floors)
    for number in (1, 2, 3):
        drop = data.draw(st.dictionaries(st.integers(0, sites - 1), st.sampled_from(PHASES), max_size=sites // 2))
        expected = survivors_of(floors, sites, drop)
        header = next_header(made, words=WORDS)

        try:
            opened = run_round(made, header, lambda i, _, r=number: vector(i, r), drop=drop)
        except (Refused, RoundAborted):
            assert expected is None
            continue

        assert list(opened.sites) == expected
        assert (opened.words == sum(vector(i, number) for i in expected)).all()


@pytest.mark.parametrize("sites", [2, 3, 4, 5, 16])
def test_all_sites_together_give_the_exact_sum(sites: int) -> None:
    """From the smallest consortium on, twice in a row."""
    made = federation(sites)

    for number in (1, 2):
        opened = run_round(made, next_header(made, words=WORDS), lambda i, _, r=number: vector(i, r))
        assert opened.sites == tuple(range(sites))
        assert (opened.words == sum(vector(i, number) for i in range(sites))).all()


@pytest.mark.slow
def test_the_largest_consortium_gives_the_exact_sum() -> None:
    """Sixty-four sites, four of which drop out, one in each phase."""
    made = federation(64)
    drop: dict[int, Phase] = {3: "ready", 10: "report", 40: "confirm", 63: "unmask"}

    opened = run_round(made, next_header(made, words=WORDS), lambda i, _: vector(i, 1) >> np.uint64(4), drop=drop)

    assert opened.sites == tuple(i for i in range(64) if i not in (3, 10))
    assert (opened.words == sum(vector(i, 1) >> np.uint64(4) for i in opened.sites)).all()


@pytest.mark.parametrize("sites", [5, 6])
def test_five_sites_survive_a_drop_out_in_any_phase(sites: int) -> None:
    """At the default floors."""
    for phase in PHASES:
        made = federation(sites)
        opened = run_round(made, next_header(made, words=WORDS), lambda i, _: vector(i, 1), drop={1: phase})

        expected = [i for i in range(sites) if i != 1 or phase in ("confirm", "unmask")]
        assert (opened.words == sum(vector(i, 1) for i in expected)).all()


def test_an_encoded_update_comes_back_as_a_sum() -> None:
    """With the rotation seed of the roster: encode, mask, sum, unmask, decode."""
    encoding = Encoding(
        blocks=(Block(name="update", size=40, clip=1.0, norm="l2", rotate=True),), field_bits=21, max_sites=5
    )
    made = federation(5)
    updates = [np.random.default_rng(i).standard_normal(40) / 10 for i in range(5)]

    def sealed(site: int, entered: Entered) -> np.ndarray:
        rng = np.random.default_rng(site)
        return encode({"update": updates[site]}, encoding, rotation_seed=entered.context, rng=rng)

    seeds = []
    header = next_header(made, words=encoding.words())
    opened = run_round(made, header, lambda i, e: (seeds.append(e.context), sealed(i, e))[1])
    back = decode_sum(opened.words, encoding, sites=5, rotation_seed=seeds[0])["update"]

    assert len(set(seeds)) == 1
    assert np.linalg.norm(back - sum(updates)) < 5 * 6 / encoding.top


def test_a_site_that_missed_rounds_comes_back_without_new_keys() -> None:
    """Absent for two rounds, it fast-forwards and is in the third sum."""
    made = federation(5)
    for _ in range(2):
        run_round(made, next_header(made, words=WORDS), lambda i, _: vector(i, 1), drop={2: "ready"})

    opened = run_round(made, next_header(made, words=WORDS), lambda i, _: vector(i, 3))

    assert opened.sites == (0, 1, 2, 3, 4)
    assert (opened.words == sum(vector(i, 3) for i in range(5))).all()


def test_keys_of_a_round_are_gone_after_it() -> None:
    """Neither state nor journal of a site holds a key of an earlier round."""
    made = federation(3)
    vault = made.consortium.vaults[0]
    before = made.sites[0]._state.pair_keys
    run_round(made, next_header(made, words=WORDS), lambda i, _: vector(i, 1))
    during = made.sites[0]._state.pair_keys
    run_round(made, next_header(made, words=WORDS), lambda i, _: vector(i, 2))

    kept = b"".join(vault._records.values())
    assert not any(key in kept for key in (*before, *during))
    assert set(vault._records) == {"run"}


def test_an_aborted_round_is_followed_by_a_new_one() -> None:
    """The keys stay in step although only some sites got to the end."""
    made = federation(5)
    with pytest.raises(Refused, match="4 needed"):
        run_round(made, next_header(made, words=WORDS), lambda i, _: vector(i, 1), drop={1: "report", 2: "report"})
    drop: dict[int, Phase] = {1: "unmask", 2: "unmask", 3: "unmask"}
    with pytest.raises(RoundAborted, match="expected 3"):
        run_round(made, next_header(made, words=WORDS), lambda i, _: vector(i, 1), drop=drop)

    opened = run_round(made, next_header(made, words=WORDS), lambda i, _: vector(i, 3))

    assert (opened.words == sum(vector(i, 3) for i in range(5))).all()


def test_a_vector_of_another_size_is_refused_and_nothing_is_used_up() -> None:
    """Size and type are the round's; the right vector may follow."""
    made = federation(3)
    desk = SumRound(run=made.run, signer=made.consortium.coordinator, header=next_header(made, words=WORDS))
    for site in made.sites.values():
        site.open(desk.open(result=b""))
        desk.add_ready(site.ready(verdict=True))
    made.sites[0].enter(desk.close_roster())

    for bad in (np.zeros(WORDS + 1, np.uint64), np.zeros(WORDS, np.int64), np.zeros((WORDS, 1), np.uint64)):
        with pytest.raises(Refused, match="vector_size"):
            made.sites[0].report(bad)
    assert unpack(Report, made.sites[0].report(vector(0, 1)))


def test_a_site_without_keys_does_not_start() -> None:
    """Nor one whose keys belong to another charter."""
    consortium = found(["a", "b", "c"])
    with pytest.raises(Refused, match="no_run"):
        wake(consortium, 0)
    made = set_up(consortium, run=bytes(32))
    other = found(["a", "b", "c"])
    object.__setattr__(other, "vaults", made.consortium.vaults)
    with pytest.raises(Refused, match="no_run"):
        wake(other, 0)


def test_what_a_site_sends_depends_on_its_vector_in_the_masked_words_alone() -> None:
    """Two runs with other vectors: every message has the same size, and READY is even the same."""
    sizes = []
    for scale in (0, 2**60):
        made = federation(3)
        desk = SumRound(run=made.run, signer=made.consortium.coordinator, header=next_header(made, words=WORDS))
        for site in made.sites.values():
            site.open(desk.open(result=b""))
            desk.add_ready(site.ready(verdict=True))
        roster = desk.close_roster()
        for number, site in made.sites.items():
            site.enter(roster)
            report = unpack(Report, site.report(np.full(WORDS, scale + number, np.uint64)))
            sizes.append((len(report.header.body), [len(b) for b in report.bundles], len(report.words)))

    assert sizes[:3] == sizes[3:]


def test_the_same_vector_and_the_same_randomness_mask_differently_in_each_round() -> None:
    """A machine restored to an old random state still repeats no mask: keys and context are mixed in."""
    made = set_up(found(["a", "b", "c"]), run=bytes(32))
    frozen = os.urandom(64)
    masked = []
    for number in range(3):
        made.sites[number] = wake(made.consortium, number, entropy=lambda size: frozen[:size].ljust(size, b"\0"))
    for _ in range(2):
        desk = SumRound(run=made.run, signer=made.consortium.coordinator, header=next_header(made, words=WORDS))
        made.rounds += 1
        for site in made.sites.values():
            site.open(desk.open(result=b""))
            desk.add_ready(site.ready(verdict=True))
        roster = desk.close_roster()
        made.sites[0].enter(roster)
        masked.append(unpack(Report, made.sites[0].report(vector(0, 1))))

    assert masked[0].words != masked[1].words
    assert not set(masked[0].bundles) & set(masked[1].bundles)


def test_the_result_carries_the_sum_and_no_vector() -> None:
    """Nothing of a single report's words is in it."""
    made = federation(3)
    opened = run_round(made, next_header(made, words=WORDS), lambda i, _: vector(i, 1))

    words = np.frombuffer(unpack(Result, made.result).words, "<u8")[:WORDS]
    assert (words == opened.words).all()
    assert all(int(x) not in words.tolist() for i in range(3) for x in vector(i, 1))
