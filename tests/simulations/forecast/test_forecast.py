"""A forecast of a run beside the run."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError, DataError, Refused
from partsong.simulations.cli import app
from partsong.simulations.forecast.compare import compare
from partsong.simulations.forecast.forecast import Forecast, forecast, loss_range
from partsong.simulations.resources import Resources, keep_resources, kept_resources
from partsong.simulations.simulate import simulate

Configure = Callable[..., SimulationConfig]


def test_a_forecast_has_the_epsilon_and_the_bytes_of_the_run_that_follows(configured: Configure, prompts: Path) -> None:
    """Both are exact; time and memory of the two are beside each other, with the error."""
    config = configured(
        "privacy=dp", "privacy.noise_multiplier=3", "privacy.epsilon=20", "privacy.delta=1e-2", "seed=null", "rounds=4", "evaluate_every=2",
        "training.steps_per_round=1", f"data.held_out={prompts}", "evaluate_limit=4",
    )  # fmt: skip

    found = forecast(config, rounds=2)
    done = simulate(config, console=Console(quiet=True))
    lines = {line.name: line for line in compare(found, done.run.path)}

    assert found.measured_rounds == 2
    assert lines["epsilon"].error == pytest.approx(0, abs=1e-9)
    assert found.epsilon == pytest.approx(done.result.epsilon)
    assert lines["bytes_out"].error == pytest.approx(0, abs=0.01)
    assert all(lines[name].real and lines[name].forecast for name in ("round_s", "wall_s", "peak_mb"))
    assert found.held_out_loss is not None
    assert found.held_out_loss[0] <= found.held_out_loss[1]
    with pytest.raises(DataError, match="4 rounds"):
        compare(dataclasses.replace(found, rounds=5), done.run.path)


def test_a_forecast_of_records_that_may_be_private_is_refused_before_they_are_read(tmp_path: Path) -> None:
    """The file does not even exist."""
    asked = ["forecast", "model=local", f"model.source={tmp_path}", "data=local", f"data.path={tmp_path / 'none'}"]

    refused = CliRunner().invoke(app, asked)

    assert isinstance(refused.exception, Refused)
    assert refused.exception.rule == "private_records_in_forecast"


def test_the_command_prints_the_forecast_of_a_run_beside_it(configured: Configure) -> None:
    """As one JSON object and as lines."""
    config = configured("training.steps_per_round=1", "evaluate_every=0", "secure_sum=off")
    run = str(simulate(config, console=Console(quiet=True)).run.path)

    said = CliRunner().invoke(app, ["forecast", "--compare", run, "--records", "synthetic", "--json"])

    facts = json.loads(said.stdout)
    assert {line["name"] for line in facts["compared"]} >= {"epsilon", "bytes_out", "round_s", "wall_s", "peak_mb"}
    assert facts["epsilon"] is None


def test_scripted_faults_are_refused(configured: Configure) -> None:
    """A script names rounds that the short run does not have."""
    with pytest.raises(ConfigError, match="faults"):
        forecast(configured("drop=[site-1@2]"))


@settings(deadline=None)
@given(
    losses=st.lists(st.floats(0, 10), min_size=2, max_size=6),
    rounds=st.integers(6, 500),
)
def test_the_range_of_the_loss_is_one(losses: list[float], rounds: int) -> None:
    """Low is never above high, high is the last loss seen, and no loss is below zero."""
    found = loss_range(losses, rounds=rounds)

    assert found is not None
    assert 0 <= found[0] <= found[1] == losses[-1]


def test_a_loss_that_falls_as_one_over_the_round_is_extrapolated_exactly() -> None:
    """By hand: 3 - H_t / 2 after round 2 ends at 3 - H_4 / 2."""
    low, high = loss_range([3.0, 2.5, 2.25], rounds=4) or (0.0, 0.0)

    assert high == 2.25
    assert low == pytest.approx(3 - (1 + 1 / 2 + 1 / 3 + 1 / 4) / 2)
    assert loss_range([3.0], rounds=4) is None


def test_resources_are_read_as_they_were_kept(tmp_path: Path) -> None:
    """And a folder without them says so."""
    taken = Resources(wall_s=1.5, peak_mb=200.0)

    keep_resources(tmp_path, taken)

    assert kept_resources(tmp_path) == taken
    assert kept_resources(tmp_path / "other") is None


def test_an_error_without_a_real_figure_is_unknown(tmp_path: Path) -> None:
    """A run that was resumed has noted neither time nor memory."""
    entry = {"round": 1, "seconds": 2.0, "epsilon": None, "bytes_out": {"a": 10}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(entry) + "\n")
    found = Forecast(
        rounds=1, measured_rounds=1, sites=1, epsilon=None, noise_multiplier=None, bytes_out_per_site=11,
        bytes_out=11, round_s=1.0, wall_s=3.0, peak_mb=9.0, held_out_loss=None,
    )  # fmt: skip

    lines = {line.name: line for line in compare(found, tmp_path)}

    assert lines["bytes_out"].error == pytest.approx(0.1)
    assert lines["round_s"].error == pytest.approx(-0.5)
    assert lines["wall_s"].error is None
    assert lines["epsilon"].error is None
