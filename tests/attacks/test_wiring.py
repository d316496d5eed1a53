"""A coordinator that lies in the messages around the protocol about adapters, history and queries.

Each attack on a site has a control: with the check deleted from the source it goes through.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from lies import Listening, another_adapter, at_open, reset, resigned, sealed, through_another_plan, without
from wiring import Wired

from partsong.client.secure_sum import follow as follow_module
from partsong.client.secure_sum import masked_door as door_module
from partsong.common import wire
from partsong.common.adapters.adapter import digest
from partsong.common.codec import pack, unpack
from partsong.common.secure_sum.messages import (
    Header,
    Open,
    sign,
)
from partsong.common.secure_sum.opened import model_hash, query_hash
from partsong.server.exchange import Parcel

Make = Callable[..., Wired]


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
    check = "and query.adapter_sha256 == self._follower.sha256_of_query(number=query.round)"
    without(monkeypatch, door_module, check, "")
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
