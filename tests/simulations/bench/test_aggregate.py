"""The benchmark of the server's step prints what it promises."""

from partsong.simulations.bench.aggregate import run


def test_the_report_has_a_figure_for_each_size() -> None:
    """The smallest size is measured, and what is left out says so instead of giving a number."""
    found = {figure["name"]: figure for figure in run(repetitions=1, most=1_000_000)["figures"]}

    assert set(found) == {
        f"{kind}_{size}" for kind in ("server_step", "fraction_of_memory_bandwidth") for size in ("1m", "10m", "200m")
    }
    assert found["server_step_1m"]["value"] > 0
    assert 0 < found["fraction_of_memory_bandwidth_1m"]["value"] < 100
    assert found["fraction_of_memory_bandwidth_10m"]["value"] is None
    assert "larger" in found["server_step_200m"]["reason"]
