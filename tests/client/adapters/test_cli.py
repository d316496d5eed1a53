"""`partsong site adapters` and `partsong site purge`, as an operator calls them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from partsong.client.adapters.store import AdapterStore
from partsong.client.cli import site
from partsong.client.daemon.plan_folder import PlanFolder
from partsong.client.home.layout import SiteHome
from partsong.client.home.lock import held
from partsong.common import wire
from partsong.common.adapters.adapter import digest
from partsong.common.errors import PartsongError
from partsong.common.plan import Plan

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


def called(home: SiteHome, *words: str) -> tuple[int, str]:
    """Exit code, and what was printed or would be as the error."""
    done = CliRunner().invoke(site, [*words, "--dir", str(home.path)])
    if isinstance(done.exception, PartsongError):
        return done.exception.exit_code, str(done.exception)
    return done.exit_code, done.output


def test_adapters_are_listed_checked_and_put_back(home: SiteHome) -> None:
    """The star moves to the one before."""
    code, listed = called(home, "adapters", "list")
    assert (code, [line[:8] for line in listed.splitlines()]) == (0, ["  first ", "* second"])

    code, verdict = called(home, "adapters", "verify")
    assert (code, "follow from the sums" in verdict) == (0, True)
    assert called(home, "adapters", "rollback")[0] == 0

    tree = json.loads(called(home, "adapters", "list", "--json")[1])
    assert [one["current"] for one in tree["adapters"]] == [True, False]
    assert called(home, "adapters", "rollback")[0] == 2


def test_a_changed_adapter_is_found_and_asked_for_again(home: SiteHome) -> None:
    """Exit 2, and the remedy is a command that exists."""
    store = AdapterStore(home.adapters)
    found = store.find("second")
    (store.path(found) / "adapter_model.safetensors").write_bytes(b"other")

    code, said = called(home, "adapters", "verify", "second")
    assert (code, "partsong site adapters fetch" in said) == (2, True)
    assert called(home, "adapters", "fetch", found.plan[:12])[0] == 0

    assert store.wanted() == {found.plan}
    assert called(home, "adapters", "fetch", "0000")[0] == 2


def test_a_purge_waits_until_no_daemon_works(home: SiteHome) -> None:
    """Exit 75 while one does; then a plan that is named goes, and its adapter stays."""
    found = AdapterStore(home.adapters).find("first")

    with held(home.lock):
        assert called(home, "purge", "--plan", found.plan)[0] == 75
    assert called(home, "purge", "--plan", found.plan)[0] == 0

    assert PlanFolder(home.plans, found.plan).proposal() is None
    assert AdapterStore(home.adapters).find("first") == found
    assert called(home, "adapters", "verify", "first")[0] == 0


def test_another_folder_is_no_site(tmp_path: Path) -> None:
    """Nothing is made in it."""
    code, said = called(SiteHome(tmp_path), "purge")

    assert (code, "no site.yaml" in said) == (2, True)
    assert not list(tmp_path.iterdir())
