"""The coordinator against sites that answer well, badly, or not at all."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from partsong.common import events, wire
from partsong.common.adapters.adapter import FloatVec
from partsong.common.plan import LOSS, UPDATE, Plan, rotation_seed
from partsong.common.secure_sum.fixed_point import encode
from partsong.server.coordinator import Coordinator, RunNotStarted
from partsong.server.desk import Outcome, Query
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss, Phase

MakePlan = Callable[..., Plan]
Answers = Callable[[str, Parcel, Parcel], "Parcel | Loss | None"]
START_P = np.zeros(8, np.float32)
FROZEN_F = np.zeros(6, np.float32)


def update_of(site: str) -> FloatVec:
    """What a site has learned."""
    return np.full(8, {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4, "e": 0.5}[site], np.float32)


@dataclass
class Wire:
    """Carries messages to scripted sites; `twist` may change, drop or replace each answer."""

    plan: Plan
    names: tuple[str, ...] = ("a", "b", "c", "d")
    twists: dict[tuple[str, str], Answers] = field(default_factory=dict)
    asked: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    knows_sites: bool = False
    """Whether this transport can tell who is at an address."""

    def addresses(self) -> tuple[int, ...]:
        return tuple(range(10, 10 + len(self.names)))

    def site_at(self, address: int) -> str | None:
        return self.names[address - 10] if self.knows_sites else None

    def ask(
        self, parcels: Mapping[int, Parcel], *, phase: str, timeout_s: float
    ) -> Iterator[tuple[int, Parcel | Loss]]:
        assert timeout_s == 5.0
        self.asked.append((phase, tuple(self.names[a - 10] for a in parcels)))
        for address, parcel in reversed(list(parcels.items())):
            site = self.names[address - 10]
            good = self._good(site, phase, parcel)
            twist = self.twists.get((site, phase))
            answer = twist(site, parcel, good) if twist else good
            if answer is not None:
                yield address, answer

    def _good(self, site: str, phase: str, parcel: Parcel) -> Parcel:
        if phase == "propose":
            plan = wire.decode(parcel.header, wire.Propose).plan
            return Parcel(header=wire.encode(wire.Accept(site=site, plan_sha256=plan.sha256)))
        if phase == "open":
            query = wire.decode(parcel.header, wire.Open)
            return Parcel(header=wire.encode(wire.Ready(site=site, round=query.round, attempt=query.attempt)))
        roster = wire.decode(parcel.header, wire.Roster)
        words = encode(
            {UPDATE: update_of(site), LOSS: np.array([2.0], np.float32)},
            self.plan.encoding,
            rotation_seed=rotation_seed(self.plan.sha256, number=roster.round),
            rng=np.random.default_rng(ord(site)),
        )
        header = wire.encode(wire.Report(site=site, round=roster.round, attempt=roster.attempt))
        return Parcel(header=header, vector=wire.vector_bytes(words))


@dataclass
class Run:
    """A coordinator with its plan accepted."""

    wire: Wire
    heard: list[events.Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.coordinator = Coordinator(self.wire, self.wire.plan, timeout_s=5.0, listen=self.heard.append, sums=None)

    def round(self, number: int = 2, attempt: int = 1) -> Outcome:
        self.coordinator.propose(lambda: (START_P, FROZEN_F))
        return self.coordinator.run(Query(round=number, attempt=attempt, adapter_P=START_P))

    def lost(self) -> dict[str, str]:
        return {e.site: e.why for e in self.heard if isinstance(e, events.SiteLost)}


def message(value: Any, vector: bytes = b"") -> Answers:
    """Answer with this message instead."""
    return lambda _site, _parcel, _good: Parcel(header=wire.encode(value), vector=vector)


def test_a_round_opens_the_mean_of_its_sites(make_plan: MakePlan) -> None:
    """Four sites: mean .25; every byte that left is counted; the roster is everybody."""
    run = Run(Wire(make_plan()))

    outcome = run.round()

    assert outcome.opened is not None
    assert outcome.opened.mean_P == pytest.approx(np.full(8, 0.25), abs=1e-5)
    assert (outcome.opened.loss, outcome.opened.sites) == (pytest.approx(2.0, abs=1e-5), 4)
    assert outcome.state.phase is Phase.SUMMED
    assert set(outcome.bytes_out) == {"a", "b", "c", "d"}
    assert min(outcome.bytes_out.values()) > run.wire.plan.encoding.bytes()
    assert [phase for phase, _ in run.wire.asked] == ["propose", "open", "roster"]
    kinds = [type(e).__name__ for e in run.heard]
    ready, reported = ["SiteReady"] * 4, ["SiteReported"] * 4
    assert kinds == ["RunStarted", "RoundOpened", "PhaseBegan", *ready, "PhaseBegan", *reported]


def words(*, top: bool = False, size: int = 9) -> bytes:
    """Words of the right number (or another): zeros, or as large as words can be."""
    return wire.vector_bytes(np.full(size, 2**64 - 1 if top else 0, np.uint64))


BAD_READY: dict[str, tuple[Answers, str]] = {
    "silent": (lambda *_: None, "silent"),
    "failed": (lambda *_: Loss.FAILED, "failed"),
    "no header": (lambda *_: Parcel(header=b""), "malformed"),
    "noise": (lambda *_: Parcel(header=bytes(range(256))), "malformed"),
    "a huge header": (lambda *_: Parcel(header=b" " * (1 << 21)), "malformed"),
    "another kind": (message(wire.Report(site="b", round=2, attempt=1)), "malformed"),
    "another site": (message(wire.Ready(site="a", round=2, attempt=1)), "malformed"),
    "an unknown site": (message(wire.Ready(site="zz", round=2, attempt=1)), "malformed"),
    "another round": (message(wire.Ready(site="b", round=1, attempt=1)), "malformed"),
    "another attempt": (message(wire.Ready(site="b", round=2, attempt=2)), "malformed"),
    "refused": (message(wire.Refuse(site="b", code="budget")), "refused"),
}


@pytest.mark.parametrize("case", BAD_READY)
def test_a_site_that_is_not_ready_is_named_and_left_out(make_plan: MakePlan, case: str) -> None:
    """The round goes on with the other three."""
    twist, why = BAD_READY[case]
    run = Run(Wire(make_plan(), twists={("b", "open"): twist}))

    outcome = run.round()

    assert outcome.opened is not None
    assert outcome.opened.mean_P == pytest.approx(np.full(8, 0.8 / 3), abs=1e-5)
    assert run.lost() == {"b": why}
    assert run.wire.asked[-1] == ("roster", ("a", "c", "d"))


REPORT = wire.Report(site="b", round=2, attempt=1)
BAD_REPORT: dict[str, tuple[Answers, str]] = {
    "silent": (lambda *_: None, "silent"),
    "failed": (lambda *_: Loss.FAILED, "failed"),
    "refused": (message(wire.Refuse(site="b", code="state")), "refused"),
    "ready again": (message(wire.Ready(site="b", round=2, attempt=1)), "malformed"),
    "no vector": (message(REPORT), "malformed"),
    "a word short": (lambda _s, _p, good: Parcel(header=good.header, vector=good.vector[:-8]), "malformed"),
    "a word long": (lambda _s, _p, good: Parcel(header=good.header, vector=good.vector + bytes(8)), "malformed"),
    "a byte long": (lambda _s, _p, good: Parcel(header=good.header, vector=good.vector + b"x"), "malformed"),
    "another site's": (message(wire.Report(site="a", round=2, attempt=1), words()), "malformed"),
    "another round's": (message(wire.Report(site="b", round=1, attempt=1), words()), "malformed"),
}


@pytest.mark.parametrize("case", BAD_REPORT)
def test_a_site_that_does_not_report_is_not_in_the_sum(make_plan: MakePlan, case: str) -> None:
    """Nothing of a bad report is added."""
    twist, why = BAD_REPORT[case]
    run = Run(Wire(make_plan(), twists={("b", "roster"): twist}))

    outcome = run.round()

    assert outcome.opened is not None
    assert outcome.opened.mean_P == pytest.approx(np.full(8, 0.8 / 3), abs=1e-5)
    assert run.lost() == {"b": why}
    assert "b" not in outcome.bytes_out


def test_words_that_are_no_vector_end_the_round_and_not_the_run(make_plan: MakePlan) -> None:
    """Fields too large for the number of summands: no adapter comes of it, and the next round is asked."""
    run = Run(Wire(make_plan()))
    too_large = np.array([0xC0000000], "<u4").tobytes()
    run.wire.twists["b", "roster"] = lambda _s, _p, good: Parcel(
        header=good.header, vector=too_large * (len(good.vector) // 4)
    )

    outcome = run.round()
    run.wire.twists.clear()
    following = run.coordinator.run(Query(round=3, attempt=1, adapter_P=START_P))

    assert (outcome.opened, outcome.state.phase) == (None, Phase.ABORTED)
    assert outcome.state.reason == "round 2: the reports of 4 sites are no sum; no sum was opened"
    assert following.opened is not None


@pytest.mark.parametrize("phase", ["open", "roster"])
def test_below_the_floor_no_sum_is_opened(make_plan: MakePlan, phase: str) -> None:
    """Two of four are lost, three are needed."""
    run = Run(Wire(make_plan(), twists={(site, phase): lambda *_: None for site in "ab"}))

    outcome = run.round()

    assert outcome.opened is None
    assert outcome.state.phase is Phase.ABORTED
    assert isinstance(run.heard[-1], events.RoundAbandoned)
    assert run.wire.asked[-1][0] == phase


def test_a_name_is_taken_by_the_first_who_accepts(make_plan: MakePlan) -> None:
    """Answers arrive d, c, b, a: `a` finds its name taken by `b`, and is never asked."""
    plan = make_plan()
    run = Run(Wire(plan, twists={("b", "propose"): message(wire.Accept(site="a", plan_sha256=plan.sha256))}))

    sites = run.coordinator.propose(lambda: (START_P, FROZEN_F))

    assert sites == ("a", "c", "d")
    assert len(set(run.coordinator._address.values())) == 3


def test_more_sites_than_a_sum_has_room_for_are_not_enrolled(make_plan: MakePlan) -> None:
    """Six accept, five fit into the encoding."""
    run = Run(Wire(make_plan(), names=("a", "b", "c", "d", "e", "f")))

    assert run.coordinator.propose(lambda: (START_P, FROZEN_F)) == ("b", "c", "d", "e", "f")


def test_too_few_acceptances_name_the_refusals_by_code(make_plan: MakePlan) -> None:
    """Site and code, nothing else; other sites by what went wrong."""
    twists: dict[tuple[str, str], Answers] = {
        ("a", "propose"): message(wire.Refuse(site="a", code="policy")),
        ("b", "propose"): lambda *_: Loss.FAILED,
        ("c", "propose"): message(wire.Accept(site="c", plan_sha256="0" * 64)),
    }

    with pytest.raises(RunNotStarted) as caught:
        Run(Wire(make_plan(), twists=twists)).coordinator.propose(lambda: (START_P, FROZEN_F))

    assert str(caught.value) == (
        "run run-1: 1 of 4 sites accepted the plan, 3 needed (a: policy; c: accepted another plan; failed); "
        "no record was read"
    )


def test_no_message_names_more_than_the_protocol_does(make_plan: MakePlan) -> None:
    """The roster tells the sites who is in the sum; sites that were lost before are not in it."""
    run = Run(Wire(make_plan()))
    seen: list[wire.Roster] = []

    def look(_site: str, parcel: Parcel, good: Parcel) -> Parcel:
        seen.append(wire.decode(parcel.header, wire.Roster))
        return good

    run.wire.twists["a", "roster"] = look
    run.wire.twists["d", "open"] = lambda *_: None
    run.round(3, 2)

    assert seen == [wire.Roster(plan_sha256=run.wire.plan.sha256, round=3, attempt=2, sites=("a", "b", "c"))]


def test_a_restarted_site_takes_part_again_without_the_secure_sum(make_plan: MakePlan) -> None:
    """The plan is proposed once more to the site that refused for its state, and to no other."""
    run = Run(Wire(make_plan()))
    run.wire.twists["b", "open"] = message(wire.Refuse(site="b", code="state"))
    run.round()
    run.wire.twists.clear()
    run.wire.asked.clear()

    outcome = run.coordinator.run(Query(round=3, attempt=1, adapter_P=START_P))

    assert run.wire.asked[0] == ("propose", ("b",))
    assert outcome.state.survivors == ("a", "b", "c", "d")
    run.coordinator.run(Query(round=3, attempt=2, adapter_P=START_P))
    assert [phase for phase, _ in run.wire.asked].count("propose") == 1


def accept_as(name: str) -> Answers:
    """Accept the plan under this name."""
    return lambda _site, parcel, _good: Parcel(
        header=wire.encode(wire.Accept(site=name, plan_sha256=wire.decode(parcel.header, wire.Propose).plan.sha256))
    )


def test_a_site_cannot_accept_under_anothers_name(make_plan: MakePlan) -> None:
    """Where the transport knows who speaks, a name that is not the speaker's own is refused, and its owner is not."""
    thief = Wire(make_plan(), twists={("b", "propose"): accept_as("a")}, knows_sites=True)

    run = Run(thief)

    assert run.coordinator.propose(lambda: (START_P, FROZEN_F)) == ("a", "c", "d")
    assert run.coordinator._address["a"] == 10


def test_without_that_a_name_is_whose_says_it_first(make_plan: MakePlan) -> None:
    """Control: in a simulation, where nobody knows, the thief gets the name."""
    thief = Wire(make_plan(), twists={("b", "propose"): accept_as("a")})
    run = Run(thief)

    run.coordinator.propose(lambda: (START_P, FROZEN_F))

    assert run.coordinator._address["a"] == 11


def test_a_refusal_is_put_down_to_who_speaks(make_plan: MakePlan) -> None:
    """Not to the name in it."""
    refuse = {(s, "propose"): message(wire.Refuse(site="a", code="policy")) for s in "bc"}
    run = Run(Wire(make_plan(), twists=refuse, knows_sites=True))

    with pytest.raises(RunNotStarted, match=r"\(b: policy; c: policy\)"):
        run.coordinator.propose(lambda: (START_P, FROZEN_F))
