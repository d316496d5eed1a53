"""`partsong study poisoning` from its lineup to its page."""

import datetime as dt
import io
from pathlib import Path

import pytest
from rich.console import Console

from partsong.common.errors import ConfigError
from partsong.simulations.poisoning import command
from partsong.simulations.poisoning.lineup import ATTACKS, LINEUPS
from partsong.simulations.studies.settings import compose_study

TINY = Path(__file__).parents[2] / "fixtures" / "tiny-bert"


def settings(folder: Path, *more: str) -> list[str]:
    return [f"base={TINY}", "threads=1", f"work_dir={folder / 'work'}", f"out={folder / 'pages'}", *more]


def test_the_smoke_lineup_ends_in_a_page_and_is_played_once(tmp_path: Path) -> None:
    """Three cells on made-up records; the second time nothing is played, and the page is the same."""
    said = io.StringIO()
    config = compose_study(settings(tmp_path, "grid=smoke"))

    def study() -> dict[str, object]:
        return command.study(config, console=Console(file=said), today=lambda: dt.date(2026, 1, 2), clock=lambda: 0.0)

    facts = study()

    assert (facts["cells"], facts["failed"], facts["empty"]) == (3, 0, 0)
    page = Path(str(facts["page"]))
    assert page.name == "2026-01-02-poisoning-smoke.md"
    first = page.read_text()
    assert "a smoke test" in first
    assert "| turns its update round, 30-fold | clip and votes | 0." in first
    assert said.getvalue().count("accuracy") == 3
    assert study() == facts
    assert said.getvalue().count("accuracy") == 3
    assert page.read_text() == first


def test_cells_that_were_not_played_stay_empty(tmp_path: Path) -> None:
    """The page says so, with the command that played the others; a name that no cell has is refused."""
    config = compose_study(settings(tmp_path, "grid=smoke", "only=[nobody]"))

    facts = command.study(config, console=Console(quiet=True), today=lambda: dt.date(2026, 1, 2))

    assert (facts["cells"], facts["empty"]) == (3, 2)
    page = Path(str(facts["page"])).read_text()
    assert "1 of 3 cells were run.** The grid is not complete" in page.replace(" **The", "** The")
    assert "only=[nobody]" in page
    odd = compose_study(settings(tmp_path, "grid=smoke", "only=[nothing]"))
    with pytest.raises(ConfigError, match="a part of a cell's name"):
        command.study(odd, console=Console(quiet=True))


def test_absent_data_stop_the_study_before_it_begins(tmp_path: Path) -> None:
    """No page, no folder."""
    with pytest.raises(ConfigError, match="banking77/"):
        command.study(compose_study(settings(tmp_path)), console=Console(quiet=True))

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("grid", ["full", "cpu"])
def test_every_attack_is_played_with_something_against_it(grid: str) -> None:
    """At one of five and two of ten, three seeds; no two cells share a name."""
    cells = LINEUPS[grid].cells()

    assert len({cell.key for cell in cells}) == len(cells)
    assert {cell.attack for cell in cells} == set(ATTACKS)
    assert {cell.cohort.name for cell in cells} == {"1of5", "2of10"}
    assert {cell.seed for cell in cells} == {0, 1, 2}
    assert {cell.defence.name for cell in cells} == {"none", "clip", "vote", "clip-vote", "clip-median"}
    assert {cell.cohort.name for cell in cells if cell.defence.groups} == {"2of10"}
