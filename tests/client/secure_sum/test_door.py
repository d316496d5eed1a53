"""What a site sends, takes and refuses under the secure sum, message by message."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from wiring import Before, Hand, Killed, Lines, Wired

from partsong.client.rules.consent import NotAgreed, Rules
from partsong.client.secure_sum.door import PlainDoor
from partsong.client.secure_sum.site_state import Stage
from partsong.common import wire
from partsong.common.adapters.adapter import digest
from partsong.common.codec import pack, unpack
from partsong.common.errors import Refused, WireError
from partsong.common.plan import Plan
from partsong.common.secure_sum.messages import Begin, Header, Open, sign
from partsong.common.secure_sum.opened import model_hash
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss

Make = Callable[..., Wired]


def begin(made: Wired, plan: Plan, *, attempt: int = 1, signer: object = None) -> bytes:
    """BEGIN of a set-up for a plan."""
    message = Begin(charter=made.trust.charter.hash, run=bytes.fromhex(plan.sha256), attempt=attempt)
    return pack(sign(message, signer or made.trust.signer))


def agree_on(made: Wired, plan: Plan, *, before: Before | None = None) -> None:
    """Let all sites follow another plan of the same coordinator and set up keys for it."""
    other = Wired.__new__(Wired)
    other.__dict__.update(made.__dict__)
    other.plan, other.folder = plan, made.folder / plan.run
    other.lines = Lines(other)
    if before is not None:
        other.lines.before = before
    other.start()
    other.propose()


def refused(made: Wired, site: str) -> str:
    """The rule of the last refusal at a site."""
    last = made.hands[site].errors[-1]
    assert isinstance(last, Refused)
    return last.rule


def test_keys_are_taken_up_again_for_their_plan_alone(wired: Make) -> None:
    """After a restart a site goes on with the plan that the keys are for; for another one it has none."""
    made = wired()
    made.play(to=1)
    other = replace(made.plan, run="another")

    same, strange = made.restart("a"), made.restart("b")
    same._propose(made.plan)
    strange._propose(other)

    assert same.door._sum is not None
    assert strange.door._sum is None
    with pytest.raises(NotAgreed, match="no keys were set up for this plan"):
        strange.door.ready(bytes(32))


@pytest.mark.parametrize("step", ["pair", "reveal", "finish"])
def test_a_step_of_set_up_without_its_beginning_is_refused(wired: Make, step: wire.KeyStep) -> None:
    """By name, and nothing is kept."""
    made = wired()
    hand = made.hands["a"]
    hand._propose(made.plan)

    with pytest.raises(NotAgreed, match="no set-up was begun here"):
        hand.door.keys(step, b"x")
    assert made.vaults["a"].records == {}


def test_nothing_is_done_without_a_plan(wired: Make) -> None:
    """Neither set-up nor a round."""
    door = wired().hands["a"].door

    with pytest.raises(NotAgreed, match="no plan was accepted here"):
        door.keys("begin", b"x")
    with pytest.raises(NotAgreed, match="no plan was accepted here"):
        door.open(wire.Open(plan_sha256="x", round=1, attempt=1, adapter_sha256="", summed=0), b"x")
    with pytest.raises(NotAgreed, match="no keys were set up"):
        door.unmask(b"x")


def test_set_up_may_be_repeated_until_a_round_is_opened(wired: Make) -> None:
    """The coordinator lost what set-up ended with: the sites agree on keys again, and the run goes on."""
    made = wired()
    made.propose()
    (made.folder / "coordinator" / "run.json").unlink()
    made.start()

    made.play(to=1)

    assert made.is_exact(1)
    assert len(made.checked) == 5


def test_once_a_round_was_opened_there_is_no_second_set_up(wired: Make) -> None:
    """It would forget the history that this site holds the coordinator to."""
    made = wired()
    made.play(to=1)
    before = dict(made.vaults["a"].records)

    with pytest.raises(Refused, match="keys_in_use"):
        made.hands["a"].door.keys("begin", begin(made, made.plan))

    assert made.vaults["a"].records == before


def test_a_begin_that_is_not_the_coordinators_changes_nothing(wired: Make) -> None:
    """Forged or of another plan: the keys that were set up stay in use."""
    made = wired()
    made.propose()
    door = made.hands["a"].door

    with pytest.raises(WireError, match="no valid signature"):
        door.keys("begin", begin(made, made.plan, signer=made.consortium.identities[0]))
    with pytest.raises(WireError, match="another plan's"):
        door.keys("begin", begin(made, replace(made.plan, run="another")))

    assert made.round(1).opened is not None
    assert made.outcomes[1].state.survivors == ("a", "b", "c", "d", "e")


def test_a_plan_whose_keys_were_replaced_gets_no_new_ones(wired: Make) -> None:
    """Another run in between does not make a site forget that it had a history under this plan."""
    made = wired()
    made.play(to=1)
    agree_on(made, replace(made.plan, run="another"))
    hand = made.hands["a"]
    hand._propose(made.plan)

    with pytest.raises(NotAgreed, match="no keys were set up"):
        hand.door.ready(bytes(32))
    with pytest.raises(Refused, match="keys_in_use"):
        hand.door.keys("begin", begin(made, made.plan))


def test_another_run_between_two_starts_leaves_the_copy_of_the_adapter(wired: Make) -> None:
    """A proposal alone, without keys, does not cost the first plan what was checked under it."""
    made = wired()
    made.play(to=2)
    for hand in made.hands.values():
        hand._propose(replace(made.plan, run="another"))

    made.resume()
    made.play(to=4)

    assert made.is_exact(4)
    assert len(made.checked) == 5


@pytest.mark.parametrize("write", range(1, 7))
def test_a_crash_in_the_last_step_of_set_up_never_puts_keys_under_another_plan(wired: Make, write: int) -> None:
    """Killed before each write: a plan has its own keys, or none, and the one before gets no second set-up."""
    made = wired()
    made.play(to=1)
    other = replace(made.plan, run="another")

    def dying(site: str, phase: str, parcel: Parcel) -> Parcel:
        if site == "a" and phase == "keys" and wire.decode(parcel.header, wire.Keys).step == "finish":
            made.vaults["a"].dies_at = (made.vaults["a"].writes + write, False)
        return parcel

    agree_on(made, other, before=dying)
    hand = made.restart("a")
    hand._propose(made.plan)

    if hand.door._sum is not None:
        # Killed before anything of the new set-up was written: the first run goes on.
        assert hand.door._sum.stage is not Stage.IDLE
    with pytest.raises(Refused, match="keys_in_use"):
        hand.door.keys("begin", begin(made, made.plan))


def test_a_wrong_adapter_costs_the_coordinator_this_site_for_the_whole_run(wired: Make) -> None:
    """One lie to one site: it says nothing in that round, nor in any that builds on it."""
    made = wired()
    made.propose()
    made.round(1)
    lie = np.full(8, 0.5, np.float32)

    def twist(site: str, phase: str, parcel: Parcel) -> Parcel:
        if (site, phase) == ("a", "open") and wire.decode(parcel.header, wire.Open).round == 2:
            return lied_to(made, parcel, lie)
        return parcel

    made.lines.before = twist
    for number in (2, 3, 4):
        made.round(number)

    assert [made.outcomes[n].state.survivors for n in (1, 2, 3, 4)] == [tuple("abcde"), *[tuple("bcde")] * 3]
    assert made.outcomes[2].state.lost == {"a": Loss.REFUSED}
    assert "wrong_adapter" in made.errors("a")
    assert made.close() == tuple("bcde")


def lied_to(made: Wired, parcel: Parcel, adapter_P: np.ndarray) -> Parcel:
    """The same OPEN with another adapter, signed as it has to be."""
    opened = unpack(Open, parcel.note)
    header = replace(unpack(Header, opened.header.body), model=model_hash(digest(adapter_P)))
    note = pack(replace(opened, header=sign(header, made.trust.signer)))
    query = replace(wire.decode(parcel.header, wire.Open), adapter_sha256=digest(adapter_P))
    return Parcel(header=wire.encode(query), vector=wire.vector_bytes(adapter_P), note=note)


def test_a_site_that_missed_rounds_is_caught_up_in_order(wired: Make) -> None:
    """One, two or many: it then takes part again, and its verdict is that of the others."""
    for missed in (1, 2, 5):
        made = wired()
        made.propose()
        made.round(1)
        made.lines.before = lambda site, phase, parcel: None if (site, phase) == ("b", "open") else parcel
        for number in range(2, 2 + missed):
            made.round(number)
        made.lines.before = lambda _site, _phase, parcel: parcel

        back = made.round(2 + missed)

        assert back.state.survivors == tuple("abcde")
        assert made.is_exact(2 + missed)
        assert made.close() == tuple("abcde")


def test_a_sum_out_of_order_is_refused_and_can_be_caught_up_later(wired: Make) -> None:
    """A site without results 1 and 2 refuses the third by name, keeps its state, and takes all of them in order."""
    made = wired()
    made.propose()
    made.lines.before = lambda site, _phase, parcel: None if site == "b" else parcel
    for number in (1, 2, 3):
        made.round(number)
    hand = made.hands["b"]
    results = made.journal.results()

    def result(number: int, adapter: str = "") -> bytes:
        header = wire.Result(plan_sha256=made.plan.sha256, summed=number, adapter_sha256=adapter)
        return hand.door.check(header, made.journal.read(results[number - 1]))

    before = dict(made.vaults["b"].records)
    with pytest.raises(Refused, match="missing_result"):
        result(3)
    assert made.vaults["b"].records == before
    assert all(result(number) for number in (1, 2, 3))
    made.lines.before = lambda _site, _phase, parcel: parcel

    assert made.round(4).state.survivors == tuple("abcde")


def test_an_open_over_a_gap_is_refused_before_anything_is_taken(wired: Make) -> None:
    """The result that rides in OPEN does not follow the site's own: vault and copy stay as they are."""
    made = wired()
    made.propose()
    made.lines.before = lambda site, _phase, parcel: None if site == "b" else parcel
    made.round(1)
    made.round(2)
    before = dict(made.vaults["b"].records)
    made.lines.before = lambda site, phase, parcel: None if (site, phase) == ("b", "result") else parcel

    outcome = made.round(3)

    assert outcome.state.survivors == tuple("acde")
    assert refused(made, "b") == "missing_result"
    assert made.vaults["b"].records == before


def test_an_answer_that_was_lost_is_not_given_for_another_roster(wired: Make) -> None:
    """A site enters one roster per round: a second one finds nothing to seal, at the door as well."""
    made = wired()
    made.propose()
    seen: list[Parcel] = []
    made.lines.before = lambda site, phase, parcel: seen.append(parcel) or parcel if phase == "roster" else parcel
    made.round(1)
    door = made.hands["a"].door
    roster = wire.decode(seen[0].header, wire.Roster)

    with pytest.raises(Refused, match="stage"):
        door.enter(roster, seen[0].note, b"")


def test_names_other_than_the_signed_ones_seal_nothing(wired: Make) -> None:
    """Fewer, more, repeated or other names beside the right signed roster."""
    made = wired()
    made.propose()
    tried: list[str] = []

    def twist(site: str, phase: str, parcel: Parcel) -> Parcel:
        if (site, phase) != ("a", "roster"):
            return parcel
        roster = wire.decode(parcel.header, wire.Roster)
        door = made.hands["a"].door
        for sites in ((*"abcd",), (*"abcdef",), (*"abcdf",), (*"abcdee",), ()):
            with pytest.raises(WireError, match="other names"):
                door.enter(replace(roster, sites=sites), parcel.note, b"")
            tried.append("".join(sites))
        return parcel

    made.lines.before = twist

    assert made.round(1).state.survivors == tuple("abcde")
    assert len(tried) == 5


def test_the_plain_door_takes_its_floor_and_nothing_of_the_secure_sum(make_plan: Callable[..., Plan]) -> None:
    """Words leave as they are; every step of the protocol is refused by name."""
    door = PlainDoor(name="a", rules=Rules(minimum_cohort=3))
    plan = make_plan()
    door.agree(plan, np.zeros(8, np.float32))
    roster = wire.Roster(plan_sha256=plan.sha256, round=1, attempt=1, sites=("a", "b", "c"))

    door.enter(roster, b"", b"")

    words_W = np.arange(5, dtype=np.uint64)
    assert door.report(words_W) == (words_W.tobytes(), b"")
    with pytest.raises(NotAgreed, match="2 sites in a roster of 2, at least 3 needed"):
        door.enter(replace(roster, sites=("a", "b")), b"", b"")
    with pytest.raises(NotAgreed, match="not in it"):
        door.enter(replace(roster, sites=("b", "c", "d")), b"", b"")
    for step in (door.confirm, door.unmask):
        with pytest.raises(NotAgreed, match="without a secure sum"):
            step(b"x")


def test_the_harness_is_a_site_that_can_be_killed(wired: Make) -> None:
    """A control: the vault's fault injection reaches the process."""
    made = wired()
    made.vaults["a"].dies_at = (1, False)
    hand: Hand = made.hands["a"]
    hand._propose(made.plan)

    with pytest.raises(Killed):
        hand.door.keys("begin", begin(made, made.plan))
