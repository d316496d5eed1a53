"""Medians over groups: what a poisoner and a lying coordinator would gain, each with its one defence removed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from partsong.client.encoders.canary import CanaryEncoder
from partsong.client.encoders.encoder import LocalRound, LocalUpdate
from partsong.client.secure_sum.masked_door import MaskedDoor
from partsong.client.secure_sum.spot_check import SpotCheck
from partsong.client.site import Site
from partsong.common import wire
from partsong.common.errors import RoundAborted
from partsong.common.groups import deal
from partsong.common.plan import Plan
from partsong.common.thresholds import Floors
from partsong.server.coordinator import RunNotStarted
from partsong.server.daemon.canary import make_canary
from partsong.server.run import Result
from partsong.simulations.dry_run import DryRun, DryTerms, expected_sum
from partsong.simulations.faults.script import Fault, Phase, Script, draw
from partsong.simulations.secure_sum import found

NAMES = tuple(f"site-{i}" for i in range(9))
FLOORS = Floors(minimum_cohort=3, minimum_honest=3, corrupt_tolerance=0)


class Poisoner(CanaryEncoder):
    """Gives the largest numbers that the seal lets through."""

    def encode(self, asked: LocalRound) -> LocalUpdate:
        update = super().encode(asked)
        return dataclasses.replace(update, update_P=np.full_like(update.update_P, 4.0))


def planned(*, grouped: bool, steps: int) -> Plan:
    """A canary's plan over nine sites, with a median over three groups or with the mean of all."""
    rounds = 3 * steps if grouped else steps
    plan = make_canary(run="groups", size=32, rounds=rounds, max_sites=9, minimum_cohort=3, seed=1)
    return dataclasses.replace(plan, groups=deal(NAMES, count=3, run="groups") if grouped else None)


def played(
    plan: Plan,
    folder: Path,
    *,
    poisoners: tuple[str, ...] = (),
    faults: tuple[Fault, ...] = (),
    told: list[str] | None = None,
    errors: list[str] | None = None,
) -> Result:
    """Play it over the whole protocol; note the kinds of all messages, and what sites refuse."""
    terms = DryTerms(
        plan=plan,
        names=NAMES,
        consortium=found(NAMES, floors=FLOORS),
        script=draw(Script(faults=faults), sites=NAMES, rounds=plan.rounds),
        encoder=lambda name: (Poisoner if name in poisoners else CanaryEncoder)(site=name),
    )
    run = DryRun(terms, folder, on_site_error=lambda site, err: None if errors is None else errors.append(str(err)))
    if told is not None:
        handle = Site.handle
        patch = pytest.MonkeyPatch()
        patch.setattr(Site, "handle", lambda self, h, **more: told.append(wire.kind_of(h)) or handle(self, h, **more))
    try:
        return run.run()
    finally:
        run.close()
        if told is not None:
            patch.undo()


def test_each_sum_is_of_one_group_and_the_adapter_follows_from_the_medians(tmp_path: Path) -> None:
    """Two steps over masked sums, against the sites' own numbers; all nine sign that the adapter is right."""
    plan = planned(grouped=True, steps=2)
    assert plan.groups is not None

    result = played(plan, tmp_path)

    assert [tuple(entry["sites"]) for entry in result.history] == [plan.groups.asked(n) for n in range(1, 7)]
    means = [expected_sum(plan, number=n, sites=plan.groups.asked(n)) / 3 for n in range(1, 7)]
    expected = np.median(means[:3], axis=0) + np.median(means[3:], axis=0)
    np.testing.assert_allclose(result.trained_P, expected, atol=1e-3)
    assert result.secure_sum is not None
    assert result.secure_sum.checked_by == NAMES
    assert result.secure_sum.smallest_sum == 3


def test_a_poisoner_in_one_group_moves_the_mean_and_not_the_median_past_the_honest_groups(tmp_path: Path) -> None:
    """Defence: the median. Without groups every coordinate goes where the poisoner wants; with two of three, too."""
    plan = planned(grouped=True, steps=1)
    assert plan.groups is not None
    bad, worse = plan.groups.sites[0][0], plan.groups.sites[1]
    honest = [expected_sum(plan, number=n, sites=plan.groups.asked(n)) / 3 for n in (2, 3)]

    moved = played(plan, tmp_path / "one", poisoners=plan.groups.sites[0]).trained_P
    owned = played(plan, tmp_path / "two", poisoners=(*plan.groups.sites[0], *worse)).trained_P
    bare = planned(grouped=False, steps=1)
    mean = played(bare, tmp_path / "mean", poisoners=(bad, *plan.groups.sites[0][1:])).trained_P

    assert (moved >= np.min(honest, axis=0) - 1e-3).all()
    assert (moved <= np.max(honest, axis=0) + 1e-3).all()
    np.testing.assert_allclose(owned, 4.0, atol=1e-3)
    others = [name for name in NAMES if name not in plan.groups.sites[0]]
    np.testing.assert_allclose(mean, (expected_sum(bare, number=1, sites=others) + 12.0) / 9, atol=1e-3)
    assert np.abs(mean - np.median(honest, axis=0)).mean() > np.abs(moved - np.median(honest, axis=0)).mean()


def test_a_step_without_one_of_its_groups_moves_nothing_and_asks_nobody_else(tmp_path: Path) -> None:
    """Sites that leave cannot turn the median of three into the mean of two; the third group does not pay for it."""
    plan = planned(grouped=True, steps=2)
    assert plan.groups is not None
    gone = Fault(kind="drop", sites=plan.groups.sites[1][:1], rounds=(2,), phases=("roster",))

    result = played(plan, tmp_path, faults=(gone,))

    assert {entry["round"]: bool(entry["sites"]) for entry in result.history} == {
        1: True, 2: False, 4: True, 5: True, 6: True,
    }  # fmt: skip
    means = [expected_sum(plan, number=n, sites=plan.groups.asked(n)) / 3 for n in (4, 5, 6)]
    np.testing.assert_allclose(result.trained_P, np.median(means, axis=0), atol=1e-3)


def test_a_run_without_a_single_step_publishes_nothing(tmp_path: Path) -> None:
    """The start would be called the adapter of the run, and everybody would sign that it follows from the sums."""
    plan = planned(grouped=True, steps=1)
    assert plan.groups is not None
    gone = Fault(kind="drop", sites=plan.groups.sites[2][:1], phases=("roster",))

    with pytest.raises(RoundAborted, match="no step had the sums of all groups"):
        played(plan, tmp_path, faults=(gone,))


@pytest.mark.parametrize("phase", ["propose", "begin"])
def test_no_round_is_asked_while_a_group_is_too_small_for_a_sum(tmp_path: Path, phase: Phase) -> None:
    """The other groups would pay for steps that cannot be taken. Keys are agreed on only where that can help."""
    plan, told = planned(grouped=True, steps=1), list[str]()
    assert plan.groups is not None
    away = Fault(kind="drop", sites=plan.groups.sites[1][:1], phases=(phase,))

    with pytest.raises(RunNotStarted, match="2 of the 3 sites of a group"):
        played(plan, tmp_path, faults=(away,), told=told)

    assert not (tmp_path / "opened.jsonl").exists()
    assert ("keys" in told) is (phase == "begin")


def test_a_site_is_given_each_result_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its own round those that it missed, at the end the rest; a second one it would refuse and log."""
    given, check = list[tuple[str, int]](), MaskedDoor.check

    def noted(self: MaskedDoor, result: wire.Result, note: bytes) -> bytes:
        given.append((self._name, result.summed))
        return check(self, result, note)

    monkeypatch.setattr(MaskedDoor, "check", noted)
    errors = list[str]()

    played(planned(grouped=True, steps=3), tmp_path, errors=errors)

    assert len(given) == len(set(given))
    assert errors == []


def test_as_many_sites_of_a_group_check_the_last_sum_as_of_a_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three on average, out of those that the round may ask: out of all nine only one would."""
    out_of, pick = list[int](), SpotCheck.pick

    def counted(self: SpotCheck, packed: bytes, *, members: int) -> None:
        out_of.append(members)
        pick(self, packed, members=members)

    monkeypatch.setattr(SpotCheck, "pick", counted)
    played(planned(grouped=True, steps=1), tmp_path / "grouped")
    grouped = out_of.copy()
    played(planned(grouped=False, steps=1), tmp_path / "control")

    assert (set(grouped), set(out_of[len(grouped) :])) == ({3}, {9})


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "control"])
def test_a_site_finds_its_own_word_in_the_results_that_are_sent_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, noted: bool
) -> None:
    """The result that comes with OPEN is another group's: a ledger that was put back would never be found out.

    Here every site has signed an entry that no ledger holds, as after that: from its second round on it refuses.
    """
    plan, seen = planned(grouped=True, steps=3), dict[int, list[bool]]()
    opening, check = MaskedDoor.open, MaskedDoor.check

    def heard(self: MaskedDoor, query: wire.Open, note: bytes) -> None:
        opening(self, query, note)
        seen.setdefault(query.round, []).append(self.witnessed() is not None)

    def deaf(self: MaskedDoor, result: wire.Result, note: bytes) -> bytes:
        before, said = self.witnessed(), check(self, result, note)
        self._witnessed = before
        return said

    ready = MaskedDoor.ready
    monkeypatch.setattr(MaskedDoor, "ready", lambda self, _ledger: ready(self, b"\x07" * 32))
    monkeypatch.setattr(MaskedDoor, "open", heard)
    if not noted:
        monkeypatch.setattr(MaskedDoor, "check", deaf)

    history = played(plan, tmp_path).history

    assert [number for number, found in seen.items() if any(found)] == ([4, 7] if noted else [])
    assert [entry["round"] for entry in history if entry["sites"]] == ([1, 2, 3] if noted else [*range(1, 10)])


def test_a_sum_with_a_site_of_another_group_is_not_built_upon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where every site of it has colluded: nobody else follows such a sum, and the coordinator's own run ends.

    Here the plan's groups are taken from whoever draws the cohort and seals, and left to whoever reads the sum.
    """
    plan = planned(grouped=True, steps=1)
    everybody = lambda _plan, _number, names: tuple(names)  # noqa: E731
    monkeypatch.setattr("partsong.server.coordinator.asked_in", everybody)
    monkeypatch.setattr("partsong.client.site.asked_in", everybody)

    with pytest.raises(RoundAborted):
        played(plan, tmp_path / "found-out")

    monkeypatch.setattr("partsong.common.secure_sum.opened.asked_in", everybody)
    assert played(plan, tmp_path / "control").history[0]["sites"] == list(NAMES)
