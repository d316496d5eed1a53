"""Rosters, plans and sums that are not what they seem, and sites that answer with what is not theirs.

Each attack on a site has a control: with the check deleted from the source it goes through.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
from lies import LIE_P, begin, through_another_plan, without
from wiring import Wired

from partsong.client.secure_sum import masked_door as door_module
from partsong.common import wire
from partsong.common.adapters.adapter import digest
from partsong.common.codec import pack, unpack
from partsong.common.errors import WireError
from partsong.common.secure_sum.merkle import root_of
from partsong.common.secure_sum.messages import (
    Confirm,
    Ready,
    Report,
    ReportHeader,
    Result,
    Roster,
    Signed,
    Statement,
    Unmask,
    Verdict,
    sign,
)
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss

Make = Callable[..., Wired]


# Rosters.


def test_one_update_is_sealed_for_one_roster(wired: Make) -> None:
    """After a roster with wrong names and a second one without `e`: at most one of them is masked for."""
    made = wired()
    made.propose()
    tried: list[str] = []

    def twice(site: str, phase: str, parcel: Parcel) -> Parcel:
        if (site, phase) == ("a", "roster"):
            smaller = without_last(made, parcel)
            for other in (replace(parcel, header=smaller.header), smaller):
                answer = made.hands["a"].handle(other)
                tried.append(answer.value if isinstance(answer, Loss) else wire.kind_of(answer.header))
        return parcel

    made.lines.before = twice
    made.round(1)

    # The names were wrong; the smaller roster came second, so it finds another one entered.
    assert tried == ["failed", "refuse"]
    assert len([key for key in made.sealed if key[2] == "a"]) == 1
    assert made.is_exact(1)


def without_last(made: Wired, parcel: Parcel) -> Parcel:
    """The same roster without its last site, in names and signatures."""
    roster = unpack(Roster, unpack(Signed, parcel.note).body)
    note = pack(sign(replace(roster, readys=roster.readys[:-1]), made.trust.signer))
    names = wire.decode(parcel.header, wire.Roster)
    return replace(parcel, header=wire.encode(replace(names, sites=names.sites[:-1])), note=note)


def test_without_the_comparison_other_names_are_believed(wired: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a site seals for a roster whose names it was not told."""
    without(monkeypatch, door_module, "if names != set(roster.sites) or len(roster.sites) != len(names):", "if False:")
    made = wired()
    made.propose()

    def renamed(site: str, phase: str, parcel: Parcel) -> Parcel:
        if (site, phase) != ("a", "roster"):
            return parcel
        roster = wire.decode(parcel.header, wire.Roster)
        return replace(parcel, header=wire.encode(replace(roster, sites=(*"abxyz",))))

    made.lines.before = renamed

    assert made.round(1).state.survivors == tuple("abcde")


# Other plans.


def test_messages_of_another_plan_are_refused(wired: Make) -> None:
    """Keys and results of a plan that this site did not accept, or under its name those of another."""
    made = wired()
    made.propose()
    made.round(1)
    strange = wired(run="another")
    strange.propose()
    strange.round(1)
    theirs = strange.sums.closing(adapter_sha256="")
    ours = made.sums.closing(adapter_sha256="")
    assert theirs is not None
    assert ours is not None

    mixed = [theirs, replace(ours, note=theirs.note), begin(made, strange.plan)]
    answers = [made.hands["a"].handle(parcel) for parcel in mixed]

    # Another plan's name is refused; another consortium's signature under the right name is no message at all.
    assert [a if isinstance(a, Loss) else wire.kind_of(a.header) for a in answers] == ["refuse", Loss.FAILED, "refuse"]
    assert made.close() == tuple("abcde")


def test_a_result_of_another_plan_under_the_same_charter_is_refused(wired: Make) -> None:
    """Its header names another set-up."""
    made = wired()
    made.propose()
    made.round(1)
    ours = made.sums.closing(adapter_sha256="")
    through_another_plan(made)
    for site in made.names:
        made.hands[site]._propose(replace(made.plan, run="another"))
    assert ours is not None
    header = wire.Result(plan_sha256=replace(made.plan, run="another").sha256, summed=1, adapter_sha256="")

    answer = made.hands["b"].handle(replace(ours, header=wire.encode(header)))

    assert answer is Loss.FAILED
    assert "another run's" in made.errors("b")


# Sums.


def test_a_forged_sum_does_not_move_the_copy(wired: Make) -> None:
    """Outside of a round too: the site says 0, keeps its copy, and takes no further part."""
    made = wired()
    made.propose()
    made.round(1)
    parcel = made.sums.closing(adapter_sha256="")
    assert parcel is not None
    hand = made.hands["a"]
    before = hand.door._follower.adapter_sha256

    note = hand.door.check(wire.decode(parcel.header, wire.Result), forged(made, parcel.note))

    assert unpack(Verdict, unpack(Signed, note).body).verdict == 0
    assert hand.door._follower.adapter_sha256 == before
    assert made.round(2).state.survivors == tuple("bcde")


def forged(made: Wired, packed: bytes) -> bytes:
    """A result with one more in a word, under a statement that the coordinator signs anew."""
    result = unpack(Result, packed)
    words = bytearray(result.words)
    words[0] ^= 1
    statement = replace(unpack(Statement, result.statement.body), sum=root_of(bytes(words)))
    return pack(replace(result, statement=sign(statement, made.trust.signer), words=bytes(words)))


def counted(made: Wired, *, asked: str, published: str) -> bool:
    """Whether a verdict that was asked for one adapter counts for another."""
    parcel = made.sums.closing(adapter_sha256=asked)
    assert parcel is not None
    answer = made.hands["a"].handle(parcel)
    assert isinstance(answer, Parcel)
    return made.sums.found_right("a", answer, adapter_sha256=published)


@pytest.mark.parametrize("asked", ["the true one", "none"])
def test_a_verdict_on_one_adapter_does_not_count_for_another(wired: Make, asked: str) -> None:
    """Held beside another adapter that is published it is refused; the control counts for its own."""
    made = wired()
    made.propose()
    made.round(1)
    true, lie = digest(made.adapter_P), digest(LIE_P)

    with pytest.raises(WireError, match="another site, result or adapter"):
        counted(made, asked="" if asked == "none" else true, published=lie)

    assert counted(made, asked=true, published=true)
    assert not counted(made, asked=lie, published=lie)


# Sites.


@pytest.mark.parametrize("phase", ["open", "roster", "confirm", "unmask"])
def test_two_different_answers_of_a_site_are_at_most_one(wired: Make, phase: str) -> None:
    """A site signs two messages and hands the second one to another site: the first counts, and the sum is exact."""
    made = wired()
    made.propose()
    notes: dict[str, bytes] = {}

    def twist(site: str, kind: str, answer: Parcel | Loss) -> Parcel | Loss:
        if kind != phase or not isinstance(answer, Parcel):
            return answer
        notes[site] = answer.note
        return replace(answer, note=other_of(made, notes["a"], phase)) if site == "b" else answer

    made.lines.after = twist
    outcome = made.round(1)

    assert outcome.state.lost == {"b": Loss.MALFORMED}
    assert outcome.opened is not None
    assert made.is_exact(1)


def other_of(made: Wired, note: bytes, phase: str) -> bytes:
    """A second message of site `a` in the same phase, signed with its key."""
    key = made.members["a"].signer
    if phase == "roster":
        report = unpack(Report, note)
        changed = replace(unpack(ReportHeader, report.header.body), vector=bytes(32))
        return pack(replace(report, header=sign(changed, key)))
    cls, change = {
        "open": (Ready, {"verdict": 0}), "confirm": (Confirm, {"survivors": bytes(32)}), "unmask": (Unmask, {"shares": ()}),
    }[phase]  # fmt: skip
    return pack(sign(replace(unpack(cls, unpack(Signed, note).body), **change), key))
