"""The page of measurements says what the files of measurements say."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from partsong.simulations.bench.figures import Figure, report

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, with copies of its files in place of the repository's."""
    spec = importlib.util.spec_from_file_location("benchmark_pages", ROOT / "scripts" / "benchmark_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shutil.copytree(module.FOLDER, tmp_path / "benchmarks")
    shutil.copy(module.PAGE, tmp_path)
    monkeypatch.setattr(module, "FOLDER", tmp_path / "benchmarks")
    monkeypatch.setattr(module, "PAGE", tmp_path / "benchmarks.md")
    monkeypatch.setattr(sys, "argv", ["benchmark_pages.py", "--check"])
    return module


@pytest.fixture
def change(pages: ModuleType) -> Callable[..., None]:
    """Change one file of measurements."""

    def made(**changes: Any) -> None:
        file = pages.FOLDER / "1-dp.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return made


def test_the_page_is_what_the_files_say(pages: ModuleType) -> None:
    """Every cell of every table is in it; the control changes one."""
    assert pages.main() == 0
    text = pages.PAGE.read_text()
    for file in sorted(pages.FOLDER.glob("[0-9]*.json")):
        found = json.loads(file.read_text())
        cells = [cell for row in found.get("rows", []) for cell in row]
        cells += [f"| `{figure['name']}` | {figure['value']:.4g} " for figure in found.get("figures", [])]
        assert cells
        assert all(cell in text for cell in cells)
    pages.PAGE.write_text(text.replace("1.55", "1.05", 1))

    assert pages.main() == 1


def test_what_bench_prints_becomes_a_section_as_it_is(pages: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is put there is shown once the script was run; what was not measured and missed is said."""
    figures = (
        Figure(name="fast", value=1.25, unit="s", target=1.0, note="of 3 rounds"),
        Figure(name="right", value=0.75, unit="ratio", target=0.5, better="higher"),
        Figure(name="far", value=None, unit="MB", reason="no memory could be read here"),
    )
    printed = report("round", figures, packages=("pytest",))
    (pages.FOLDER / "9-round-elsewhere.json").write_text(json.dumps(printed))
    assert pages.main() == 1
    monkeypatch.setattr(sys, "argv", ["benchmark_pages.py"])

    assert pages.main() == 0

    text = " ".join(pages.PAGE.read_text().split())
    for words in (
        "## round", "partsong bench round --json", "| `fast` | 1.25 s | at most 1, **not kept** |",
        "| `right` | 0.75 ratio | at least 0.5, kept |", "| `far` | not measured: no memory could be read here | |",
        "`fast`: of 3 rounds. Measured with pytest ",
    ):  # fmt: skip
        assert words in text


@pytest.mark.parametrize(
    "changes", [{"machine": "Z"}, {"rows": [["one", "cell"]]}, {"author": "me"}],
)  # fmt: skip
def test_a_file_that_is_no_measurement_stops_the_page(
    pages: ModuleType, change: Callable[..., None], changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """And it is named."""
    change(**changes)

    assert pages.main() == 1
    assert "1-dp.json" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_file_that_is_something_else_stops_the_page(pages: ModuleType, text: str) -> None:
    """Nothing is left out in silence."""
    (pages.FOLDER / "5-new.json").write_text(text)

    assert pages.main() == 1
