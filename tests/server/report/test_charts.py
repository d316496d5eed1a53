"""Points and ticks of the charts."""

from collections.abc import Callable
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.server.report import charts
from partsong.server.report.facts import Facts, RoundFacts
from partsong.server.report.gather import facts_of
from partsong.server.report.sources import Sources


def test_a_chart_by_hand(sources: Callable[..., Sources], entry: Callable[..., RoundFacts]) -> None:
    """Losses 2 and 1 over rounds 1 and 3: the first at the top left, the second halfway down on the right."""
    rounds = (entry(1, loss=2.0), entry(2, loss=None, sites=(), reason="none"), entry(3, loss=1.0))

    chart = charts.loss(facts_of(sources(rounds=rounds)))

    assert chart is not None
    top, bottom = charts.TOP, charts.HEIGHT - charts.BOTTOM
    assert chart.points == ((charts.LEFT, top), (charts.WIDTH - charts.RIGHT, (top + bottom) / 2))
    assert [tick.label for tick in chart.rows] == ["0", "0.5", "1", "1.5", "2"]
    assert [tick.label for tick in chart.columns] == ["1", "3"]
    assert "Round 1: 2.000. Round 3: 1.000." in chart.description


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(losses=st.lists(st.floats(-5, 1e6), min_size=1, max_size=300))
def test_everything_stays_inside_the_frame(losses: list[float], facts: Facts, entry: Callable[..., RoundFacts]) -> None:
    """Points, ticks and limits, whatever the values; few labels, the highest value not above the highest of them."""
    chart = charts.loss(replace(facts, rounds=tuple(entry(n, loss=x) for n, x in enumerate(losses, start=1))))

    assert chart is not None
    assert all(charts.LEFT <= x <= charts.WIDTH and 0 <= y <= charts.HEIGHT for x, y in chart.points)
    assert float(chart.rows[-1].label) >= max(losses) * (1 - 1e-5)
    assert len(chart.rows) <= 7
    assert len(chart.columns) <= 14
    assert chart.columns[-1].label == str(len(losses))


def test_the_budget_has_the_plan_as_its_limit_and_no_chart_without_privacy(facts: Facts, not_private: Facts) -> None:
    """The limit lies above every point as long as the plan was kept."""
    chart = charts.budget(facts)

    assert chart is not None
    assert chart.limit is not None
    assert chart.limit.label == "plan 8"
    assert all(y > chart.limit.at for _, y in chart.points)
    assert charts.budget(not_private) is None


def test_a_band_lies_around_its_line_and_inside_the_frame() -> None:
    """Of 1 around 3 and 2: from 4 to 2 and from 3 to 1, with room above; without a margin there is none."""
    chart = charts.line_chart("c", "c", "loss", [(1, 3.0), (2, 2.0)], limit=None, words="{:g}", margin=1.0)
    plain = charts.line_chart("c", "c", "loss", [(1, 3.0), (2, 2.0)], limit=None, words="{:g}")

    assert chart is not None
    assert plain is not None
    unit = (charts.HEIGHT - charts.TOP - charts.BOTTOM) / float(chart.rows[-1].label)
    assert [
        (point[1] - high, low - point[1]) for point, (_, high, low) in zip(chart.points, chart.band, strict=True)
    ] == [(unit, unit)] * 2
    assert all(high >= charts.TOP for _, high, _ in chart.band)
    assert len(chart.outline.split()) == 4
    assert plain.band == ()
