"""A run whose sites are asked group by group: what is trained, paid, told and verified."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from partsong.client.budget.ledger import Ledger
from partsong.common.config import SimulationConfig
from partsong.server.planning import epsilon_after
from partsong.simulations.simulate import simulate
from partsong.simulations.verify.run import verify

Configure = Callable[..., SimulationConfig]
GROUPED = ("cohort.groups=3", "sites=9", "secure_sum.corrupt_tolerance=0", "rounds=2", "training.steps_per_round=1")
PRIVATE = ("privacy=dp", "privacy.epsilon=6", "privacy.delta=1e-3", "seed=null")


def test_a_private_run_over_groups_is_paid_told_and_verified(configured: Configure, tmp_path: Path) -> None:
    """Masked, with differential privacy: each site pays for two of six rounds, and everything follows from the sums."""
    data = tmp_path / "twice.jsonl"
    data.write_text(2 * (tmp_path / "prompts.jsonl").read_text())

    done = simulate(configured(*GROUPED, *PRIVATE, f"data.path={data}"), console=Console(quiet=True))

    plan, folder = done.result.plan, done.run
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert plan.groups is not None
    assert [tuple(line["sites"]) for line in lines] == [plan.groups.asked(number) for number in range(1, 7)]
    for site in ("site-1", "site-9"):
        ledger = Ledger(folder.site_folder(site) / "ledger.sqlite")
        assert len(ledger.holding("records").claims) == 2
        ledger.close()
    report = folder.report.read_text()
    assert "each step is the median of 3 groups' averages" in report
    assert "each sum holds at least 3 sites" in report
    assert done.result.epsilon is not None
    assert 5.9 < done.result.epsilon <= 6
    assert verify(folder.path).wrong == ()


@pytest.mark.nightly
def test_an_epsilon_for_fewer_rounds_than_a_group_was_asked_is_found_out(configured: Configure, tmp_path: Path) -> None:
    """Two of three steps lack a group: five sums in seven rounds are not two rounds of each group."""
    data = tmp_path / "twice.jsonl"
    data.write_text(2 * (tmp_path / "prompts.jsonl").read_text())
    away = ",".join(f"site-{i}@{number}:train" for i in range(1, 10) for number in (5, 8))
    config = configured(*GROUPED, *PRIVATE, f"data.path={data}", "rounds=3", f"drop=[{away}]")
    done = simulate(config, console=Console(quiet=True))
    assert [line["round"] for line in done.result.history if line["sites"]] == [1, 2, 3, 4, 7]
    assert verify(done.run.path).wrong == ()
    file = done.run.path / "adapter" / "privacy.json"
    published = json.loads(file.read_text())
    published["guarantee"]["epsilon"] = epsilon_after(done.result.plan, 5)
    file.write_text(json.dumps(published))

    assert "adapter/privacy.json" in {finding.place for finding in verify(done.run.path).wrong}
