"""A coordinator that lies in the messages around the protocol, and sites that answer with what is not theirs.

Each attack on a site has a control: with the check deleted from the source it goes through.
"""

import inspect
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from wiring import Before, Wired

from partsong.client import follow as follow_module
from partsong.client import masked_door as door_module
from partsong.common import wire
from partsong.common.adapter import digest
from partsong.common.codec import pack, unpack
from partsong.common.merkle import root_of
from partsong.common.messages import (
    Begin,
    Confirm,
    Header,
    Open,
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
from partsong.common.opened import model_hash, query_hash
from partsong.common.plan import Plan
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss

Make = Callable[..., Wired]
LIE_P = np.full(8, 0.5, np.float32)


def without(monkeypatch: pytest.MonkeyPatch, module: types.ModuleType, check: str, instead: str) -> None:
    """Put a class of a module in place whose source lacks one check."""
    source = inspect.getsource(module)
    assert source.count(check) == 1, f"{check!r} occurs {source.count(check)} times"
    changed = types.ModuleType(module.__name__)
    changed.__file__ = module.__file__
    monkeypatch.setitem(sys.modules, module.__name__, changed)
    exec(compile(source.replace(check, instead), str(module.__file__), "exec"), changed.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name, user in (("MaskedDoor", sys.modules["wiring"]), ("Follower", door_module)):
        if hasattr(changed, name):
            # Errors stay what they are, so that callers still know them.
            monkeypatch.setattr(user, name, vars(changed)[name])


def resigned(made: Wired, parcel: Parcel, *, header: dict[str, Any] | None = None, **query: Any) -> Parcel:
    """An OPEN with other words in the signed header or in the message beside it, signed as it has to be."""
    opened = unpack(Open, parcel.note)
    changed = replace(unpack(Header, opened.header.body), **header or {})
    note = pack(replace(opened, header=sign(changed, made.trust.signer)))
    message = replace(wire.decode(parcel.header, wire.Open), **query)
    return replace(parcel, header=wire.encode(message), note=note)


class Listening:
    """Notes what kind of answer each site gives in one phase, and passes it on."""

    def __init__(self, phase: str) -> None:
        self.phase, self.heard = phase, list[str]()

    def __call__(self, _site: str, phase: str, answer: Parcel | Loss) -> Parcel | Loss:
        if phase == self.phase:
            self.heard.append(answer.value if isinstance(answer, Loss) else wire.kind_of(answer.header))
        return answer


def at_open(number: int, sites: str, change: Callable[[Parcel], Parcel]) -> Before:
    """Change the OPEN of one training round to some sites."""

    def before(site: str, phase: str, parcel: Parcel) -> Parcel:
        if phase == "open" and site in sites and wire.decode(parcel.header, wire.Open).round == number:
            return change(parcel)
        return parcel

    return before


def another_adapter(made: Wired) -> Callable[[Parcel], Parcel]:
    """The lie: an adapter that no sum gave, named rightly in header and message."""

    def change(parcel: Parcel) -> Parcel:
        parcel = replace(parcel, vector=wire.vector_bytes(LIE_P))
        return resigned(made, parcel, header={"model": model_hash(digest(LIE_P))}, adapter_sha256=digest(LIE_P))

    return change


def sealed(made: Wired, number: int) -> set[str]:
    """The sites that sealed an update in a round."""
    return {site for n, _, site in made.sealed if n == number}


# Adapters.


def test_one_site_is_not_made_to_train_another_adapter(wired: Make) -> None:
    """It refuses before a record is read; without it the sum is that of the others."""
    made = wired()
    made.propose()
    made.round(1)
    made.lines.before = at_open(2, "b", another_adapter(made))

    outcome = made.round(2)

    assert sealed(made, 2) == set("acde")
    assert "wrong_adapter" in made.errors("b")
    assert outcome.state.survivors == tuple("acde")


def test_all_sites_refuse_an_adapter_that_no_sum_gave(wired: Make) -> None:
    """Nobody seals anything, then or later."""
    made = wired()
    made.propose()
    made.round(1)
    made.lines.before = at_open(2, "abcde", another_adapter(made))
    outcomes = [made.round(2), made.round(3)]

    assert [outcome.opened for outcome in outcomes] == [None, None]
    assert sealed(made, 2) == sealed(made, 3) == set()


def test_without_the_comparison_a_site_trains_another_adapter(wired: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of both: the digest deleted, all sites go along."""
    check = "right = opened.previous_fits and query.adapter_sha256 == self._follower.adapter_sha256"
    without(monkeypatch, door_module, check, "right = opened.previous_fits")
    made = wired()
    made.propose()
    made.round(1)
    made.lines.before = at_open(2, "abcde", another_adapter(made))
    made.lines.after = opened = Listening("open")
    made.round(2)

    assert opened.heard == ["ready"] * 5


def test_the_first_round_starts_where_the_plan_says(wired: Make) -> None:
    """Also before there is any sum to follow."""
    made = wired()
    made.propose()
    made.lines.before = at_open(1, "abcde", another_adapter(made))

    assert made.round(1).opened is None
    assert sealed(made, 1) == set()


# History.


def no_history(made: Wired) -> Callable[[Parcel], Parcel]:
    """The lie: there was no sum so far, and the adapter is that of the start."""

    def change(parcel: Parcel) -> Parcel:
        opened = unpack(Open, parcel.note)
        header = replace(
            unpack(Header, opened.header.body), previous_round=0, previous=unpack(Header, opened.header.body).setup,
            model=model_hash(digest(np.zeros(8, np.float32))),
        )  # fmt: skip
        query = replace(wire.decode(parcel.header, wire.Open), adapter_sha256=digest(np.zeros(8, np.float32)), summed=0)
        note = pack(Open(header=sign(header, made.trust.signer), result=b""))
        return Parcel(header=wire.encode(query), vector=wire.vector_bytes(np.zeros(8, np.float32)), note=note)

    return change


def test_a_sum_that_was_checked_cannot_be_denied(wired: Make) -> None:
    """After round 2 was opened on the sum of round 1, "no sum yet" is refused by every site."""
    made = wired()
    made.propose()
    made.round(1)
    made.round(2)
    made.lines.before = at_open(3, "abcde", no_history(made))

    assert made.round(3).opened is None
    assert sealed(made, 3) == set()
    assert all("old_result" in made.errors(site) for site in "abcde")


def begin(made: Wired, plan: Plan) -> Parcel:
    """BEGIN, beside the message that names the plan."""
    message = Begin(charter=made.trust.charter.hash, run=bytes.fromhex(plan.sha256), attempt=1)
    header = wire.Keys(plan_sha256=plan.sha256, step="begin")
    return Parcel(header=wire.encode(header), note=pack(sign(message, made.trust.signer)))


def reset(made: Wired) -> str:
    """Try a second set-up in the middle of a run: new keys have no history."""
    answer = made.deliver("a", begin(made, made.plan))
    assert isinstance(answer, Parcel)
    return wire.kind_of(answer.header)


def test_history_is_not_reset_by_a_second_set_up(wired: Make) -> None:
    """Keys that were used are gone on with, also after a restart of the site."""
    made = wired()
    made.propose()
    made.round(1)

    assert reset(made) == "refuse"
    made.restart("a")._propose(made.plan)
    assert reset(made) == "refuse"
    assert "keys_in_use" in made.errors("a")


def test_without_the_refusal_a_second_set_up_begins(wired: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    without(monkeypatch, door_module, "if in_use or run in self._ended_plans():", "if False:")
    made = wired()
    made.propose()
    made.round(1)

    assert reset(made) == "keyed"


def through_another_plan(made: Wired) -> str:
    """Put another run in between, which replaces the keys, and then begin the first one anew."""
    other = Wired.__new__(Wired)
    other.__dict__.update(made.__dict__)
    other.plan, other.folder = replace(made.plan, run="another"), made.folder / "another"
    other.lines = type(made.lines)(other)
    other.start()
    other.propose()
    made.hands["a"]._propose(made.plan)
    return reset(made)


def test_history_is_not_reset_by_a_run_in_between(wired: Make) -> None:
    """The plan whose keys were replaced is over at this site."""
    made = wired()
    made.propose()
    made.round(1)

    assert through_another_plan(made) == "refuse"


def test_without_the_list_of_ended_plans_a_run_in_between_resets(wired: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    without(monkeypatch, door_module, "if in_use or run in self._ended_plans():", "if in_use:")
    made = wired()
    made.propose()
    made.round(1)

    assert through_another_plan(made) == "keyed"


def test_an_open_that_was_answered_is_not_answered_for_another_round(wired: Make) -> None:
    """A replay of an old OPEN, beside its own message or a new one: refused, and nothing is sealed."""
    made = wired()
    made.propose()
    seen: dict[int, Parcel] = {}

    def look(site: str, phase: str, parcel: Parcel) -> Parcel:
        if (site, phase) == ("a", "open"):
            seen[wire.decode(parcel.header, wire.Open).round] = parcel
        return parcel

    made.lines.before = look
    made.round(1)
    made.round(2)
    for parcel in (seen[1], seen[2], replace(seen[1], header=seen[2].header)):
        answer = made.deliver("a", parcel)
        assert isinstance(answer, Parcel)
        assert wire.kind_of(answer.header) == "refuse"
    assert made.errors("a").count("old_round") == 3


# The signed header against the message beside it.


def lies(made: Wired) -> dict[str, dict[str, Any]]:
    """Each field of the header that says what is asked, with another value."""
    return {
        "model": {"model": bytes(32)},
        "query": {"query": query_hash(made.plan, number=7)},
        "encoding": {"encoding": bytes(32)},
        "words": {"words": made.plan.encoding.words() + 1},
        "noised": {"noised": 0},
    }


@pytest.mark.parametrize("field", ["model", "query", "encoding", "words", "noised"])
def test_a_header_that_says_something_else_is_refused(wired: Make, field: str) -> None:
    """By the name of the field; the next round is as if nothing had been."""
    made = wired()
    made.propose()
    made.lines.before = at_open(1, "b", lambda parcel: resigned(made, parcel, header=lies(made)[field]))

    outcome = made.round(1)

    assert f"other_query: the signed header names another {field}" in made.errors("b")
    assert sealed(made, 1) == set("acde")
    assert outcome.state.survivors == tuple("acde")
    assert made.round(2).state.survivors == tuple("abcde")


@pytest.mark.parametrize("field", ["model", "query", "encoding", "words", "noised"])
def test_without_the_comparison_of_a_field_its_lie_is_believed(
    wired: Make, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """The control, field by field: READY is signed for a header that says something else."""
    without(
        monkeypatch,
        door_module,
        "if getattr(header, name) != value]",
        f"if name != {field!r} and getattr(header, name) != value]",
    )
    made = wired()
    made.propose()
    made.lines.before = at_open(1, "abcde", lambda parcel: resigned(made, parcel, header=lies(made)[field]))
    made.lines.after = opened = Listening("open")
    made.round(1)

    assert opened.heard == ["ready"] * 5


def test_a_wrong_round_for_the_last_sum_is_refused_and_can_be_put_right(wired: Make) -> None:
    """`summed` names whose rotation the words have: another one would give another adapter."""
    made = wired()
    made.propose()
    made.round(1)
    made.lines.before = at_open(2, "b", lambda parcel: resigned(made, parcel, summed=2))

    outcome = made.round(2)

    assert outcome.state.survivors == tuple("acde")
    assert "other_query" in made.errors("b")
    assert made.round(3).state.survivors == tuple("abcde")


def test_without_the_comparison_a_wrong_round_is_believed(wired: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the copy goes wrong, and the coordinator's right adapter looks like a lie."""
    without(monkeypatch, follow_module, "if result.header.query != query_hash(self._plan, number=number):", "if False:")
    made = wired()
    made.propose()
    made.round(1)
    made.lines.before = at_open(2, "b", lambda parcel: resigned(made, parcel, summed=2))
    made.round(2)

    assert "other_query" not in made.errors("b")
    assert "wrong_adapter" in made.errors("b")


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
