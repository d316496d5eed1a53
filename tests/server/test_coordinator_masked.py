"""The coordinator of a masked run: whatever one site does or fails to do costs that site alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wiring import Hand, Wired

from partsong.common import wire
from partsong.common.plan import Plan
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss

MakePlan = Callable[..., Plan]


Make = Callable[..., Wired]


def test_a_site_that_the_charter_does_not_list_is_not_enrolled(make_masked_plan: MakePlan, tmp_path: Path) -> None:
    """It has no key, so it could only pass on what others signed; the run is that of the listed ones."""
    plan = make_masked_plan()
    made = Wired(tmp_path, replace(plan, encoding=replace(plan.encoding, max_sites=6)))
    listed = made.names
    made.names = (*listed, "mallory")
    made.members["mallory"] = made.members["a"]
    made.hands["mallory"] = Hand(made, "mallory")
    notes: dict[str, bytes] = {}

    def relay(site: str, phase: str, answer: Parcel | Loss) -> Parcel | Loss:
        if phase != "keys" or not (isinstance(answer, Parcel) or site == "mallory"):
            return answer
        if site == "mallory":
            return Parcel(header=wire.encode(wire.Keyed(site=site, step="begin")), note=notes["a"])
        notes.setdefault(site, answer.note)
        return answer

    made.lines.after = relay

    sites = made.propose()

    assert sites == listed
    assert made.round(1).state.survivors == listed
    assert {phase for phase, site in made.lines.asked if site == "mallory"} == {"propose"}


def test_a_message_that_another_site_signed_loses_the_sender_alone(wired: Make) -> None:
    """In each phase `b` sends what `a` has signed: the round goes on without `b`, and the sum is exact."""
    for phase in ("open", "roster", "confirm", "unmask"):
        made = wired()
        made.propose()
        notes: dict[str, bytes] = {}

        def swap(site: str, kind: str, answer: Parcel | Loss, *, phase: str = phase, notes=notes) -> Parcel | Loss:
            if kind != phase or not isinstance(answer, Parcel):
                return answer
            notes[site] = answer.note
            return replace(answer, note=notes["a"]) if site == "b" else answer

        made.lines.after = swap
        outcome = made.round(1)

        assert outcome.state.lost == {"b": Loss.MALFORMED}
        assert outcome.state.survivors == (tuple("acde") if phase in ("open", "roster") else tuple("abcde"))
        assert made.is_exact(1)


@given(note=st.binary(max_size=60), phase=st.sampled_from(["keys", "open", "roster", "confirm", "unmask", "result"]))
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_noise_in_any_phase_loses_one_site(wired: Make, note: bytes, phase: str) -> None:
    """Whatever bytes a site puts beside a right header: the others' sums are exact, and their verdicts stand."""
    made = wired()

    def twist(site: str, kind: str, answer: Parcel | Loss) -> Parcel | Loss:
        return replace(answer, note=note) if (site, kind) == ("c", phase) and isinstance(answer, Parcel) else answer

    made.lines.after = twist
    made.propose()

    assert made.round(1).opened is not None
    assert made.is_exact(1)
    assert set("abde") <= set(made.close())


def test_a_restarted_site_is_asked_to_agree_again_and_takes_part(wired: Make) -> None:
    """Its plan was in memory: it misses one round, then has its keys and its copy back."""
    made = wired()
    made.propose()
    made.round(1)
    made.restart("b")

    outcomes = [made.round(2), made.round(3)]

    assert [o.state.survivors for o in outcomes] == [tuple("acde"), tuple("abcde")]
    assert outcomes[0].state.lost == {"b": Loss.REFUSED}
    assert made.close() == tuple("abcde")


def test_a_site_that_is_gone_costs_one_time_limit_a_round(wired: Make) -> None:
    """However many results it lacks, it is sent the first; the deadline of a round starts after that."""
    made = wired()
    made.propose()
    made.round(1)
    made.lines.before = lambda site, _phase, parcel: None if site == "d" else parcel
    for number in range(2, 6):
        made.round(number)
    made.lines.asked.clear()
    before = made.now

    outcome = made.round(6)

    assert [phase for phase, site in made.lines.asked if site == "d"] == ["result", "open"]
    assert made.now - before == 20.0
    assert outcome.state.survivors == tuple("abce")


@pytest.mark.parametrize("phase", ["open", "roster", "confirm", "unmask"])
def test_each_phase_waits_for_its_sites_as_long_as_the_job_says(wired: Make, phase: str) -> None:
    """A site that is silent in one phase costs the others that phase's limit, once; without it there is no wait."""
    made = wired()
    made.propose()
    made.lines.before = lambda site, now, parcel: None if (site, now) == ("b", phase) else parcel
    began_s = made.now

    outcome = made.round(1)

    assert outcome.state.lost == {"b": Loss.SILENT}
    assert made.now - began_s == 10.0
    made.lines.before = lambda _site, _now, parcel: parcel
    made.round(2)
    assert made.now - began_s == 10.0


def test_a_slow_catching_up_does_not_use_up_the_deadline(wired: Make) -> None:
    """Sites that take the results they lack slowly still find the round open."""
    made = wired()
    made.propose()
    made.round(1)
    made.lines.before = lambda site, phase, parcel: None if (site, phase) == ("b", "open") else parcel
    for number in (2, 3, 4, 5):
        made.round(number)

    def slow(_site: str, phase: str, parcel: Parcel) -> Parcel:
        made.now += 9.0 if phase == "result" else 0.0
        return parcel

    made.lines.before = slow

    assert made.round(6).state.survivors == tuple("abcde")


def test_below_the_floor_a_masked_round_ends_by_name_and_the_run_goes_on(wired: Make) -> None:
    """In each phase two of five are silent; the next round has everybody."""
    said = {
        "open": "3 sites ready, 4 needed", "roster": "3 sites reported, 4 needed",
        "confirm": "3 sites confirmed the survivors, 4 needed", "unmask": "found 2, expected 3",
    }  # fmt: skip
    made = wired()
    made.propose()
    for number, (phase, why) in enumerate(said.items(), start=1):
        made.lines.before = lambda site, kind, parcel, phase=phase: None if kind == phase and site in "bc" else parcel
        outcome = made.round(number)
        assert why in outcome.state.reason
        assert outcome.opened is None
    made.lines.before = lambda _site, _phase, parcel: parcel

    assert made.round(5).state.survivors == tuple("abcde")
    assert made.is_exact(5)


def test_verdicts_of_others_and_about_others_do_not_count(wired: Make) -> None:
    """A verdict that another site signed, one about another sum, noise, and a 0: none stands for its site."""
    made = wired()
    made.propose()
    made.round(1)
    made.close()
    (old,) = [p for p in [made.sums.closing(adapter_sha256="")] if p]
    earlier = made.hands["b"].door.check(wire.decode(old.header, wire.Result), old.note)
    made.round(2)
    notes: dict[str, bytes] = {}

    def twist(site: str, phase: str, answer: Parcel | Loss) -> Parcel | Loss:
        if phase != "result" or not isinstance(answer, Parcel):
            return answer
        notes[site] = answer.note
        return {
            "a": answer,
            "b": replace(answer, note=earlier),
            "c": replace(answer, note=notes["a"]),
            "d": replace(answer, note=b"noise"),
            "e": Parcel(header=wire.encode(wire.Checked(site="a")), note=answer.note),
        }[site]

    made.lines.after = twist

    assert made.close() == ("a",)
    made.lines.after = lambda _site, _phase, answer: answer
    made.state = replace(made.state, adapter_P=made.state.adapter_P + 1)
    assert made.close() == ()
