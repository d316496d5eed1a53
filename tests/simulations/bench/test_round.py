"""The benchmark of rounds over the network, at its smallest: real daemons, one timed round."""

import os
import subprocess
from pathlib import Path

import pytest

from partsong.simulations.bench import round as bench
from partsong.simulations.bench import stock_flower
from partsong.simulations.bench.figures import Figure
from partsong.simulations.bench.process_memory import peak_bytes
from partsong.simulations.bench.round_consortium import Consortium, make_consortium
from partsong.simulations.bench.stock_flower import NotMeasured

PHASES = ["ready", "report", "confirm", "unmask", "after"]


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    """Three sites."""
    return make_consortium(tmp_path_factory.mktemp("bench"), sites=3)


def test_a_round_of_real_daemons_is_timed(consortium: Consortium) -> None:
    """Three site processes and a coordinator over TLS; every phase took time, every process some memory."""
    found = bench.measure(consortium, numbers=bench.EMPTY, rounds=1)

    assert [list(phases) for phases in found.phases] == [PHASES]
    assert found.seconds[0] >= sum(found.phases[0].values()) - 0.01
    assert min(found.phases[0].values()) > 0
    assert min(found.coordinator_bytes, found.site_bytes) > 30e6


def test_figures_have_the_names_and_targets_that_were_asked_for(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured is made up here; the memory target is 200 MB and three updates of each site."""
    made_up = bench.Measured(
        seconds=(2.0, 1.0, 9.0),
        phases=({"ready": 1.0},),
        coordinator_bytes=381_000_000,
        site_bytes=5_000_000,
    )
    monkeypatch.setattr(bench, "measure", lambda *_, **__: made_up)

    figures = [bench.empty_rounds(consortium, rounds=3), *bench.full_rounds(consortium, megabytes=20, rounds=3)]

    assert {f.name: (f.value, f.target, f.met) for f in figures} == {
        "empty_round_s_3_sites": (2.0, 3.0, True),
        "round_s_3_sites_20mb": (2.0, None, None),
        "coordinator_rss_mb_3_sites_20mb": (381.0, 380, False),
        "site_rss_mb_20mb": (5.0, None, None),
    }


def test_stock_flower_is_null_with_the_reason_where_it_does_not_run(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No value, no verdict."""

    def broken(*_: object, **__: object) -> list[float]:
        raise NotMeasured("flower-superlink: FileNotFoundError")

    monkeypatch.setattr(bench, "stock_rounds", broken)

    figure = bench.stock(consortium, rounds=1)

    assert figure == Figure(
        name="stock_flower_round_s_3_sites", value=None, unit="s", reason="flower-superlink: FileNotFoundError"
    )


def test_a_command_of_flower_that_fails_says_why(tmp_path: Path) -> None:
    """Without the frame that Flower draws around it."""
    script = tmp_path / "flwr"
    script.write_text("#!/bin/sh\nprintf '\\342\\225\\255 Error \\342\\225\\256\\nno such lab\\n' >&2\nexit 3\n")
    script.chmod(0o700)

    with pytest.raises(NotMeasured, match=r"ended with 3: Error no such lab$"):
        stock_flower._called([str(script)], os.environ, limit_s=30)
    with pytest.raises(NotMeasured, match="FileNotFoundError"):
        stock_flower._called([str(tmp_path / "none")], os.environ, limit_s=30)


def test_the_peak_of_a_process_is_read() -> None:
    """Of this one, as its own status says; a process that is gone has none."""
    gone = subprocess.Popen(["true"])
    gone.wait()

    assert peak_bytes("self") > 10e6
    with pytest.raises(OSError, match=str(gone.pid)):
        peak_bytes(gone.pid)
