"""A whole run over patients, and what each of its outputs says of them."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError
from partsong.common.privacy.accounting import neighbours
from partsong.server.planning import epsilon_after
from partsong.simulations.simulate import Finished, simulate

Configure = Callable[..., SimulationConfig]
PRIVATE = (
    "privacy=dp",
    "seed=null",
    "privacy.epsilon=20",
    "privacy.noise_multiplier=0.45",
    "privacy.delta=2e-2",
    "evaluate_every=0",
)


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """Thirty-six patients of one, two or three records."""
    rows = [
        {"prompt": f"case {i}.{k}:", "completion": " skin", "patient": f"mrn-{i:03d}"}
        for i in range(36)
        for k in range(1 + i % 3)
    ]
    file = tmp_path / "patients.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def run(configured: Configure, file: Path, *overrides: str) -> tuple[Finished, str]:
    out = io.StringIO()
    config = configured(f"data.path={file}", "data.unit_field=patient", *PRIVATE, *overrides)
    return simulate(config, console=Console(file=out, width=200)), out.getvalue()


def read(done: Finished) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Report, privacy.json, and what the first site keeps for itself."""
    own = json.loads((done.run.path / "sites" / "site-1" / "patients.json").read_text())
    return done.run.report.read_text(), json.loads((done.run.adapter / "privacy.json").read_text()), own


def test_a_run_over_patients_says_so_wherever_it_names_epsilon(configured: Configure, patients: Path) -> None:
    """Terminal, report, privacy.json and history; the budget holds for patients, and at two sites the composition."""
    done, said = run(configured, patients, "privacy.unit=patient", "privacy.contribution_bound=2")

    report, privacy, own = read(done)
    plan, spent = done.result.plan, done.result.epsilon
    assert plan.dp is not None
    assert (plan.dp.unit, plan.dp.contribution_bound) == ("patient", 2)
    assert spent is not None
    assert 0 < spent <= 20
    assert "of 20 per patient" in said
    assert neighbours("patient") in report
    assert privacy["guarantee"] == {
        "epsilon": spent,
        "delta": 0.02,
        "unit": "patient",
        "contribution_bound": 2,
        "neighbours": neighbours("patient"),
        "placement": "site",
    }
    assert privacy["across_sites"]["unit_at_two_sites"] == epsilon_after(plan, 2, sites=2) > spent
    assert (own["unit"], own["patients"], own["epsilons"]) == ("patient", 12, [])


def test_a_record_level_run_tells_each_site_what_it_means_for_patients(configured: Configure, patients: Path) -> None:
    """Only there: neither report nor plan nor history holds a number of patients, or anybody's name."""
    done, said = run(configured, patients)

    report, privacy, own = read(done)
    assert own["unit"] == "record"
    assert [records for records, _ in own["epsilons"]] == [1, 2, 3]
    assert own["epsilons"][0][1] == done.result.epsilon < own["epsilons"][1][1] < own["epsilons"][2][1]
    assert "site-1 (shown at the site only): the plan hides single records" in said
    public = [report, json.dumps(privacy), done.run.plan.read_text(), done.run.metrics.read_text()]
    assert not any(re.search(r"12 patients|mrn-\d|median", text) for text in public)


def test_delta_counts_patients_where_they_are_the_unit(configured: Configure, patients: Path) -> None:
    """24 records of 12 patients a site: a delta of .05 is too large for the records and small enough for patients."""
    with pytest.raises(ConfigError, match=r"privacy\.delta: found 0\.06 with 2\d records"):
        run(configured, patients, "privacy.delta=0.06")

    done, _ = run(configured, patients, "privacy.delta=0.06", "privacy.unit=patient", "rounds=1")
    assert done.result.epsilon is not None
