"""One round of the secure sum at the coordinator's desk."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from wiring import Wired

from partsong.common import wire
from partsong.common.codec import pack, unpack
from partsong.common.plan import Plan
from partsong.common.secure_sum.messages import Header, Open, ReportHeader, Result, Signed
from partsong.common.secure_sum.opened import encoding_hash, model_hash, query_hash
from partsong.common.secure_sum.recompute import SumDisagrees, recompute
from partsong.common.thresholds import Floors, smallest_roster, smallest_sum
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss
from partsong.server.secure_sum.sum_journal import KeptResult, Spooled

Make = Callable[..., Wired]


@pytest.mark.parametrize(
    ("floors", "plan_minimum", "members", "expected"),
    [
        (Floors(minimum_cohort=3, minimum_honest=3, corrupt_tolerance=1), 3, 5, 4),
        (Floors(minimum_cohort=3, minimum_honest=2, corrupt_tolerance=0), 3, 3, 3),
        (Floors(minimum_cohort=3, minimum_honest=3, corrupt_tolerance=1), 5, 5, 5),
        (Floors(minimum_cohort=3, minimum_honest=3, corrupt_tolerance=1), 3, 3, 4),
        (Floors(minimum_cohort=7, minimum_honest=3, corrupt_tolerance=3), 3, 10, 7),
    ],
)
def test_the_smallest_roster_is_one_whose_sum_can_be_opened(
    floors: Floors, plan_minimum: int, members: int, expected: int
) -> None:
    """By hand, and by trying every size; more than there are where none will do."""
    fits = [
        size for size in range(1, members + 1)
        if size >= max(floors.minimum_cohort, plan_minimum, smallest_sum(roster=size, floors=floors))
    ]  # fmt: skip

    assert smallest_roster(floors, plan_minimum=plan_minimum, members=members) == expected
    assert expected == (min(fits) if fits else members + 1)


def test_the_header_says_what_the_message_beside_it_says(wired: Make) -> None:
    """Model, query, encoding, words, noise and history of every OPEN."""
    made = wired()
    made.propose()
    seen: list[tuple[wire.Open, Header, bytes]] = []

    def look(_site: str, phase: str, parcel: Parcel) -> Parcel:
        if phase == "open":
            opened = unpack(Open, parcel.note)
            query = wire.decode(parcel.header, wire.Open)
            seen.append((query, unpack(Header, opened.header.body), opened.result))
        return parcel

    made.lines.before = look
    made.round(1)
    made.round(2)

    for query, header, result in seen:
        assert header.model == model_hash(query.adapter_sha256)
        assert header.query == query_hash(made.plan, number=query.round)
        assert header.encoding == encoding_hash(made.plan, number=query.round)
        assert (header.words, header.noised) == (made.plan.encoding.words(), 1)
        assert (header.round, header.previous_round, query.summed) == (query.round, query.round - 1, query.round - 1)
        assert bool(result) == (query.round == 2)


@pytest.fixture
def six(make_masked_plan: Callable[..., Plan], tmp_path: Path) -> Wired:
    """Six sites, so that two may be lost; proposed."""
    plan = make_masked_plan()
    made = Wired(tmp_path, replace(plan, encoding=replace(plan.encoding, max_sites=6)), names=tuple("abcdef"))
    made.propose()
    return made


def by_another(phase: str) -> Callable[[str, str, Parcel | Loss], Parcel | Loss | None]:
    """In one phase `a` hands its signed message to `b`, who sends it in place of its own."""
    kept: list[bytes] = []

    def twist(site: str, kind: str, answer: Parcel | Loss) -> Parcel | Loss | None:
        if kind == phase and isinstance(answer, Parcel):
            if site == "a":
                kept.append(answer.note)
                return None
            if site == "b":
                return replace(answer, note=kept[0])
        return answer

    return twist


def test_a_ready_that_came_by_another_site_is_in_names_and_signatures(six: Wired) -> None:
    """`a` is in the signed roster though nobody heard it: the others are told the names that they find signed."""
    six.lines.after = by_another("open")

    outcome = six.round(1)

    assert outcome.state.survivors == tuple("cdef")
    assert six.is_exact(1)
    assert [six.errors(site) for site in "cdef"] == [""] * 4


def test_a_report_that_came_by_another_site_is_kept_for_checking(six: Wired) -> None:
    """It is in the sum, so it has to be in what recomputes the sum."""
    six.lines.after = by_another("roster")

    opened = six.round(1).opened

    assert opened is not None
    assert opened.mean_P.tobytes() == six.expected(1, tuple("acdef")).mean_P.tobytes()
    assert recomputed(six, six.journal.results()[0]) == (0, 2, 3, 4, 5)


def test_what_is_kept_recomputes_the_sum(wired: Make) -> None:
    """Masked vectors and shares of the window give the words of the result, with and without a site that dropped."""
    made = wired()
    made.propose()
    made.round(1)
    made.lines.before = lambda site, phase, parcel: None if (site, phase) == ("c", "confirm") else parcel
    made.round(2)
    made.lines.before = lambda site, phase, parcel: None if (site, phase) == ("c", "roster") else parcel
    made.round(3)

    _, second, third = made.journal.results()
    assert recomputed(made, second) == (0, 1, 2, 3, 4)
    assert recomputed(made, third) == (0, 1, 3, 4)
    spooled = made.journal.spooled(third.round)
    assert spooled is not None
    with pytest.raises(SumDisagrees):
        recomputed(made, third, spooled=replace(spooled, vectors={**spooled.vectors, 4: spooled.vectors[3]}))


def recomputed(made: Wired, kept: KeptResult, *, spooled: Spooled | None = None) -> tuple[int, ...]:
    """Whose vectors add up to a kept result, by the offline check."""
    found = spooled or made.journal.spooled(kept.round)
    run = made.journal.load_run(made.trust.charter, plan_sha256=made.plan.sha256)
    assert found is not None
    assert run is not None
    result = unpack(Result, made.journal.read(kept))
    sites = {unpack(ReportHeader, report.body).site for report in result.reports}
    return recompute(
        result=pack(result),
        vectors={site: words for site, words in found.vectors.items() if site in sites or spooled},
        unmasks=[unpack(Signed, found.unmasks[site]) for site in sorted(found.unmasks)],
        run=run,
    ).sites
