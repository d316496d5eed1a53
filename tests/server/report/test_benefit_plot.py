"""Marks of the plot of what each site got out of taking part."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.errors import DataError
from partsong.server.report.benefit_plot import LEFT, BenefitPlot, benefit_plots
from partsong.server.report.beside import Arm, Benefit, Beside, read_benefit
from partsong.server.report.charts import RIGHT, WIDTH
from partsong.server.report.compose import page_of
from partsong.server.report.facts import Facts
from partsong.server.report.render import to_html, to_markdown
from partsong.server.report.signed import SignedFacts

ACROSS = WIDTH - LEFT - RIGHT
_VALUES = st.tuples(st.floats(0, 1e6), st.floats(0, 1))


def _benefit(site: str, **arms: tuple[float, float]) -> Benefit:
    made = tuple(Arm(name=name, loss=loss, right=right) for name, (loss, right) in arms.items())  # type: ignore[arg-type]  # names as in a file
    return Benefit(site=site, sha256="5" * 64, arms=made)


GAINED = _benefit("bonn", base=(4.0, 0.25), alone=(2.0, 0.5), alone_private=(3.0, 0.25), joint=(1.0, 0.75))
LOST = _benefit("graz", base=(3.0, 0.0), alone=(1.0, 0.75), joint=(2.0, 0.5))
UNSAID = _benefit("lyon", base=(3.0, 0.25), joint=(2.0, 0.5))


def test_marks_by_hand() -> None:
    """A quarter, a half and three quarters right lie there between the ends; losses end at the highest round level."""
    right, loss = benefit_plots([GAINED, LOST])

    assert {mark.arm: (mark.at - LEFT) / ACROSS for mark in right.rows[0].marks} == {
        "base": 0.25, "alone": 0.5, "alone_private": 0.25, "joint": 0.75,
    }  # fmt: skip
    assert [mark.at for mark in loss.rows[0].marks if mark.arm == "base"] == [WIDTH - RIGHT]
    assert [tick.label for tick in loss.columns] == ["0", "1", "2", "3", "4"]
    assert [row.stretch for row in right.rows] == [
        (LEFT + 0.5 * ACROSS, LEFT + 0.75 * ACROSS), (LEFT + 0.75 * ACROSS, LEFT + 0.5 * ACROSS),
    ]  # fmt: skip


def test_a_change_is_counted_in_the_direction_that_is_better() -> None:
    """More right answers and less loss; what nobody compared with being alone is compared with the base model."""
    right, loss = benefit_plots([GAINED, LOST, UNSAID])

    assert [row.change for row in right.rows] == ["+25.0 points", "-25.0 points", "+25.0 points on base"]
    assert [row.change for row in loss.rows] == ["-1.000", "+1.000", "-1.000 on base"]
    assert all(plot.description.startswith("2 of 3 sites fare better") for plot in (right, loss))


def test_only_models_that_occur_are_explained() -> None:
    """The others would be shapes to search for."""
    right, _ = benefit_plots([UNSAID])

    assert [arm for arm, _ in right.keys] == ["base", "joint"]
    assert benefit_plots([]) == ()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_VALUES, _VALUES, _VALUES), min_size=1, max_size=12))
def test_everything_stays_inside_the_frame(found: list[tuple[tuple[float, float], ...]]) -> None:
    """Whatever the values, every mark lies between both ends and every row between top and bottom, in order."""
    sites = [_benefit(f"s{n}", base=b, alone=a, joint=j) for n, (b, a, j) in enumerate(found)]

    for plot in benefit_plots(sites):
        assert all(LEFT <= mark.at <= WIDTH - RIGHT + 1e-6 for row in plot.rows for mark in row.marks)
        heights = [row.marks_at for row in plot.rows]
        assert heights == sorted(set(heights))
        assert plot.top < heights[0] <= heights[-1] < plot.bottom


def test_a_long_name_leaves_room_for_its_change() -> None:
    """63 letters are cut in the plot; the table has them all."""
    (row,) = _plots_of("s" * 63)[0].rows

    assert len(row.name) == 28
    assert row.name.endswith("\N{HORIZONTAL ELLIPSIS}")
    assert _plots_of("s" * 28)[0].rows[0].name == "s" * 28


def _plots_of(site: str) -> tuple[BenefitPlot, ...]:
    return benefit_plots([_benefit(site, base=(1.0, 0.5), joint=(1.0, 0.5))])


def test_the_page_has_both_plots_with_their_words(facts: Facts, sign: Callable[[Facts], SignedFacts]) -> None:
    """A title and a description that exist, each name once on the page; in Markdown the table stands alone."""
    page = page_of(sign(facts), beside=Beside(benefits=(GAINED, UNSAID)))

    html, markdown = to_html(page), to_markdown(page)

    for name in re.findall(r'aria-labelledby="(benefit-[^"]+)"', html):
        assert [html.count(f'id="{part}"') for part in name.split()] == [1, 1]
    assert html.count('<figure class="benefit">') == 2
    assert html.count('class="joint"') == 2 * (2 + 1)  # both sites, and the key
    assert "<svg" not in markdown
    assert "1.000, 75.0%" in markdown


@pytest.mark.parametrize("broken", [{"loss": -1.0}, {"right": 1.5}, {"right": -0.1}, {"loss": float("inf")}])
def test_figures_that_cannot_be_are_refused(facts: Facts, tmp_path: Path, broken: dict[str, float]) -> None:
    """They would be drawn outside the frame, and no site measures them."""
    arms = [{"name": name, "loss": 1.0, "right": 0.5} for name in ("base", "joint")]
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps({"arms": arms}))
    bad.write_text(json.dumps({"arms": [arms[0], arms[1] | broken]}))

    assert read_benefit(f"bonn={good}", facts).arms[1].right == 0.5
    with pytest.raises(DataError, match="no comparison that can be read"):
        read_benefit(f"bonn={bad}", facts)
