"""A script of faults is read strictly, drawn from its seed, and written so that it can be carried out again."""

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.errors import ConfigError
from partsong.simulations.faults.script import (
    IN_ROUND,
    Fault,
    Kind,
    Phase,
    Script,
    draw,
    parse_drop,
    phase_named,
    read_script,
    write_script,
)

SITES = ("trauma", "a@b", "c:d")
RULES = st.builds(
    Fault,
    kind=st.sampled_from([kind for kind in get_args(Kind) if kind != "cut"]),
    sites=st.sets(st.sampled_from(SITES)).map(lambda s: tuple(sorted(s))),
    rounds=st.sets(st.integers(1, 3)).map(lambda s: tuple(sorted(s))),
    phases=st.sets(st.sampled_from(get_args(Phase))).map(lambda s: tuple(sorted(s))),
    rate=st.floats(0, 1),
    seconds=st.floats(0, 100),
    spread=st.floats(0, 2),
)


@pytest.mark.parametrize(
    ("text", "site", "number", "phase"),
    [
        ("trauma@3", "trauma", 3, "roster"),
        ("trauma@3:report", "trauma", 3, "roster"),
        ("trauma@1:train", "trauma", 1, "open"),
        ("a@b@2:train", "a@b", 2, "open"),
        ("c:d@2", "c:d", 2, "roster"),
        ("c:d@2:unmask", "c:d", 2, "unmask"),
    ],
)
def test_a_drop_names_site_round_and_phase(text: str, site: str, number: int, phase: Phase) -> None:
    """After READY where no phase is given; a site's name may hold the signs."""
    expected = Fault(kind="drop", sites=(site,), rounds=(number,), phases=(phase,))
    assert parse_drop(text, sites=SITES, rounds=3) == expected


@pytest.mark.parametrize(
    "text",
    ["", "trauma", "trauma@", "trauma@0", "trauma@4", "trauma@x", "trauma@1:tarin", "burns@1", "@1", "trauma@-1"],
)
def test_a_drop_that_would_never_happen_is_refused(text: str) -> None:
    """A typing error must not give a run without the fault."""
    with pytest.raises(ConfigError, match="drop: found"):
        parse_drop(text, sites=SITES, rounds=3)


@given(rules=st.lists(RULES, max_size=3), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_what_was_drawn_replays_itself(rules: list[Fault], seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Equal seeds draw equal faults; written down and read back they are drawn as they are."""
    rules_of_seed = Script(faults=tuple(rules), seed=seed)
    drawn = draw(rules_of_seed, sites=SITES, rounds=3)

    folder = tmp_path_factory.mktemp("script")
    write_script(drawn, folder)
    again = read_script(folder / "faults.yaml")
    assert again == drawn == draw(rules_of_seed, sites=SITES, rounds=3) == draw(again, sites=SITES, rounds=3)


def test_a_rate_is_kept_for_each_site_round_and_phase() -> None:
    """Of 4000 chances at 5 % about 200; another seed, other faults."""
    names = tuple(f"s{i}" for i in range(100))
    rule = Fault(kind="drop", rate=0.05)

    found = draw(Script(faults=(rule,), seed=1), sites=names, rounds=10).faults
    assert 150 < len(found) < 250
    assert {fault.phases[0] for fault in found} == set(IN_ROUND)
    assert found != draw(Script(faults=(rule,), seed=2), sites=names, rounds=10).faults


def test_a_cut_lasts_from_its_phase_to_the_end_of_its_last_round() -> None:
    """In the first round from the phase on, in the later ones from the beginning; results do not pass either."""
    cut = Fault(kind="cut", sites=("trauma",), rounds=(2, 3), phases=("confirm",))
    drawn = draw(Script(faults=(cut,)), sites=SITES, rounds=4).faults

    assert {fault.kind for fault in drawn} == {"drop"}
    assert [(f.rounds[0], f.phases[0]) for f in drawn] == [
        (2, "confirm"), (2, "unmask"), (2, "result"), (3, "open"), (3, "roster"), (3, "confirm"), (3, "unmask"),
        (3, "result"),
    ]  # fmt: skip


def test_delays_come_from_a_distribution_or_a_trace() -> None:
    """About half of a lognormal's draws are above its median; a trace gives its own values only."""
    names = tuple(f"s{i}" for i in range(200))
    spread = Fault(kind="delay", seconds=10.0, spread=1.0, phases=("open",), rounds=(1,))
    traced = Fault(kind="delay", trace=(1.0, 7.0), phases=("open",), rounds=(1,))

    drawn = draw(Script(faults=(spread, traced)), sites=names, rounds=1).faults
    above = sum(fault.seconds > 10 for fault in drawn[:200])
    assert 70 < above < 130
    assert {fault.seconds for fault in drawn[200:]} == {1.0, 7.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("faults: [{kind: dorp}]", "did you mean 'drop'"),
        ("faults: [{kind: drop, rate: 2}]", "rate between 0 and 1"),
        ("faults: [{kind: delay, seconds: -1}]", "delays and their spread of 0 or more"),
        ("faults: [{kind: cut, sites: [a]}]", "rounds with a cut"),
        ("faults: [{kind: drop, phase: [open]}]", "did you mean 'faults\\[0\\].phases'"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """With its place and what was expected."""
    (tmp_path / "faults.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_script(tmp_path / "faults.yaml")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(kind="drop", sites=("burns",)), "found site 'burns', expected one of"),
        (Fault(kind="drop", rounds=(9,)), "found round 9, expected a round from 1 to 3"),
    ],
)
def test_a_fault_that_would_never_happen_is_refused(fault: Fault, words: str) -> None:
    """As for a drop."""
    with pytest.raises(ConfigError, match=words):
        draw(Script(faults=(fault,)), sites=SITES, rounds=3)


def test_a_kind_of_message_without_a_phase_is_left_alone() -> None:
    """Offers and publications are outside of rounds."""
    assert phase_named("offer") is None
    assert phase_named("open") == "open"
