"""Two plans at the same sites: one trains or waits for its window, and the other's round goes to its end."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from partsong.client.daemon.turns import Turns
from partsong.client.encoders.encoder import LocalRound
from partsong.client.encoders.lazy import LazyLora
from partsong.client.rules.policy import AdapterLimits, DataFloor, HoldingPolicy, Policy, PrivacyFloor, PurposePolicy
from partsong.common import config
from partsong.common.plan import Plan

BASE = Path(__file__).parents[1] / "fixtures" / "tiny-llama"
DP = {"mode": "dp", "epsilon": 8.0, "delta": 1e-3, "sampling_rate": 0.2, "noise_multiplier": 1.5}
WINDOW = "22:14-22:30"
"""Opens two seconds after the run was proposed; a round that waits longer has passed its deadline."""
BEFORE_S = 1_700_000_038.0


@pytest.fixture(params=[True, False], ids=["aside", "in one queue"])
def goes_aside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The control takes the stepping aside away."""
    if not request.param:
        monkeypatch.setattr(Turns, "aside", lambda _self: contextlib.nullcontext())
    return bool(request.param)


class Held:
    """Where somebody is held up until the test lets them go on."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()

    def pass_by(self) -> None:
        self.reached.set()
        assert self.go.wait(120)


@pytest.fixture
def held() -> Held:
    """One such place."""
    return Held()


@pytest.fixture
def training(fleet: Any, make_host: Callable[..., Any], make_site_plan: Callable[..., Plan]) -> Callable[..., Any]:
    """Have five sites train the tiny base; gives the run, proposed and not begun."""

    def begin(**site: Any) -> Any:
        host = make_host()
        fleet.policy = Policy(
            holdings={"records": HoldingPolicy(epsilon=20.0, delta=1e-3)},
            purposes={"train": PurposePolicy(approval="auto")},
            privacy=PrivacyFloor(max_epsilon=8.0, max_delta=1e-3),
            data=DataFloor(minimum_cohort=3, minimum_records=20, minimum_patients=5),
            adapter=AdapterLimits(bases=(host.files.sha256,), target_modules=("q_proj", "v_proj"), max_r=2),
        )
        fleet.let_train(fleet, base=BASE, **site)
        plan = make_site_plan(
            host, privacy=DP, sites=5, rounds=1, data=config.DataConfig(max_length=64, unit_field="patient"),
            training=config.TrainingConfig(steps_per_round=1), secure_sum=config.SecureSumConfig(field_bits=32),
        )  # fmt: skip
        run = fleet.run(plan, host.take(trained=False), host.take())
        run.propose()
        return run

    return begin


def played_beside(fleet: Any, run: Any, held: Held, *, before: Callable[[], None], waits: bool) -> Any:
    """Play a canary while a round of `run` is held up; then let that go on to its end."""
    canary = fleet.canary(rounds=1)
    with ThreadPoolExecutor(2) as pool:
        round_: Future[Any] = pool.submit(run.round, 1)
        assert held.reached.wait(60)
        played: Future[Any] = pool.submit(canary.play)
        try:
            if waits:
                assert not threading.Event().wait(0.5)
                assert not played.done()
            else:
                assert len(played.result(60)) == 5
                assert not round_.done()
        finally:
            before()
            held.go.set()
        round_.result(60)
        assert len(played.result(60)) == 5
    assert canary.is_exact(1)
    return canary


def test_a_plan_that_trains_keeps_no_other_plan_waiting(
    training: Callable[..., Any], fleet: Any, held: Held, monkeypatch: pytest.MonkeyPatch, *, goes_aside: bool
) -> None:
    """The first site is in the middle of its training; the canary's five sites answer, and then the round has all five."""
    run = training()
    encode, first = LazyLora.encode, []

    def held_up(encoder: LazyLora, asked: LocalRound) -> Any:
        if not first:
            first.append(encoder)
            held.pass_by()
        return encode(encoder, asked)

    monkeypatch.setattr(LazyLora, "encode", held_up)

    played_beside(fleet, run, held, before=lambda: None, waits=not goes_aside)

    assert run.survivors(1) == ("a", "b", "c", "d", "e")
    assert fleet.sites["a"].ledger.state(f"{run.plan.sha256}:1:1") == "committed"


def test_a_plan_outside_of_its_window_keeps_no_other_plan_waiting(
    training: Callable[..., Any], fleet: Any, held: Held, *, goes_aside: bool
) -> None:
    """All windows are closed; the canary needs none. When they open, the query that waited is answered."""
    waits = []

    def wait(_stop: threading.Event, seconds: float) -> None:
        waits.append(seconds)
        held.pass_by()

    fleet.now = BEFORE_S
    for site in fleet.sites.values():
        site.more = {"wait": wait, "zone": UTC}
    run = training(training_windows=(WINDOW,))

    def open_windows() -> None:
        fleet.now += 2

    played_beside(fleet, run, held, before=open_windows, waits=not goes_aside)

    assert run.survivors(1) == ("a", "b", "c", "d", "e")
    assert waits == [2.0]
