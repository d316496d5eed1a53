"""Coordinators that would open a sum with less noise in it than the plan counts on.

Each attack has a control: with the check gone, it goes through.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wiring import Wired

from partsong.client.rules.consent import NotAgreed
from partsong.client.secure_sum import masked_door as door_module
from partsong.client.secure_sum.masked_door import MaskedDoor
from partsong.common.config import TrainingConfig
from partsong.common.errors import Refused
from partsong.common.plan import Plan
from partsong.common.privacy.terms import SumNoise
from partsong.common.secure_sum import transcript
from partsong.common.secure_sum.messages import Header
from partsong.server.rounds import Loss
from partsong.server.secure_sum import masked_desk, masked_sums

Make = Callable[..., Wired]


@pytest.fixture
def made(tmp_path: Path, make_plan: Callable[..., Plan], make_dp: Callable[..., Any]) -> Make:
    """A federation whose noise counts on every one of its sites, which the charter's floors do not ask for."""

    def make(*, names: str = "abcde", minimum_sum: int = 5, colluders: int = 1) -> Wired:
        noise = SumNoise(minimum_sum=minimum_sum, colluders=colluders, expected_batch=10.0)
        plan = make_plan(
            masked=True,
            training=TrainingConfig(steps_per_round=1, optim="sgd"),
            dp=make_dp(noise="discrete", on_sum=noise, noise_multiplier=0.1, loss_noise_multiplier=0.1),
            encoding=dataclasses.replace(make_plan().encoding, max_sites=len(names)),
        )
        return Wired(tmp_path, plan, names=tuple(names))

    return make


def lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator signs headers that ask for no more than the floors, and goes on with four reports."""
    honest = masked_desk.header_of

    def lying(*args: Any, **more: Any) -> Header:
        return replace(honest(*args, **more), minimum_sum=0)

    monkeypatch.setattr(masked_sums, "header_of", lying)
    monkeypatch.setattr(masked_desk.MaskedDesk, "_fewest", lambda _self: 3)


def gone_after_ready(site: str) -> Callable[..., Any]:
    return lambda name, phase, parcel: None if (name, phase) == (site, "roster") else parcel


def shares_given(made: Wired) -> list[str]:
    """Sites that answered UNMASK with shares."""
    given: list[str] = []

    def note(site: str, phase: str, answer: Any) -> Any:
        if phase == "unmask" and not isinstance(answer, Loss):
            given.append(site)
        return answer

    made.lines.after = note
    return given


def test_with_all_sites_the_sum_has_the_plan_s_step_in_it(made: Make) -> None:
    """Nothing is wrong here: five vectors over the public batch, as a step of plain SGD, to nine deviations of noise."""
    run = made()
    run.propose()

    outcome = run.round(1)

    exact_P = sum(run.update_of(site, 1) for site in run.names)
    rate = run.plan.training.learning_rate
    assert outcome.opened is not None
    assert np.abs(outcome.opened.mean_P + rate * exact_P / 10.0).max() < 1.0 * rate / 10.0
    assert run.is_exact(1)


def test_a_header_that_asks_for_fewer_sites_than_the_plan_is_refused(
    made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No site trains for it, whatever the coordinator's signature says."""
    lowered(monkeypatch)
    run = made()
    run.propose()

    outcome = run.round(1)

    assert outcome.opened is None
    assert all("another minimum_sum" in run.errors(site) for site in run.names)
    assert not run.sealed


def test_without_that_check_four_sites_open_a_sum_that_is_short_of_noise(
    made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the same header, a site that drops out, and the four others give their shares."""
    lowered(monkeypatch)
    monkeypatch.setattr(door_module, "_require_header", lambda *_: None)
    run = made()
    run.propose()
    given = shares_given(run)
    run.lines.before = gone_after_ready("e")

    run.round(1)

    assert given == list("abcd")


def test_a_sum_short_of_noise_is_not_even_decoded(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line: whoever recomputes it, coordinator, site or verifier, finds too few sites in it."""
    lowered(monkeypatch)
    monkeypatch.setattr(door_module, "_require_header", lambda *_: None)
    run = made()
    run.propose()
    run.lines.before = gone_after_ready("e")

    outcome = run.round(1)

    assert outcome.opened is None
    assert "noise_floor" in outcome.state.reason


def test_fewer_survivors_than_the_noise_needs_are_not_confirmed(lab: Callable) -> None:
    """Four of five would do for the charter's floors; the signed header asks for five."""
    five = lab(5)
    five.header = replace(five.header, minimum_sum=5)
    five.up_to_reports(range(4))

    with pytest.raises(Refused, match="survivor_floor"):
        five.site(0).confirm(five.request(0, range(4)))


def test_without_the_floor_of_the_header_they_are(lab: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with the charter's floors alone the site signs."""
    five = lab(5)
    five.header = replace(five.header, minimum_sum=5)
    five.up_to_reports(range(4))
    checked = transcript.require_survivors
    monkeypatch.setattr(
        transcript, "require_survivors", lambda survivors, **given: checked(survivors, **given | {"minimum_sum": 0})
    )

    assert five.site(0).confirm(five.request(0, range(4)))


def test_the_run_of_a_round_with_a_site_missing_ends_without_a_sum(made: Make) -> None:
    """An honest coordinator: one site drops out after READY, nobody is asked to confirm, and what was sealed is gone."""
    run = made()
    run.propose()
    run.lines.before = gone_after_ready("e")

    outcome = run.round(1)

    assert outcome.opened is None
    assert "confirm" not in {phase for phase, _ in run.lines.asked}
    assert sorted(site for _, _, site in run.sealed) == list("abcd")


def test_noise_that_forgets_colluders_is_refused_with_the_plan(made: Make) -> None:
    """Seven sites, two of whom may be corrupt by their charter: a plan that counts on one is not agreed to."""
    short, right = made(names="abcdefg", minimum_sum=6, colluders=1), made(names="abcdefg", minimum_sum=6, colluders=2)

    with pytest.raises(NotAgreed, match="1 colluding sites know in part, 2 reckoned with"):
        short.hands["a"].door.agree(short.plan, np.zeros(8, np.float32))
    right.hands["a"].door.agree(right.plan, np.zeros(8, np.float32))


def test_without_that_check_the_site_would_follow_the_plan(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: nothing else looks at the number."""
    monkeypatch.setattr(MaskedDoor, "_require_shares", lambda *_: None)
    short = made(names="abcdefg", minimum_sum=6, colluders=1)

    short.hands["a"].door.agree(short.plan, np.zeros(8, np.float32))

    assert len(short.propose()) == 7


def test_a_charter_with_weights_is_no_place_for_equal_shares(made: Make) -> None:
    """A weight of a half would halve a site's share of the noise, or its records' part in the sum."""
    run = made()
    door = run.hands["a"].door
    weighed = replace(run.members["a"].charter, weights=(1, 2, 1, 1, 1))
    door._member = replace(run.members["a"], charter=weighed)

    with pytest.raises(NotAgreed, match="weighs its sites"):
        door.agree(run.plan, np.zeros(8, np.float32))
