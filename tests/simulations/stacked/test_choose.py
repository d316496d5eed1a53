"""Whole runs with stacked sites: the numbers of unstacked ones, whatever else is on; or a refusal by name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from partsong.common import events
from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError
from partsong.simulations.federation import Federation, Result, Stopped
from partsong.simulations.marks import marks
from partsong.simulations.prepare import prepare
from partsong.simulations.run_dir import RunDir
from partsong.simulations.simulate import resume

Configure = Callable[..., SimulationConfig]
Play = Callable[..., Result]
SMALL = ("sites=5", "partition.kind=quantity", "training.optim=sgd", "evaluate_every=0")
NEAR = 1e-3
"""Of what was learned: words are rounded at random, and a word that falls the other way is one step off."""


def assert_same(found: Result, expected: Result) -> None:
    """Equal sums in equal rounds, but for rounding."""
    assert [entry["sites"] for entry in found.history] == [entry["sites"] for entry in expected.history]
    assert np.linalg.norm(expected.trained_P) > 0
    assert np.linalg.norm(found.trained_P - expected.trained_P) <= NEAR * np.linalg.norm(expected.trained_P)


@pytest.mark.parametrize(
    "mode",
    [
        ("secure_sum=off", "engine.stacked=5"),
        ("secure_sum=sum-only", "engine.stacked=2"),
        ("secure_sum=full", "engine.stacked=3", "drop=[site-2@1:report,site-4@2:train]"),
        pytest.param(
            ("secure_sum=full", "engine.stacked=2", "engine.workers=2", "drop=[site-1@2:confirm]"),
            marks=pytest.mark.nightly,
        ),
    ],
    ids=lambda mode: " ".join(mode[:3]),
)
def test_a_run_ends_with_the_numbers_of_an_unstacked_one(play: Play, mode: tuple[str, ...]) -> None:
    """With masks or without, with sites that drop out, in one process or several."""
    usual = [key for key in mode if not key.startswith("engine.")]

    stacked = play(*SMALL, *mode)

    assert_same(stacked, play(*SMALL, *usual))


def test_a_stacked_run_is_repeatable_and_tells_every_step(play: Play) -> None:
    """Who trains with whom follows from the configuration."""
    seen = list[tuple[str, int, int]]()

    def listen(event: events.Event) -> None:
        if isinstance(event, events.SiteProgress):
            seen.append((event.site, event.round, event.step))

    first = play(*SMALL, "secure_sum=off", "engine.stacked=3", listen=listen)
    again = play(*SMALL, "secure_sum=off", "engine.stacked=3")

    assert first.trained_P.tobytes() == again.trained_P.tobytes()
    assert sorted(seen) == sorted((f"site-{i}", r, s) for i in range(1, 6) for r in (1, 2) for s in (1, 2))


def test_a_stacked_run_that_was_stopped_goes_on(configured: Configure, play: Play) -> None:
    """From its last round, to the same numbers."""
    config = configured(*SMALL, "secure_sum=off", "engine.stacked=3")
    run = RunDir.create(config, marks=marks(config))

    def stop(event: events.Event) -> None:
        if isinstance(event, events.SiteProgress) and event.round == 2:
            raise Stopped

    with pytest.raises(Stopped):
        Federation(prepare(config), run, listen=stop).run()

    assert_same(resume(run.path, console=Console(quiet=True)).result, play(*SMALL, "secure_sum=off"))


@pytest.mark.parametrize(
    ("key", "overrides"),
    [
        ("privacy.mode", ("privacy=dp", "privacy.epsilon=20", "privacy.delta=1e-2", "seed=null")),
        ("purpose", ("purpose=survey",)),
        ("vote.mode", ("vote.mode=holdout",)),
        ("adapter.method", ("adapter.method=hlora",)),
    ],
)
def test_what_cannot_be_stacked_is_refused_by_its_key(
    configured: Configure, tmp_path: Path, key: str, overrides: tuple[str, ...]
) -> None:
    """With the remedy, as wrong configuration, and before there is a run directory's plan."""
    config = configured("secure_sum=full", "engine.stacked=2", *overrides)

    with pytest.raises(ConfigError, match=rf"{key}.*engine\.stacked=1") as refused:
        Federation(prepare(config), RunDir.create(config, marks=()))

    assert refused.value.exit_code == 2
    assert not list((tmp_path / "runs").rglob("plan.json"))


@pytest.mark.parametrize("wrong", ["engine.stacked=0", "engine.stacked=1001"])
def test_a_number_of_sites_that_cannot_be_is_refused(configured: Configure, wrong: str) -> None:
    """Fewer than one, and more than anyone has memory for."""
    with pytest.raises(ConfigError, match="stacked"):
        configured(wrong)
