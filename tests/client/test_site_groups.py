"""A site whose plan has groups: it answers in the rounds of its own, and in no sum over two."""

import dataclasses

import pytest
from site_bench import PRIVATE, MakeBench, code

from partsong.common.groups import Groups

GROUPS = Groups(sites=(("east", "north", "west"), ("a", "b", "c"), ("d", "e", "f")))


@pytest.mark.parametrize("groups", [GROUPS, None], ids=["groups", "control"])
def test_a_site_is_not_asked_in_the_round_of_another_group(make_bench: MakeBench, groups: Groups | None) -> None:
    """A coordinator that asks a site thrice for one step has its update thrice; refused before a record is read."""
    bench = make_bench()
    bench.plan = dataclasses.replace(bench.plan, rounds=6, groups=groups)
    bench.propose()

    second = code(bench.open(2))

    assert second == ("ready" if groups is None else "plan")
    assert (bench.journal_at_first_step is None) is (groups is not None)
    assert code(bench.open(3 if groups is None else 1)) == "ready"


@pytest.mark.parametrize("groups", [GROUPS, None], ids=["groups", "control"])
def test_a_roster_over_two_groups_gets_nothing(make_bench: MakeBench, groups: Groups | None) -> None:
    """A poisoner beside the honest sites of every group would be in every mean."""
    bench = make_bench()
    bench.plan = dataclasses.replace(bench.plan, rounds=6, groups=groups)
    bench.propose()
    bench.open(1)

    assert code(bench.roster(sites=("a", "east", "north"))) == ("report" if groups is None else "plan")


def test_a_site_answers_as_many_rounds_as_its_group_has(make_bench: MakeBench) -> None:
    """One of three steps' rounds each, and the ledger has no more: another attempt would be one too many."""
    bench = make_bench(privacy=PRIVATE)
    bench.plan = dataclasses.replace(bench.plan, rounds=3, groups=GROUPS)
    bench.propose()

    answers = [code(bench.open(1)), code(bench.roster()), code(bench.open(1, 2))]

    assert answers == ["ready", "report", "budget"]
