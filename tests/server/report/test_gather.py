"""From plan, charter and journals to facts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from partsong.common.build import build, to_tree
from partsong.server.planning import epsilon_after
from partsong.server.report.facts import Facts, RoundFacts
from partsong.server.report.gather import facts_of
from partsong.server.report.hazards import hazards
from partsong.server.report.sources import Sources

Make = Callable[..., Sources]


def test_epsilon_is_that_of_all_rounds_that_were_opened(sources: Make) -> None:
    """Two rounds with a sum and one that was lost: three are spent, and a unit at two sites pays for six."""
    found = sources(opened_rounds=3)

    privacy = facts_of(found).privacy

    assert privacy is not None
    assert privacy.epsilon == epsilon_after(found.plan, 3)
    assert privacy.epsilon_at_two_sites == epsilon_after(found.plan, 6)
    assert privacy.steps == 3 * found.plan.training.steps_per_round
    assert privacy.epsilon > (epsilon_after(found.plan, 2) or 0)


def test_a_site_is_told_by_what_it_did(sources: Make, entry: Callable[..., RoundFacts]) -> None:
    """In one sum of two, its bytes, its word on the result; refused; and listed but never seen."""
    rounds = (entry(1), entry(2, sites=("bonn",), lost={"graz": "silent"}, bytes_out={"bonn": 70}))
    ending = dataclasses.replace(sources().ending, ledger_heads={"graz": "e" * 64})

    told = {s.site: s for s in facts_of(sources(rounds=rounds, refused={"graz": "policy"}, ending=ending)).sites}

    assert list(told) == ["bonn", "graz", "lyon"]
    assert (told["bonn"].sums, told["bonn"].bytes_out, told["bonn"].checked) == (2, 1070, True)
    assert (told["graz"].sums, told["graz"].refused, told["graz"].ledger_head) == (1, None, "e" * 64)
    assert (told["lyon"].checked, told["lyon"].ledger_head) == (False, None)


def test_a_refusal_stays_with_a_site_that_never_took_part(sources: Make, entry: Callable[..., RoundFacts]) -> None:
    """It is no contributor, and the code of its refusal stands."""
    found = facts_of(sources(rounds=(entry(1, sites=("bonn", "graz")),), refused={"lyon": "policy"}))

    assert [s.refused for s in found.sites] == [None, None, "policy"]
    assert found.contributors == ("bonn", "graz")


def test_facts_survive_the_strict_reader(facts: Facts, not_private: Facts) -> None:
    """Their tree builds the same value again."""
    for found in (facts, not_private):
        assert build(Facts, to_tree(found)) == found


@pytest.mark.parametrize(
    ("changes", "name", "covered"),
    [
        ({}, "the unit is smaller than a person", "no"),
        ({"unit": "patient", "contribution_bound": 2}, "the unit is smaller than a person", "yes"),
        ({}, "noise that its floating-point rounding gives away", "partly"),
        ({"noise": "discrete"}, "noise that its floating-point rounding gives away", "yes"),
    ],
)
def test_hazards_follow_from_the_plan(
    make_plan: Any, make_dp: Any, changes: dict[str, Any], name: str, covered: str
) -> None:
    """What is covered is said of this run, not of the software."""
    found = hazards(make_plan(dp=make_dp(**changes)), evaluated=False)

    assert {h.name: h.covered for h in found}[name] == covered


def test_without_privacy_no_hazard_of_noise_counts_as_covered(facts: Facts, not_private: Facts) -> None:
    """Nothing is said about noise that was not added, and single updates can be read."""
    told = {h.name: h.covered for h in not_private.hazards}

    assert told["no guarantee for anybody in the records"] == "no"
    assert told["the coordinator reads single updates"] == "no"
    assert told["scores on held-out records are released without noise"] == "no"
    assert "noise that can be predicted or replayed" not in told
    assert {h.name: h.covered for h in facts.hazards}["the coordinator reads single updates"] == "yes"


def test_a_site_is_counted_against_the_rounds_of_its_group(facts: Facts) -> None:
    """Six rounds of three groups: two of them asked a site, and a site that stands in no group was asked in none."""
    rounds = tuple(dataclasses.replace(facts.rounds[0], round=number) for number in range(1, 7))
    grouped = dataclasses.replace(
        facts, rounds=rounds, planned_rounds=6, groups=(("a", "b", "c"), ("d", "e", "f"), ("g", "h", "i"))
    )

    assert [entry.round for entry in grouped.rounds_of("e")] == [2, 5]
    assert grouped.rounds_of("z") == ()
    assert facts.rounds_of("z") == facts.rounds
    assert facts.privacy is not None
    assert grouped.planned_steps == 2 * facts.privacy.steps_per_round
