"""A site compares a joint adapter with what it gets alone, and nothing of that leaves it."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from partsong.client.adapters.comparing import compare_at
from partsong.client.adapters.store import AdapterStore
from partsong.client.daemon.plan_folder import PlanFolder
from partsong.client.home.layout import SiteHome
from partsong.client.model.host import ModelHost
from partsong.common import wire
from partsong.common.adapters.adapter import digest
from partsong.common.config import DataConfig, TrainingConfig
from partsong.common.errors import ConfigError, InputError
from partsong.common.plan import Plan

FIXTURES = Path(__file__).parents[2] / "fixtures"
PRIVATE = {"mode": "dp", "epsilon": 50.0, "delta": 1e-2}


@pytest.fixture
def at_home(
    make_host: Callable[..., ModelHost], make_site_plan: Callable[..., Plan], tmp_path: Path
) -> Callable[..., SiteHome]:
    """A site's directory with records, test records and the adapter of a run that had no sum: its start."""

    def make(*, tests: bool = True, privacy: dict[str, Any] | None = None) -> SiteHome:
        folder = tmp_path / "site"
        folder.mkdir()
        for name, count in (("records", 12), ("tests", 6)):
            rows = [{"prompt": f"code of {name} {n % 2}", "completion": f"A{n % 2}"} for n in range(count)]
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = {"path": str(folder / "records.jsonl"), "held_out": str(folder / "tests.jsonl") if tests else None}
        model = {"source": str(FIXTURES / "tiny-llama"), "device": "cpu"}
        site = {"name": "north", "coordinator": "localhost:7443", "model": model, "data": data}
        home = SiteHome(folder)
        home.config.write_text(yaml.safe_dump(site))
        host = make_host()
        plan = make_site_plan(
            host,
            data=DataConfig(max_length=64),
            rounds=2,
            training=TrainingConfig(steps_per_round=2, learning_rate=0.05),
            privacy={"sampling_rate": 0.5} | (privacy or {}),
        )
        start_P = host.take()
        vector = wire.vector_bytes(host.take(trained=False)) + wire.vector_bytes(start_P)
        header = wire.encode(wire.Propose(plan=plan))
        PlanFolder(home.plans, plan.sha256).keep(header, vector, run=plan.run, study=plan.study, now_ms=0)
        AdapterStore(home.adapters).store(plan, {"README.md": b"card"}, adapter=digest(start_P), now_ms=0)
        return home

    return make


def no_network(*_args: object, **_kwargs: object) -> None:
    raise AssertionError("a connection was opened")


def files_of(home: SiteHome) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(home.path.rglob("*")) if file.is_file()}


def test_four_models_are_compared_and_no_byte_leaves_or_stays(
    at_home: Callable[..., SiteHome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No socket is made, no file is written or changed: ledger, journals and outbox are as they were."""
    home = at_home(privacy=PRIVATE)
    before = files_of(home)
    monkeypatch.setattr(socket, "socket", no_network)

    arms = {arm.name: arm for arm in compare_at(home, "", say=lambda _: None)}

    assert list(arms) == ["base", "joint", "alone", "alone_private"]
    assert arms["joint"].loss == arms["base"].loss  # no round had a sum, so the joint adapter is the start
    assert arms["alone"].loss < arms["base"].loss - 0.01
    assert all(np.isfinite(arm.loss) and 0 <= arm.right <= 1 for arm in arms.values())
    assert files_of(home) == before


def test_a_plan_without_privacy_has_no_private_arm(at_home: Callable[..., SiteHome]) -> None:
    """There is no noise of the plan to train with."""
    arms = compare_at(at_home(), "run-1", say=lambda _: None)

    assert [arm.name for arm in arms] == ["base", "joint", "alone"]


def test_records_that_are_trained_on_are_no_test(at_home: Callable[..., SiteHome]) -> None:
    """Without test records there is nothing to compare on."""
    home = at_home(tests=False)

    with pytest.raises(ConfigError, match=r"data\.held_out"):
        compare_at(home, "", say=lambda _: None)


def test_an_unknown_adapter_is_said_to_be_unknown(at_home: Callable[..., SiteHome]) -> None:
    """Before anything is loaded."""
    home = at_home()

    with pytest.raises(InputError, match="0 adapters"):
        compare_at(home, "another", say=lambda _: None)
