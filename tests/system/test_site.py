"""The documentation is one site: every page is in it, and nothing of it comes from elsewhere."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAINS = 25


def test_every_page_is_in_the_navigation() -> None:
    """A page that nobody finds is not written; a name without a page is a broken link."""
    trees = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(), re.DOTALL)
    named = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    pages = {file.stem for file in (*DOCS.glob("*.md"), *DOCS.glob("*.ipynb"))} - {"index"}

    listed = {name.rstrip("*") for name in named}

    assert pages - listed == set()
    assert {name for name in listed if not list(DOCS.glob(f"{name}.*"))} == set()
    assert len(named) == len(set(named))


def test_the_notebook_keeps_no_outputs() -> None:
    """They are made when the site is built, so they are of this version and hold nothing of anybody's machine."""
    notebook = json.loads((DOCS / "tutorial.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]

    assert len(cells) > 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


def test_the_drawing_has_words_and_loads_nothing() -> None:
    """A title for who does not see it, and no address but that of its own format."""
    drawing = (DOCS / "architecture.svg").read_text()

    assert "<title>" in drawing
    assert re.findall(r"https?://[^\"]+", drawing) == ["http://www.w3.org/2000/svg"]
    assert "<script" not in drawing


def test_each_pain_of_comparable_systems_is_answered() -> None:
    """By number, and each with yes, partly or no."""
    rows = re.findall(r"^\| (\d+) \| .+ \| (yes|partly|no) \| .+ \|$", (DOCS / "faq.md").read_text(), re.MULTILINE)

    assert [int(number) for number, _ in rows] == list(range(1, PAINS + 1))
    assert {answer for _, answer in rows} == {"yes", "partly", "no"}


class Loads(HTMLParser):
    """What a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note addresses of scripts, styles, pictures and frames."""
        for name, value in attrs:
            if (name == "src" or (name == "href" and tag == "link")) and value:
                self.found.append(value)


def loads(text: str) -> list[str]:
    """List what comes from elsewhere."""
    page = Loads()
    page.feed(text)
    return [address for address in page.found if re.match(r"(?:[a-z]+:)?//", address)]


def test_a_page_that_loads_from_elsewhere_would_be_found() -> None:
    """The control."""
    assert loads('<script src="https://cdn.example/x.js"></script><a href="https://example.org">x</a>') == [
        "https://cdn.example/x.js"
    ]
    assert loads('<link rel="stylesheet" href="//fonts.example/x.css"><img src="x.svg">') == ["//fonts.example/x.css"]


@pytest.mark.nightly
def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    """With broken links and a failing notebook as errors; the search index holds every page."""
    pytest.importorskip("sphinx")
    command = [sys.executable, "-P", "-m", "sphinx", "-c", "docs", "-d", str(tmp_path / "cache")]
    command += ["--fail-on-warning", "--keep-going", "-q", ".", str(tmp_path / "site")]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)

    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert {address for page in pages for address in loads(page.read_text())} == set()
    index = (tmp_path / "site" / "searchindex.js").read_text()
    assert all(f'"docs/{page.stem}"' in index for page in DOCS.glob("*.md"))
    tutorial = (tmp_path / "site" / "docs" / "tutorial.html").read_text()
    assert "sum of 4 sites" in tutorial
    assert str(ROOT) not in tutorial
    assert "Warning: " not in tutorial
