"""A round without the secure sum: what is sent, and which answers count."""

from collections.abc import Callable

import numpy as np
import pytest

from partsong.common import wire
from partsong.common.adapters.adapter import digest
from partsong.common.errors import WireError
from partsong.common.plan import LOSS, UPDATE, Plan, rotation_seed
from partsong.common.secure_sum.fixed_point import encode
from partsong.server.desk import PlainDesk, Query, answer_of, opening
from partsong.server.exchange import Parcel
from partsong.server.rounds import PLAIN, Phase

ADAPTER_P = np.arange(8, dtype=np.float32)
QUERY = Query(round=2, attempt=3, adapter_P=ADAPTER_P)


@pytest.fixture
def plan(make_plan: Callable[..., Plan]) -> Plan:
    return make_plan()


def report(plan: Plan, site: str, value: float) -> Parcel:
    """A site's words, and the header over them."""
    words_W = encode(
        {UPDATE: np.full(8, value, np.float32), LOSS: np.array([value], np.float32)}, plan.encoding,
        rotation_seed=rotation_seed(plan.sha256, number=2), rng=np.random.default_rng(0),
    )  # fmt: skip
    return Parcel(header=wire.encode(wire.Report(site=site, round=2, attempt=3)), vector=wire.vector_bytes(words_W))


def test_open_names_the_adapter_that_rides_beside_it(plan: Plan) -> None:
    """And round, attempt, and which sum comes along."""
    parcel = opening(plan, QUERY, summed=1, note=b"note")

    assert wire.decode(parcel.header, wire.Open) == wire.Open(
        plan_sha256=plan.sha256, round=2, attempt=3, adapter_sha256=digest(ADAPTER_P), summed=1
    )
    assert (parcel.vector, parcel.note) == (wire.vector_bytes(ADAPTER_P), b"note")


def test_two_phases_lead_to_the_mean(plan: Plan) -> None:
    """The same OPEN and ROSTER for all; the sum of what was taken."""
    desk = PlainDesk(plan, QUERY)
    sites = ("a", "b", "c")
    opened, closed = (desk.parcels(phase, sites) for phase in PLAIN)
    for value, site in enumerate(sites):
        desk.take(Phase.READY, site, Parcel(header=wire.encode(wire.Ready(site=site, round=2, attempt=3))))
        desk.take(Phase.REPORT, site, report(plan, site, 0.5 * value))

    assert desk.phases == PLAIN
    assert [desk.needed(phase) for phase in PLAIN] == [3, 3]
    assert len({parcel.header for parcel in opened.values()}) == len(set(closed.values())) == 1
    assert wire.decode(closed["a"].header, wire.Roster).sites == sites
    assert desk.open().mean_P == pytest.approx(np.full(8, 0.5), abs=1e-5)


@pytest.mark.parametrize(
    "answer",
    [
        wire.Ready(site="b", round=2, attempt=3), wire.Ready(site="a", round=1, attempt=3),
        wire.Ready(site="a", round=2, attempt=2), wire.Report(site="a", round=2, attempt=3),
        wire.Step(site="a", round=2, attempt=3),
    ],
    ids=repr,
)  # fmt: skip
def test_an_answer_of_another_site_round_attempt_or_kind_is_not_taken(answer: object) -> None:
    """The right one is; nothing else."""
    right = wire.Ready(site="a", round=2, attempt=3)

    assert answer_of(wire.Ready, Parcel(header=wire.encode(right)), site="a", query=QUERY) == right
    with pytest.raises(WireError):
        answer_of(wire.Ready, Parcel(header=wire.encode(answer)), site="a", query=QUERY)


def test_a_report_of_another_size_adds_nothing(plan: Plan) -> None:
    """The sum is that of the others."""
    desk = PlainDesk(plan, QUERY)
    for site in "abc":
        desk.take(Phase.REPORT, site, report(plan, site, 1.0))
    bad = report(plan, "d", 1.0)

    with pytest.raises(WireError):
        desk.take(Phase.REPORT, "d", Parcel(header=bad.header, vector=bad.vector[:-8]))
    assert desk.open().sites == 3
