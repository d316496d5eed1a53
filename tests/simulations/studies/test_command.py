"""`partsong study` from the command line to its page."""

import datetime as dt
import hashlib
import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from partsong.common.errors import ConfigError, DataError
from partsong.simulations.cli import app
from partsong.simulations.studies import command
from partsong.simulations.studies.catalogue import SOURCES, STUDIES
from partsong.simulations.studies.settings import compose_study

TINY = Path(__file__).parents[2] / "fixtures" / "tiny-bert"


def settings(folder: Path, *more: str) -> list[str]:
    return [f"base={TINY}", "threads=1", f"work_dir={folder / 'work'}", f"out={folder / 'pages'}", *more]


def test_a_smoke_study_ends_in_a_page(tmp_path: Path) -> None:
    """Fourteen cells on made-up records; the second time nothing is played, and the page is the same."""
    said = io.StringIO()
    config = compose_study(settings(tmp_path, "grid=smoke"))

    def study() -> dict[str, object]:
        return command.study(
            "medquad", config, console=Console(file=said), today=lambda: dt.date(2026, 1, 2), clock=lambda: 0.0
        )

    facts = study()

    assert (facts["cells"], facts["failed"], facts["empty"]) == (14, 0, 0)
    page = Path(str(facts["page"]))
    first = page.read_text()
    assert "a smoke test" in first
    assert "0 left, done" in said.getvalue()
    said.truncate(0)
    assert study() == facts
    assert "0 cells to run" in said.getvalue()
    assert page.read_text() == first


def test_only_some_cells_are_played_where_only_some_are_asked_for(tmp_path: Path) -> None:
    """By the command line, as JSON; every other cell stays empty."""
    ended = CliRunner().invoke(app, ["study", "medquad", *settings(tmp_path, "grid=smoke", "only=[frozen]"), "--json"])

    assert ended.exit_code == 0, ended.output
    facts = json.loads(ended.stdout)
    cells = STUDIES["medquad"].cells("smoke")
    assert facts["empty"] == len(cells) - sum("frozen" in cell.key for cell in cells)


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_absent_data_stop_a_study_before_it_begins(tmp_path: Path, name: str) -> None:
    """Exit code 2; the text names the file and the bytes that are expected there."""
    first = next(s for n in sorted({sp.corpus for sp in STUDIES[name].grids["cpu"].splits}) for s in SOURCES[n])

    with pytest.raises(DataError) as caught:
        command.study(
            name, compose_study(settings(tmp_path, f"data_dir={tmp_path}")), console=Console(file=io.StringIO())
        )

    assert caught.value.exit_code == 2
    assert first.path in str(caught.value)
    assert first.sha256 in str(caught.value)
    assert not (tmp_path / "work").exists()


def test_other_bytes_under_the_right_name_are_refused(tmp_path: Path) -> None:
    """Both digests are named."""
    for source in SOURCES["banking77"]:
        (tmp_path / source.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / source.path).write_text("text,category\n")

    with pytest.raises(DataError, match=hashlib.sha256(b"text,category\n").hexdigest()):
        command.study(
            "banking77", compose_study(settings(tmp_path, f"data_dir={tmp_path}")), console=Console(file=io.StringIO())
        )


@pytest.mark.parametrize(
    ("more", "key"),
    [
        (("grid=smoke", "data_dir=x"), "data_dir"),
        (("grid=cpu",), "data_dir"),
        (("grid=smoke", "only=[nothing-like-it]"), "only"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(tmp_path: Path, more: tuple[str, ...], key: str) -> None:
    """By their key."""
    with pytest.raises(ConfigError) as caught:
        command.study("medquad", compose_study(settings(tmp_path, *more)), console=Console(file=io.StringIO()))

    assert caught.value.place == key


@pytest.mark.parametrize("wrong", ["grid=huge", "hours=0", "threads=-1", "datadir=x", "sweep=maybe"])
def test_wrong_settings_are_refused(wrong: str) -> None:
    """Before anything is read."""
    with pytest.raises(ConfigError):
        compose_study([wrong])


@pytest.mark.parametrize(
    ("name", "cell", "figures"),
    [
        ("banking77", "ffa_r2_21bit_seed0", 1),
        # Accounting at each site takes ten seconds.
        pytest.param("privacy", "eps8_noise-site_21bit_seed0", 1, marks=pytest.mark.nightly),
        pytest.param("privacy", "eps8_noise-sum_21bit_seed0", 1, marks=pytest.mark.nightly),
        ("bytes", "fedsb_r2_16bit_seed0", 2),
        ("ranks", "sketch4_r1-2_21bit_seed0", 2),
    ],
)
def test_every_study_can_be_smoked(tmp_path: Path, name: str, cell: str, figures: int) -> None:
    """One federated cell at the declared rate; a study of bytes draws accuracy over them."""
    config = compose_study(settings(tmp_path, "grid=smoke", "sweep=declared", f"only=[{cell}]"))

    facts = command.study(name, config, console=Console(file=io.StringIO()))

    assert (facts["cells"], facts["failed"]) == (len(STUDIES[name].cells("smoke")), 0)
    assert facts["empty"] == len(STUDIES[name].cells("smoke")) - 1
    assert len(list((tmp_path / "pages").glob("*.svg"))) == figures
    (kept,) = (json.loads(file.read_text())["outcome"] for file in (tmp_path / "work" / name / "smoke").glob("*.json"))
    assert kept["bytes_per_site"] > 0
    assert kept["rate"] == (0.1 if name == "privacy" else 0.01)
    assert (kept["epsilon"] is not None) == (name == "privacy")
    assert kept["epsilon"] is None or 0 < kept["epsilon"] <= 8


def test_a_study_of_ranks_tells_what_each_rank_sends_and_what_averages_lose(tmp_path: Path) -> None:
    """Sites of rank 1 and 2 together, products and sketches: all send the same and lose what fixed point rounds off.

    Where all train one rank, two averages are what the run does. Cells of the sweep are not looked into.
    """
    config = compose_study(settings(tmp_path, "grid=smoke", "sweep=declared"))

    facts = command.study("ranks", config, console=Console(quiet=True))

    kept = {}
    for file in (tmp_path / "work" / "ranks" / "smoke").glob("*.json"):
        kept[file.name.split(".")[0].removeprefix("made-up-dir1_federated_")] = json.loads(file.read_text())["outcome"]
    for name in ("hlora_r1-2_21bit_seed0", "sketch4_r1-2_21bit_seed0"):
        assert kept[name]["lost"]["ours"] < 0.01 < kept[name]["lost"]["fedit"]
        assert set(kept[name]["bytes_by_rank"]) == {"1", "2"}
        assert len(set(kept[name]["bytes_by_rank"].values())) == 1
    largest, smallest = kept["fedit_r2_21bit_seed0"], kept["fedit_r1_21bit_seed0"]
    assert largest["lost"]["ours"] == pytest.approx(largest["lost"]["fedit"], abs=0.01)
    assert largest["bytes_by_rank"]["2"] > smallest["bytes_by_rank"]["1"]
    assert all(outcome["lost"] is None for name, outcome in kept.items() if "sweep" in name)
    page = Path(str(facts["page"])).read_text()
    assert "| line | two averages lose | the best of the rank | this run | MB, rank 1 | MB, rank 2 |" in page
    assert "| hlora r=1/2 21 bits |" in page
    assert "what pooling gains" not in page  # no reference is planned
