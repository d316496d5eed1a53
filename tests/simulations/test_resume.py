"""A run that was stopped at any point goes on as if nothing had happened, or says what was lost."""

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from partsong.common import events
from partsong.common.config import SimulationConfig
from partsong.common.errors import DataError
from partsong.server.planning import epsilon_after
from partsong.simulations.federation import Federation, Result
from partsong.simulations.marks import marks
from partsong.simulations.prepare import prepare
from partsong.simulations.run_dir import RunDir
from partsong.simulations.simulate import resume

Configure = Callable[..., SimulationConfig]
Play = Callable[..., Result]

POINTS = (
    (events.RoundOpened, 1),
    (events.RoundSummed, 1),
    (events.RoundOpened, 2),
    (events.SiteProgress, 2),
    (events.SiteReady, 2),
    (events.SiteReported, 2),
    (events.RoundSummed, 2),
    (events.RoundOpened, 3),
    (events.RoundSummed, 3),
)
AT_NIGHT = POINTS[1:3] + POINTS[7:]
"""Like the others of their kind, in another round."""
PRIVATE = ("privacy=dp", "seed=null", "privacy.epsilon=3", "privacy.delta=1e-3", "rounds=3")


class Killed(BaseException):
    """Stands for a kill: nothing of the product may catch it."""


def stopped(config: SimulationConfig, kind: type[events.Event], number: int) -> RunDir:
    """Run until a certain event, then no further."""

    def listen(event: events.Event) -> None:
        if isinstance(event, kind) and event.round == number:
            raise Killed

    run = RunDir.create(config, marks=marks(config))
    with pytest.raises(Killed):
        Federation(prepare(config), run, listen=listen).run()
    return run


def resumed(run: RunDir) -> tuple[Result, str]:
    """Resume as the command does, and hand over what it said."""
    said = io.StringIO()
    return resume(run.path, console=Console(file=said)).result, said.getvalue()


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        pytest.param(k, n, id=f"{k.__name__}-{n}", marks=[pytest.mark.nightly] if (k, n) in AT_NIGHT else [])
        for k, n in POINTS
    ],
)
def test_a_seeded_run_ends_with_the_adapter_of_an_unbroken_one(
    configured: Configure, play: Play, kind: type[events.Event], number: int
) -> None:
    """Bit for bit, wherever it was stopped; with an optimizer that remembers."""
    shape = ("rounds=3", "optimizer.name=fedavgm", "optimizer.momentum=0.5")
    run = stopped(configured(*shape), kind, number)

    result, _ = resumed(run)

    unbroken = play(*shape)
    assert result.trained_P.tobytes() == unbroken.trained_P.tobytes()
    assert [entry["round"] for entry in result.history] == [1, 2, 3]
    assert [json.loads(line)["round"] for line in run.metrics.read_text().splitlines()] == [1, 2, 3]


def test_the_comparison_notices_a_round_that_is_missing(play: Play) -> None:
    """A control: two rounds and three rounds end differently."""
    assert not np.array_equal(play("rounds=2").trained_P, play("rounds=3").trained_P)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("kind", [events.RoundOpened, events.SiteReported], ids=["opened", "reported"])
def test_under_privacy_a_round_in_flight_is_spent_and_named(
    configured: Configure, kind: type[events.Event], number: int
) -> None:
    """It is not asked again, it stands in history and report, and epsilon counts it, also when it was the last."""
    run = stopped(configured(*PRIVATE), kind, number)

    result, said = resumed(run)

    lost = next(entry for entry in result.history if entry["round"] == number)
    assert [entry["round"] for entry in result.history] == [1, 2, 3]
    assert lost["sites"] == []
    assert lost["reason"] in run.report.read_text()
    assert lost["reason"] in said
    assert f"round {number}: lost" in lost["reason"]
    assert result.epsilon == epsilon_after(result.plan, 3)
    assert result.epsilon is not None
    assert result.epsilon <= 3


def test_without_privacy_and_seed_an_interrupted_round_is_asked_again(configured: Configure) -> None:
    """As its second attempt; nothing was spent, so nothing is lost."""
    run = stopped(configured("seed=null", "rounds=3"), events.SiteReady, 2)

    result, _ = resumed(run)

    assert [len(entry["sites"]) for entry in result.history] == [3, 3, 3]
    opened = [json.loads(line) for line in (run.path / "opened.jsonl").read_text().splitlines()]
    assert [(line["round"], line["attempt"]) for line in opened] == [(1, 1), (2, 1), (2, 2), (3, 1)]


def test_epsilon_without_the_lost_round_would_be_less(configured: Configure) -> None:
    """A control: leaving the last round out of the account would show."""
    plan = resumed(stopped(configured(*PRIVATE), events.RoundOpened, 3))[0].plan

    two, three = epsilon_after(plan, 2), epsilon_after(plan, 3)
    assert two is not None
    assert three is not None
    assert two < three


def test_two_kills_lose_two_rounds(configured: Configure) -> None:
    """Each is named; a third start loses nothing more."""
    config = configured(*PRIVATE)
    run = stopped(config, events.RoundOpened, 1)

    def listen(event: events.Event) -> None:
        if isinstance(event, events.RoundOpened):
            raise Killed

    with pytest.raises(Killed):
        Federation(prepare(config), run, listen=listen).run()

    first, _ = resumed(run)
    again, _ = resumed(run)
    assert [entry["sites"] for entry in first.history[:2]] == [[], []]
    assert len(first.history[2]["sites"]) == 3
    assert again.history == first.history
    assert again.epsilon == first.epsilon


def test_a_finished_run_is_published_again_and_not_trained(configured: Configure) -> None:
    """Resume after the end changes no byte of the adapter and opens no round."""
    config = configured()
    run = RunDir.create(config, marks=())
    Federation(prepare(config), run).run()
    opened = (run.path / "opened.jsonl").read_bytes()

    first, _ = resumed(run)
    adapter = (run.adapter / "adapter_model.safetensors").read_bytes()
    second, said = resumed(run)

    assert first.trained_P.tobytes() == second.trained_P.tobytes()
    assert (run.adapter / "adapter_model.safetensors").read_bytes() == adapter
    assert (run.path / "opened.jsonl").read_bytes() == opened
    assert "trained, local loss" not in said


def test_a_directory_may_be_moved_between_kill_and_resume(configured: Configure, play: Play, tmp_path: Path) -> None:
    """Its name in the plan stays, so the sites know the rounds they answered."""
    run = stopped(configured(*PRIVATE), events.RoundOpened, 2)
    before = json.loads(run.plan.read_text())

    moved = RunDir(run.path.rename(tmp_path / "elsewhere"))

    result, _ = resumed(moved)
    assert moved.name == before["run"] == result.plan.run


def test_a_damaged_checkpoint_is_not_resumed_from(configured: Configure) -> None:
    """One flipped bit stops the resume by name."""
    run = stopped(configured(), events.RoundOpened, 2)
    file = run.path / "checkpoint" / "round-0001.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)

    with pytest.raises(DataError, match="a damaged file"):
        resumed(run)


def test_a_damaged_configuration_is_not_resumed_from(configured: Configure) -> None:
    """A key that nobody knows stops the resume by name."""
    config = configured()
    run = RunDir.create(config, marks=())
    file = run.path / "config.yaml"
    file.write_text(file.read_text().replace("rounds:", "roundz:"))

    with pytest.raises(DataError, match=r"config\.yaml: found a damaged configuration .*did you mean 'rounds'"):
        resumed(run)


def test_a_resumed_run_keeps_its_configuration(configured: Configure) -> None:
    """What was written is what is read, value by value."""
    config = configured("adapter.peft.use_rslora=true", "drop=['site-1@1']", "study='a b'")
    run = RunDir.create(config, marks=())

    again, read = RunDir.reopen(run.path)

    assert read == config
    assert again.name == run.name
    assert dataclasses.asdict(read)["adapter"]["peft"] == {"use_rslora": True}


@pytest.mark.parametrize("back", [True, False], ids=["put back", "left alone"])
def test_a_ledger_that_was_put_back_stops_its_site(configured: Configure, tmp_path: Path, *, back: bool) -> None:
    """The site finds its own signed word about a later entry in the last sum; the control keeps its ledger."""
    config = configured(*PRIVATE, "rounds=4", "sites=5")
    run = RunDir.create(config, marks=())
    ledger, copy = run.site_folder("site-2") / "ledger.sqlite", tmp_path / "backup.sqlite"

    def listen(event: events.Event) -> None:
        if isinstance(event, events.RoundOpened) and event.round == 2:
            copy.write_bytes(ledger.read_bytes())
        if isinstance(event, events.RoundOpened) and event.round == 3:
            raise Killed

    with pytest.raises(Killed):
        Federation(prepare(config), run, listen=listen).run()
    if back:
        ledger.write_bytes(copy.read_bytes())

    result, said = resumed(run)

    assert ("site-2" in result.history[-1]["sites"]) is not back
    assert ("ledger_rolled_back" in said) is back
    assert len(result.history[-1]["sites"]) == (4 if back else 5)
