"""The picture of a partition shows what its manifest says."""

import re
from xml.etree import ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.simulations.partition_plot import MOST_LABELS, MOST_SITES, partition_plot

SVG = "{http://www.w3.org/2000/svg}"
Sites = st.dictionaries(st.text(min_size=1, max_size=8), st.integers(1, 500), min_size=1, max_size=70)


def _bars(svg: str) -> dict[float, float]:
    """Length of each bar by its height on the page."""
    lengths: dict[float, float] = {}
    for bar in ET.fromstring(svg).iter(f"{SVG}rect"):
        if bar.get("height") == "18":
            y = float(bar.get("y") or 0)
            lengths[y] = lengths.get(y, 0.0) + float(bar.get("width") or 0)
    return lengths


def test_bars_are_as_long_as_the_sites_are_large_and_colours_are_the_labels() -> None:
    """Two sites, one twice as large; the labels stand below with their colours."""
    manifest = {
        "north": {"records": 40, "labels": {"flu": 30, "cold": 10}},
        "south": {"records": 20, "labels": {"cold": 20}},
    }

    svg = partition_plot(manifest)

    assert svg is not None
    north, south = _bars(svg).values()
    assert abs(north - 2 * south) < 1
    assert [text.text for text in ET.fromstring(svg).iter(f"{SVG}text")][-2:] == ["flu", "cold"]
    assert "north: 40; south: 20" in svg


@given(Sites)
@settings(max_examples=25, deadline=None)
def test_any_names_and_sizes_make_a_picture(sizes: dict[str, int]) -> None:
    """Well-formed, with a bar for each site up to the most that are shown."""
    names = {site: re.sub(r"[^\\w]", "x", site) + str(i) for i, site in enumerate(sizes)}

    svg = partition_plot({names[site]: {"records": size} for site, size in sizes.items()})

    assert svg is not None
    assert len(_bars(svg)) == min(len(sizes), MOST_SITES)


def test_labels_beyond_the_colours_are_one_share() -> None:
    """Nothing of a site's bar is lost."""
    labels = {f"label-{i}": 10 for i in range(MOST_LABELS + 5)}
    size = sum(labels.values())

    svg = partition_plot({"a": {"records": size, "labels": labels}, "b": {"records": size}})

    assert svg is not None
    with_labels, without = _bars(svg).values()
    assert abs(with_labels - without) < 1
    assert "all others" in svg


def test_sites_without_records_make_no_picture() -> None:
    """Control: there is nothing to draw."""
    assert partition_plot({"a": {"encoding": {}}}) is None
