"""Sweeps: which runs they are made of, that they go on where they stopped, and the table that they end with."""

import importlib.util
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from partsong.common.errors import ConfigError, DataError
from partsong.simulations.cli import app
from partsong.simulations.sweep.choices import grid, read_choices
from partsong.simulations.sweep.folder import Asked, SweepFolder, Trial
from partsong.simulations.sweep.plots import can_plot, plot
from partsong.simulations.sweep.proposals import proposals_of
from partsong.simulations.sweep.sweep import last_loss, sweep
from partsong.simulations.sweep.table import read_table, write_table
from partsong.simulations.sweep.tracking import require_tracker, track

FIXTURES = Path(__file__).parents[2] / "fixtures"
QUIET = Console(quiet=True)


def usual(prompts: Path) -> list[str]:
    """Overrides of a run of one quick round."""
    return [
        "model=local", f"model.source={FIXTURES / 'tiny-llama'}", "model.threads=1", "data=local",
        f"data.path={prompts}", "data.max_length=48", "partition.kind=iid", "sites=3", "rounds=1",
        "training.steps_per_round=1", "privacy=none", "privacy.sampling_rate=0.4", "secure_sum=off",
    ]  # fmt: skip


def test_values_are_combined_as_hydra_combines_them() -> None:
    """The last key changes fastest; lists and quoted commas are one value."""
    choices = read_choices(["a=1,2", "b=x", "c=choice(u,v)", "d=[1,2]", "e=range(1,3)"])

    points = grid(choices)

    assert choices.fixed == ("b=x", "d=[1,2]")
    assert points[:3] == [
        {"a": "1", "c": "u", "e": "1"},
        {"a": "1", "c": "u", "e": "2"},
        {"a": "1", "c": "v", "e": "1"},
    ]
    assert len(points) == 8


@settings(deadline=None)
@given(counts=st.lists(st.integers(2, 4), min_size=1, max_size=3))
def test_a_grid_holds_every_combination_once(counts: list[int]) -> None:
    """As many as the product of the counts, no two alike."""
    overrides = [f"k{i}={','.join(map(str, range(count)))}" for i, count in enumerate(counts)]

    points = [tuple(point.values()) for point in grid(read_choices(overrides))]

    expected = 1
    for count in counts:
        expected *= count
    assert len(points) == len(set(points)) == expected


@pytest.mark.parametrize(
    ("overrides", "words"),
    [(["a=1"], "several"), (["a=[1"], "parse"), ([], "several"), (["a=interval(0,1)"], "--trials")],
)
def test_what_is_no_sweep_is_refused(overrides: list[str], words: str) -> None:
    """Nothing swept, not Hydra's syntax, and an interval without a number of trials."""
    with pytest.raises(ConfigError, match=words):
        grid(read_choices(overrides))


def test_a_sweep_goes_on_where_it_stopped_and_its_table_has_a_row_for_each_round(tmp_path: Path, prompts: Path) -> None:
    """A trial that is done is not played again, one that was begun is resumed from its directory."""
    asked = Asked(overrides=(*usual(prompts), "seed=1,2"), trials=None)
    folder = SweepFolder.create(tmp_path / "sweep", asked)
    whole = sweep(folder, asked, console=QUIET)
    first = (folder.runs / str(whole[0].run) / "adapter").stat().st_mtime_ns
    folder.note(Trial(number=1, state="begun", values=whole[1].values))
    reopened, same = SweepFolder.reopen(folder.path)

    again = sweep(reopened, same, console=QUIET)

    assert same == asked
    assert again == whole
    assert [trial.values for trial in whole.values()] == [{"seed": "1"}, {"seed": "2"}]
    assert (folder.runs / str(whole[0].run) / "adapter").stat().st_mtime_ns == first
    assert len(list(folder.runs.iterdir())) == 2
    rows = read_table(write_table(folder))
    assert [(row["trial"], row["round"], row["swept:seed"]) for row in rows] == [(0, 1, "1"), (1, 1, "2")]
    assert rows[0]["federation_loss"] == whole[0].loss == last_loss(folder.runs / str(whole[0].run))
    assert rows[0]["sites"] == 3


def test_a_trial_that_fails_stands_in_the_table_and_the_others_are_played(tmp_path: Path, prompts: Path) -> None:
    """A learning rate that diverges is a result."""
    asked = Asked(
        overrides=(*usual(prompts), "training.learning_rate=1e-3", "optimizer.learning_rate=1e45,1"), trials=None
    )
    folder = SweepFolder.create(tmp_path / "sweep", asked)

    found = sweep(folder, asked, console=QUIET)

    assert [trial.state for trial in found.values()] == ["failed", "done"]
    assert "not finite" in found[0].reason
    assert {row["state"] for row in read_table(folder.table)} == {"failed", "done"}


def test_the_command_needs_one_folder(tmp_path: Path, prompts: Path) -> None:
    """One that exists is not written into, and one that is no sweep is not gone on with."""
    (tmp_path / "taken").mkdir()
    one = [*usual(prompts), "seed=1,2"]

    both = ["--out", str(tmp_path / "new"), "--resume", str(tmp_path)]

    assert CliRunner().invoke(app, ["sweep", *one, *both]).exit_code == 2
    assert CliRunner().invoke(app, ["sweep", "--resume", str(tmp_path), "a=1"]).exit_code == 2
    assert isinstance(CliRunner().invoke(app, ["sweep", *one, "--out", str(tmp_path / "taken")]).exception, ConfigError)
    assert isinstance(CliRunner().invoke(app, ["sweep", "--resume", str(tmp_path)]).exception, DataError)


def test_the_command_plays_every_trial_and_prints_the_table(tmp_path: Path, prompts: Path) -> None:
    """As one JSON object; a sweep that is done is only printed again."""
    asked = ["sweep", *usual(prompts), "seed=1,2", "--out", str(tmp_path / "new"), "--json"]

    first = json.loads(CliRunner().invoke(app, asked).stdout)
    again = json.loads(CliRunner().invoke(app, ["sweep", "--resume", str(tmp_path / "new"), "--json"]).stdout)

    assert [trial["state"] for trial in first["trials"]] == ["done", "done"]
    assert again == first
    assert Path(first["table"]).is_file()


def rows_of(trials: int) -> list[dict[str, object]]:
    """A made-up table."""
    return [
        {
            "trial": trial, "state": "done", "run": "r", "round": number, "sites": 3, "epsilon": None,
            "federation_loss": 3.0 - trial - number / 10, "held_out_loss": None, "held_out_exact": None,
            "update_norm": 1.0, "bytes_out": 5, "seconds": 0.1, "swept:adapter.r": str(4 * trial),
        }
        for trial in range(trials)
        for number in (1, 2)
    ]  # fmt: skip


@pytest.mark.skipif(not can_plot(), reason="matplotlib is not installed: pip install partsong[plots]")
def test_each_swept_key_has_a_picture(tmp_path: Path) -> None:
    """And the curves of all trials are one."""
    files = plot(rows_of(3), tmp_path / "plots")

    assert [file.name for file in files] == ["loss.svg", "loss-by-adapter.r.svg"]
    assert all(b"<svg" in file.read_bytes() for file in files)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_tracker_gets_the_table_or_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """Its files lie beside the table; nothing is sent."""
    if importlib.util.find_spec(name) is None:
        with pytest.raises(ConfigError, match=r"partsong\[tracking\]"):
            require_tracker(name)
        return

    out = track(name, rows_of(2), tmp_path)

    assert any(file.is_file() for file in out.rglob("*"))


@pytest.mark.skipif(importlib.util.find_spec("optuna") is not None, reason="Optuna is installed")
def test_draws_without_optuna_are_refused_by_name() -> None:
    """The remedy names the extra."""
    with pytest.raises(ConfigError, match=r"partsong\[sweeps\]"):
        proposals_of(read_choices(["a=1,2"]), trials=3, seed=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="Optuna is not installed: partsong[sweeps]")
def test_draws_lie_in_their_ranges_and_are_repeatable() -> None:
    """Also after a resume, which knows nothing but the trials before."""
    choices = read_choices(["a=1,2", "b=tag(log, interval(1e-4, 1e-1))", "c=int(interval(1, 9))"])
    before: dict[int, Trial] = {}
    for number in range(12):
        values = proposals_of(choices, trials=12, seed=3).next(number, before)
        assert values == proposals_of(choices, trials=12, seed=3).next(number, before)
        assert values["a"] in ("1", "2")
        assert 1e-4 <= float(values["b"]) <= 1e-1
        assert 1 <= int(values["c"]) <= 9
        before[number] = Trial(number=number, state="done", values=values, loss=float(values["b"]))
