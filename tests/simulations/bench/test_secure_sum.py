"""The benchmark of the secure sum: its parts at a small size, and what it prints."""

import importlib.util
import subprocess
import sys

import pytest

from partsong.common.secure_sum import committee
from partsong.simulations.bench import secure_sum
from partsong.simulations.bench.figures import Figure, report
from partsong.simulations.bench.sum_generated import generated
from partsong.simulations.bench.sum_rounds import played, silent_sites

SITE = {"enter", "encode", "report", "confirm", "unmask", "ready"}


def test_a_round_is_played_and_every_phase_is_timed() -> None:
    """Two rounds of six sites, one of which drops out."""
    costs = played(sites=6, dropped=1, parameters=100, repeats=2)

    assert set(costs.site) == SITE
    assert set(costs.coordinator) == {"ready", "report", "confirm", "unmask"}
    assert {len(times) for times in (costs.site | costs.coordinator).values()} == {2}
    assert costs.of_site() > costs.of_site("encode", "report") > 0


@pytest.mark.parametrize(("all_hold", "silent"), [(4, 0), (64, 2)])
def test_made_up_sites_are_believed(monkeypatch: pytest.MonkeyPatch, all_hold: int, silent: int) -> None:
    """Eleven made-up sites and a real one: the round opens, with a committee, and without one and with silent sites.

    So small a committee, drawn by chance, would now and then be too small without two of twelve.
    """
    monkeypatch.setattr(committee, "ALL_HOLD_UP_TO", all_hold)

    costs = generated(sites=12, dropped=silent, parameters=100)

    assert set(costs.site) == SITE | {"open"}
    assert set(costs.coordinator) == {"ready", "roster", "report", "survivors", "confirm", "quorum", "unmask", "open"}
    assert costs.of_coordinator() > 0


def test_silent_sites_are_as_many_as_asked_for_and_never_the_measured_one() -> None:
    """Spread over all."""
    for measured in (0, 50, 100):
        silent = silent_sites(sites=101, dropped=10, measured=measured)
        assert len(silent) == 10
        assert measured not in silent
        assert max(silent) - min(silent) > 80
    assert silent_sites(sites=101, dropped=0, measured=3) == set()


def test_rivals_are_measured_or_null_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a thousand parameters; without the rival's package there is no value and no verdict."""
    if importlib.util.find_spec("tenseal"):
        speed, size = secure_sum.against_ckks(repeats=1, parameters=1000)
        assert speed.value > 0
        assert size.value > 8
    assert secure_sum.against_flower(2, repeats=1, parameters=1000).value > 0
    for package in ("tenseal", "flwr.common.secure_aggregation.secaggplus_utils"):
        monkeypatch.setitem(sys.modules, package, None)

    missing = [
        *secure_sum.against_ckks(repeats=1, parameters=10),
        secure_sum.against_flower(2, repeats=1, parameters=10),
    ]

    assert all(figure.value is None and figure.met is None and "not installed" in figure.reason for figure in missing)


def test_the_mask_kernel_and_the_sizes_are_figures_with_targets() -> None:
    """Words of a thousand values; bytes by the encoding."""
    kernel = secure_sum.mask_kernel(repeats=1, words=1000)
    default, compact = secure_sum.sizes()

    assert (kernel.better, kernel.target) == ("higher", 0.5)
    assert kernel.value > 0
    assert (default.value, compact.value) == (2.67, 2.0)
    assert (default.met, compact.met) == (True, True)


@pytest.mark.skipif(not secure_sum._PROCESS.exists(), reason="memory is read from /proc")
def test_memory_is_counted_in_vectors() -> None:
    """A million values in a process of its own: the vector itself and less than six of them."""
    measure = (
        "from partsong.simulations.bench.secure_sum import memory_growth as grown; print(grown(parameters=1_000_000))"
    )

    done = subprocess.run([sys.executable, "-P", "-c", measure], capture_output=True, text=True, check=True)

    assert 1 < float(done.stdout) < 6


def test_a_machine_without_room_for_a_thousand_sites_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured, and the reason stands there."""
    monkeypatch.setattr(secure_sum, "_available_bytes", lambda: 1 << 30)

    for figure in secure_sum.a_thousand_sites():
        assert figure.value is None
        assert "1 GiB are free" in figure.reason


@pytest.mark.parametrize(
    ("value", "better", "met"),
    [
        (1.0, "lower", True),
        (1.1, "lower", False),
        (1.0, "higher", True),
        (0.9, "higher", False),
        (None, "higher", None),
    ],
)
def test_the_better_side_of_a_target_is_said(value: float | None, better: str, *, met: bool | None) -> None:
    """In the figure and in what is printed; a package that is missing has no version."""
    figure = Figure(name="f", value=value, unit="ratio", target=1.0, better=better, note="how")

    printed = report("b", [figure], packages=["numpy", "no-such-package"])

    assert printed["figures"] == [
        {"name": "f", "value": value, "unit": "ratio", "target": 1.0, "better": better, "met": met, "note": "how"}
    ]
    assert printed["versions"]["no-such-package"] is None
