"""`partsong study generation` from its lineup to its page."""

import datetime as dt
import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from partsong.common.config import ModelConfig
from partsong.common.errors import ConfigError, DataError
from partsong.simulations.cli import app
from partsong.simulations.generation import command
from partsong.simulations.generation.lineup import LINEUPS, Cell, settings_of
from partsong.simulations.generation.pairs import made_up
from partsong.simulations.generation.play import Bench, play
from partsong.simulations.studies.cell_config import configuration
from partsong.simulations.studies.settings import LANGUAGE_MODEL, compose_study

TINY = Path(__file__).parents[2] / "fixtures" / "tiny-llama"


def settings(folder: Path, *more: str) -> list[str]:
    return [f"base={TINY}", "threads=1", f"work_dir={folder / 'work'}", f"out={folder / 'pages'}", *more]


def test_the_smoke_lineup_ends_in_a_page_and_is_played_once(tmp_path: Path) -> None:
    """Base, joint, pooled and three own models; whoever trains reads the answers better than the base.

    The second time nothing is played, and the page is the same.
    """
    said = io.StringIO()
    config = compose_study(settings(tmp_path, "grid=smoke"))

    def study() -> dict[str, object]:
        return command.study(config, console=Console(file=said), today=lambda: dt.date(2026, 1, 2), clock=lambda: 0.0)

    facts = study()

    assert (facts["cells"], facts["failed"], facts["empty"]) == (6, 0, 0)
    kept = {}
    for file in (tmp_path / "work" / "generation" / "smoke").glob("*.json"):
        kept[file.name.split(".")[0]] = json.loads(file.read_text())["outcome"]
    assert all(kept["base_seed0"]["loss"] > outcome["loss"] for name, outcome in kept.items() if "base" not in name)
    assert {name for name, outcome in kept.items() if outcome["bytes_per_site"]} == {"federated_seed0"}
    page = Path(str(facts["page"]))
    assert page.name == "2026-01-02-generation-smoke.md"
    first = page.read_text()
    assert "a smoke test" in first
    loss = kept["federated_seed0"]["loss"]
    assert f"| federated | 1 of 1 | {loss:.3f} | {math.exp(loss):.2f} |" in first
    assert "**not swept**" in first
    assert said.getvalue().count("ROUGE-L") == 6
    assert study() == facts
    assert said.getvalue().count("ROUGE-L") == 6
    assert page.read_text() == first


def test_the_loss_is_that_of_tokens_and_adds_up_over_sites(tmp_path: Path) -> None:
    """Of pairs whose answers are equally long, the whole is the mean of the sites' kinds; a second seed is another A."""
    lineup = LINEUPS["smoke"]
    bench = Bench(
        lineup=lineup,
        pairs=made_up(train=lineup.train, test=lineup.test),
        model=ModelConfig(source=str(TINY), threads=1),
        scratch=tmp_path,
    )

    base, again = (play(Cell(arm="base", seed=seed), bench) for seed in (0, 1))

    assert base.loss == pytest.approx(sum(base.loss_by_site.values()) / 3, rel=0.05)
    assert min(base.loss_by_site.values()) < base.loss < max(base.loss_by_site.values())
    assert (again.loss, again.rouge_by_site) == (base.loss, base.rouge_by_site)  # nothing was trained
    assert (base.visits, base.bytes_per_site) == (0, None)


def test_a_run_that_diverges_is_an_outcome(tmp_path: Path) -> None:
    """With its reason; the page lists it and has no number for it."""
    lineup = LINEUPS["smoke"]
    wild = Bench(
        lineup=type(lineup)(**{name: getattr(lineup, name) for name in lineup.__slots__} | {"learning_rate": 1e30}),
        pairs=made_up(train=lineup.train, test=lineup.test),
        model=ModelConfig(source=str(TINY), threads=1),
        scratch=tmp_path,
    )

    found = play(Cell(arm="federated", seed=0), wild)

    assert found.loss is None
    assert found.failed


def test_cells_that_were_not_played_stay_empty(tmp_path: Path) -> None:
    """From the command line, as JSON; the page says so, and a name that no cell has is refused."""
    ended = CliRunner().invoke(app, ["study", "generation", *settings(tmp_path, "grid=smoke", "only=[base]"), "--json"])

    assert ended.exit_code == 0, ended.output
    facts = json.loads(ended.stdout)
    assert (facts["cells"], facts["empty"]) == (6, 5)
    text = Path(facts["page"]).read_text()
    assert "1 of 6 cells were run." in text
    assert "The grid is not complete" in text
    assert "| federated | 0 of 1 |  |  |  |  |  |" in text
    odd = compose_study(settings(tmp_path, "grid=smoke", "only=[nothing]"))
    with pytest.raises(ConfigError, match="a part of a cell's name"):
        command.study(odd, console=Console(quiet=True))


@pytest.mark.parametrize(
    ("more", "error"),
    [((), ConfigError), (("data_dir=nowhere",), DataError), (("grid=smoke", "data_dir=x"), ConfigError)],
)
def test_data_that_do_not_fit_stop_the_study_before_it_begins(
    tmp_path: Path, more: tuple[str, ...], error: type[Exception]
) -> None:
    """None named, none there, or some although they are made up: no page, no folder."""
    with pytest.raises(error, match=r"data_dir|medquad"):
        command.study(compose_study(settings(tmp_path, *more)), console=Console(quiet=True))

    assert not list(tmp_path.iterdir())


def test_the_cpu_edition_is_the_declared_one() -> None:
    """Six hundred pairs in all, 128 tokens, one seed; its base is the language model."""
    lineup = LINEUPS["cpu"]

    assert len(lineup.sites) * (lineup.train + lineup.test) == 600
    assert (lineup.max_length, lineup.seeds) == (128, (0,))
    assert compose_study([], base=LANGUAGE_MODEL).base == LANGUAGE_MODEL
    assert compose_study(["base=x"], base=LANGUAGE_MODEL).base == "x"


@pytest.mark.parametrize("grid", ["full", "cpu", "smoke"])
def test_compared_models_take_the_same_steps(grid: str) -> None:
    """Rounds, steps and sampling rate; each with its own cohort; no two cells share a name."""
    lineup = LINEUPS[grid]
    cells = lineup.cells()

    configs = [configuration(settings_of(cell, lineup, model=ModelConfig(source="x"))) for cell in cells]

    assert len({(c.rounds, c.training.steps_per_round, c.privacy.sampling_rate) for c in configs}) == 1
    assert {(c.secure_sum.mode, c.cohort.minimum) for c in configs} == {("sum-only", 3), ("off", 1)}
    assert len({cell.key for cell in cells}) == len(cells)
