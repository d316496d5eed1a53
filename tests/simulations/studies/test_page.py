"""The page of a study: lines over seeds, empty cells, what did not work, and figures."""

import dataclasses
import datetime as dt
import statistics
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partsong.common.config import ModelConfig
from partsong.simulations.studies import made_up, tables, verdicts
from partsong.simulations.studies.catalogue import STUDIES
from partsong.simulations.studies.outcome import Outcome, Point, Store
from partsong.simulations.studies.page import write_page
from partsong.simulations.studies.plots import Curve, Dots, dot_plot, line_plot
from partsong.simulations.studies.runner import Entry, Terms
from partsong.simulations.studies.settings import StudyConfig
from partsong.simulations.studies.sources import Source
from partsong.simulations.studies.summary import Line, lines, spread

STUDY = STUDIES["medquad"]
DAY = dt.date(2026, 1, 2)
MACHINE = {"cpu": "a processor", "cores": 2, "gpu": None, "versions": {"torch": "9"}}


def outcome(accuracy: float, **own: float) -> Outcome:
    return Outcome(accuracy=accuracy, macro_recall=accuracy / 2, own=own, rate=0.01, bytes_per_site=2e6)


def entries(found: dict[str, list[Outcome]]) -> tuple[Entry, ...]:
    """The CPU grid of MedQuAD with these outcomes, seed by seed, under `arm` or `method`."""
    cells = STUDY.cells("cpu")
    left = {name: list(outcomes) for name, outcomes in found.items()}
    made = []
    for cell in cells:
        name = cell.method.name if cell.arm == "federated" and cell.method else cell.arm
        mine = left.get(name, []) if cell.swept_rate is None else []
        made.append(Entry(cell=cell, outcome=mine.pop(0) if mine else None, why_empty=None if mine else "not run"))
    return tuple(dataclasses.replace(e, why_empty=None if e.outcome else "not run") for e in made)


PARTIAL = entries(
    {
        "frozen_pooled": [outcome(0.95)],
        "frozen_local": [outcome(0.5)],
        "pooled": [outcome(0.9)],
        "local": [outcome(0.5, a=0.9, b=0.6)],
        "fedit": [outcome(0.7, a=0.8, b=0.7), outcome(0.8, a=0.8, b=0.5), outcome(0.9, a=0.8, b=0.6)],
        "ffa": [Outcome(accuracy=None, macro_recall=None, failed="round 3: not | finite")],
    }
)


def line(method: str) -> Line:
    return next(
        li for li in lines(PARTIAL) if li.cell.arm == "federated" and li.cell.method and li.cell.method.name == method
    )


def page_of(folder: Path, shown: tuple[Entry, ...] = PARTIAL, **settings: object) -> str:
    terms = Terms(
        study=STUDY,
        grid="cpu",
        model=ModelConfig(source="x"),
        sweep="declared",
        data={},
        records={},
        store=Store(folder, Outcome),
    )
    config = dataclasses.replace(StudyConfig(out=str(folder), data_dir="/home/me/data", sweep="declared"), **settings)
    source = Source(path="medquad/GHR.jsonl", sha256="ab" * 32, origin="a publisher", licence="CC0")
    corpora = {"made-up": made_up.make()}
    page = write_page(terms, shown, config=config, sources=(source,), corpora=corpora, machine=MACHINE, day=DAY)
    assert page == folder / "2026-01-02-medquad.md"
    return page.read_text()


def test_a_page_says_which_lines_are_in_lockstep(tmp_path: Path) -> None:
    """Those whose method says so and all with noise on the sum; no word of it where there is none."""
    skewed, private = (
        tuple(Entry(cell=cell, outcome=None, why_empty="not run") for cell in STUDIES[name].cells("cpu"))
        for name in ("banking77", "privacy")
    )

    assert "In lockstep (ffa-lockstep r=2 21 bits) every step is a round" in page_of(tmp_path, skewed)
    assert "In lockstep (noise on the sum) every step is a round" in page_of(tmp_path, private)
    assert "In lockstep" not in page_of(tmp_path)


def test_a_line_by_hand() -> None:
    """Mean and standard deviation over three seeds; the worst site is found in each seed."""
    found = line("fedit")

    assert str(found.accuracy) == "0.800 ± 0.100"
    assert str(found.own) == "0.700 ± 0.050"
    assert str(found.worst) == "0.600 ± 0.100"
    assert {site: str(value) for site, value in found.own_by_site.items()} == {
        "a": "0.800 ± 0.000",
        "b": "0.600 ± 0.100",
    }
    assert found.megabytes == 2.0


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=6))
def test_a_spread_is_of_what_is_there(values: list[float | None]) -> None:
    """Nothing of nothing, no deviation of one value, and otherwise the sample's."""
    there = [value for value in values if value is not None]

    found = spread(values)

    if not there:
        assert found is None
        return
    assert found is not None
    assert found.mean == pytest.approx(statistics.fmean(there))
    assert (found.sd is None) == (len(there) == 1)
    if len(there) > 1:
        assert found.sd == pytest.approx(statistics.stdev(there))


def test_what_was_not_run_is_empty_and_said_to_be(tmp_path: Path) -> None:
    """No number stands where none was measured, and the page says at its top that it is not complete."""
    text = page_of(tmp_path)

    (row,) = [li for li in text.splitlines() if li.startswith("| federated | rolora ")]
    assert [cell.strip() for cell in row.split("|")[7:13]] == ["0 of 3", "", "", "", "", ""]
    assert "The grid is not complete" in text
    assert "cells: not run." in text
    whole = entries({name: [outcome(0.5)] * 3 for name in ("frozen_pooled", "frozen_local", "pooled", "local")})
    assert "The grid is not complete" not in page_of(tmp_path, tuple(e for e in whole if e.outcome))


def test_bad_news_is_on_the_page(tmp_path: Path) -> None:
    """A run that failed, what pooling would have given, a site that fared better alone, and rates that were not swept."""
    text = page_of(tmp_path)

    assert "ffa r=8 21 bits (medquad): 1 of 3 runs failed; the first with: round 3: not \\| finite" in text
    assert "fedit r=8 21 bits (medquad): 0.100 below pooled at one site." in text
    assert "fedit r=8 21 bits (medquad): 0.150 below frozen features, pooled." in text
    assert "1 of 2 sites did better alone, each site alone (a)." in text
    assert "Not swept" in text
    assert "The sweep is not charged to any privacy budget" in text


@pytest.mark.parametrize(("best", "expected"), [(0, "lowest"), (1, None), (2, "highest")])
def test_a_sweep_that_ends_at_its_best_rate_is_named(tmp_path: Path, best: int, expected: str | None) -> None:
    """Also on the page; a line whose sweep is not whole is not."""
    swept = [e for e in PARTIAL if e.cell.swept_rate is not None and e.cell.method and e.cell.method.name == "ffa"]
    scores = [0.9 if place == best else 0.5 for place in range(3)]
    made = [dataclasses.replace(e, outcome=outcome(score)) for e, score in zip(swept, scores, strict=True)]

    found = verdicts.edges(made)

    told = [f"ffa r=8 21 bits (medquad): the best rate is the {expected} that was tried."] if expected else []
    assert found == told
    assert ("may lie beyond" in page_of(tmp_path, tuple(made))) == bool(told)
    assert verdicts.edges(made[:2]) == []


def test_gains_are_against_both_references() -> None:
    """By hand: .8 is .75 of the way from .5 to .9, and .67 of that to .95."""
    everything = lines(PARTIAL)

    found = verdicts.gains(everything, among=everything)

    assert "0.50, " not in found[0]
    assert found[0].endswith("0.85 of it would be 0.840.")
    assert found[1] == "- fedit r=8 21 bits: 0.800, 0.75 of the gain."
    assert found[3] == "- fedit r=8 21 bits: 0.800, 0.67 of the gain."


def test_a_page_names_its_data_and_no_folder_of_its_machine(tmp_path: Path) -> None:
    """File, publisher, licence and digest."""
    text = page_of(tmp_path)

    assert f"| `medquad/GHR.jsonl` | a publisher | CC0 | `{'ab' * 32}` |" in text
    assert "data_dir=DATA" in text
    assert "/home/me" not in text


def test_every_figure_of_the_page_is_beside_it(tmp_path: Path) -> None:
    """And is one; a study that scores often has one over bytes too."""
    curved = dataclasses.replace(outcome(0.9), curve=(Point(round=1, accuracy=0.5, bytes_per_site=1e6),))

    text = page_of(tmp_path, entries({"fedit": [curved]}))

    names = [file.name for file in tmp_path.glob("*.svg")]
    assert sorted(names) == ["2026-01-02-medquad-medquad-bytes.svg", "2026-01-02-medquad-medquad.svg"]
    assert all(f"]({name})" in text for name in names)
    assert all(ET.parse(tmp_path / name).getroot().tag.endswith("svg") for name in names)


def test_dots_stand_where_their_values_are() -> None:
    """0 at the left of the grid, 1 at its right, a half between; names are escaped."""
    root = ET.fromstring(dot_plot("a < b", [Dots(name="<&>", values=(0.0, 0.5, 1.0))]))

    (left, middle, right) = [float(c.get("cx", "")) for c in root.iter("{http://www.w3.org/2000/svg}circle")]
    assert middle == pytest.approx((left + right) / 2, abs=0.1)
    assert left < middle < right
    assert "<&>" in [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]


def test_a_curve_rises_with_its_values() -> None:
    """Further right for more bytes, further up for more accuracy."""
    root = ET.fromstring(line_plot("t", "MB", [Curve(name="c", points=((1.0, 0.2), (2.0, 0.8)))]))

    (line_,) = root.iter("{http://www.w3.org/2000/svg}polyline")
    (first, last) = [tuple(map(float, p.split(","))) for p in line_.get("points", "").split()]
    assert first[0] < last[0]
    assert first[1] > last[1]


def test_a_table_has_as_many_cells_in_each_row() -> None:
    """Of the results, by site, and of the sweep."""
    for text in (tables.results(lines(PARTIAL)), tables.by_site(lines(PARTIAL)), tables.sweep(PARTIAL)):
        assert len({row.count("|") for row in text.splitlines()}) == 1
