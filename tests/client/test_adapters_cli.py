"""`partsong site adapters` and `partsong site purge`, as an operator calls them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partsong.client.adapters import AdapterStore
from partsong.client.daemon_start import held
from partsong.client.home import SiteHome
from partsong.client.plan_folder import PlanFolder
from partsong.common import wire
from partsong.common.adapter import digest
from partsong.common.plan import Plan
from partsong.simulations.cli import main

FILES: Any = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"w"}
ADAPTER = digest(np.zeros(8, np.float32))


@pytest.fixture
def home(tmp_path: Path, make_masked_plan: Callable[..., Plan]) -> SiteHome:
    """A site with two adapters, of which the second is in use."""
    made = SiteHome(tmp_path)
    made.config.write_text("name: north\n")
    store = AdapterStore(made.adapters)
    for number, run in enumerate(("first", "second")):
        plan = make_masked_plan(run=run)
        header = wire.encode(wire.Propose(plan=plan))
        PlanFolder(made.plans, plan.sha256).keep(header, bytes(56), run=run, study="train", now_ms=0)
        store.store(plan, FILES, adapter=ADAPTER, now_ms=number)
    return made


def called(home: SiteHome, *words: str) -> int:
    try:
        return int(main(["site", *words, "--dir", str(home.path)]) or 0)
    except SystemExit as end:
        return int(end.code or 0)


def test_adapters_are_listed_checked_and_put_back(home: SiteHome, capsys: pytest.CaptureFixture[str]) -> None:
    """The star moves to the one before."""
    assert called(home, "adapters", "list") == 0
    assert [line[:8] for line in capsys.readouterr().out.splitlines()] == ["  first ", "* second"]

    assert called(home, "adapters", "verify") == 0
    assert "follow from the sums" in capsys.readouterr().out
    assert called(home, "adapters", "rollback") == 0
    assert called(home, "adapters", "list", "--json") == 0

    tree = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert [one["current"] for one in tree["adapters"]] == [True, False]
    assert called(home, "adapters", "rollback") == 2


def test_a_changed_adapter_is_found_and_asked_for_again(home: SiteHome, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, and the remedy is a command that exists."""
    store = AdapterStore(home.adapters)
    found = store.find("second")
    (store.path(found) / "adapter_model.safetensors").write_bytes(b"other")

    assert called(home, "adapters", "verify", "second") == 2
    assert "partsong site adapters fetch" in capsys.readouterr().err
    assert called(home, "adapters", "fetch", found.plan[:12]) == 0

    assert store.wanted() == {found.plan}
    assert called(home, "adapters", "fetch", "0000") == 2


def test_a_purge_waits_until_no_daemon_works(home: SiteHome) -> None:
    """Exit 75 while one does; then a plan that is named goes, and its adapter stays."""
    found = AdapterStore(home.adapters).find("first")

    with held(home.lock):
        assert called(home, "purge", "--plan", found.plan) == 75
    assert called(home, "purge", "--plan", found.plan) == 0

    assert PlanFolder(home.plans, found.plan).proposal() is None
    assert AdapterStore(home.adapters).find("first") == found
    assert called(home, "adapters", "verify", "first") == 0
