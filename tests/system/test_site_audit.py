"""`partsong audit --site DIR`: over real records, from the site's own budget, and nowhere else."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from partsong.client.budget.ledger import Ledger
from partsong.client.model.source import locate
from partsong.common.privacy.accounting import epsilon
from partsong.simulations.audit import at_site

Call = Callable[..., Any]

TINY = Path(__file__).parents[1] / "fixtures" / "tiny-llama"
SMALL = ("rounds=1", "training.steps_per_round=2", "privacy.epsilon=6", "privacy.delta=1e-6", "audit.canaries=20")
QUICK = (*SMALL, "audit.step_trials=100", "audit.texts=0")
BASE = "0" * 64


@pytest.fixture
def home(tmp_path: Path, write: Callable[..., Path], rows: list[dict[str, str]]) -> Path:
    """Make a site with sixty records whose policy allows audits."""
    folder = tmp_path / "north"
    folder.mkdir()
    site = {
        "name": "north",
        "coordinator": "localhost:7443",
        "model": {"source": str(TINY), "threads": 1},
        "data": {"path": str(write("north.jsonl", rows)), "max_length": 64},
    }
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    _policy(folder)
    return folder


def _policy(folder: Path, **changes: Any) -> None:
    policy: dict[str, Any] = {
        "holdings": {"records": {"epsilon": 20, "delta": 1e-6, "purposes": {"audit": 15}}},
        "purposes": {"audit": {}},
        "data": {"minimum_records": 10, "minimum_patients": None},
        "privacy": {"max_epsilon": 8},
        "adapter": {"target_modules": ["q_proj", "v_proj"]},
    }
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy | changes))


def _allow_base(home: Path) -> None:
    """Write the model's digest into the policy, as an operator does whose audit was refused for it."""
    adapter = {"target_modules": ["q_proj", "v_proj"], "bases": [locate(str(TINY), expected_sha256=None).sha256]}
    _policy(home, adapter=adapter)


def _claims(home: Path) -> dict[str, Any]:
    ledger = Ledger(home / "ledger.sqlite")
    try:
        return dict(ledger.holding("records").claims)
    finally:
        ledger.close()


def test_an_audit_of_real_records_is_charged_and_kept(call: Call, home: Path) -> None:
    """The ledger holds the rehearsal's events under the purpose audit; the result lies in the owner's own folder."""
    _allow_base(home)

    ran = call("audit", "--site", str(home), *QUICK, "--json")

    assert (ran.code, ran.err.count("charged to holding records")) == (0, 1)
    facts = json.loads(ran.out)
    (claim,) = _claims(home).values()
    spent = epsilon(list(claim.events), delta=1e-6).epsilon
    assert (claim.purpose, claim.events[0].records, sum(e.steps for e in claim.events)) == ("audit", 60, 2)
    assert facts["charged"]["epsilon"] == pytest.approx(spent, rel=0.01)
    assert (facts["kept"], facts["rehearsed"]["records_are"]) == ("at the site; never sent", "private")
    assert stat.S_IMODE((home / "audits").stat().st_mode) == 0o700
    assert json.loads(Path(facts["file"]).read_text())["charged"] == facts["charged"]


def test_random_texts_cost_a_second_rehearsal(call: Call, home: Path) -> None:
    """Watched once and trained once more: twice the steps."""
    _allow_base(home)

    ran = call("audit", "--site", str(home), *SMALL, "audit.step_trials=100", "audit.texts=20")

    (claim,) = _claims(home).values()
    assert (ran.code, sum(e.steps for e in claim.events)) == (0, 4)
    assert "60 private records" in ran.out


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"purposes": {"train": {}}}, "purposes"),
        ({"holdings": {"records": {"epsilon": 1, "delta": 1e-6}}}, "over_budget"),
        ({"holdings": {"others": {"epsilon": 20, "delta": 1e-6}}}, "unknown_holding"),
        ({"adapter": {"target_modules": ["q_proj", "v_proj"]}}, "adapter.bases"),
        ({"privacy": {"max_epsilon": 2}}, "privacy.max_epsilon"),
    ],
)
def test_a_policy_or_a_budget_that_says_no_stops_it_before_a_step(
    call: Call, home: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], rule: str
) -> None:
    """Refused by name, with exit code 1 or 2, nothing charged and nothing trained."""
    _allow_base(home)
    _policy(home, **{"adapter": yaml.safe_load((home / "policy.yaml").read_text())["adapter"], **changes})
    trained: list[str] = []
    monkeypatch.setattr(at_site, "rehearse", lambda *_a, **_k: trained.append("yes"))

    ran = call("audit", "--site", str(home), *QUICK)

    assert ran.code in (1, 2)
    assert rule in ran.err
    assert not trained
    if (home / "ledger.sqlite").exists():
        ledger = Ledger(home / "ledger.sqlite")
        assert all(not ledger.holding(name).claims for name in ledger.holdings())
        ledger.close()


def test_the_budget_is_final_before_the_first_step(call: Call, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stops the rehearsal, its cost stands."""
    _allow_base(home)

    def killed(*_a: Any, **_k: Any) -> None:
        ledger = Ledger(home / "ledger.sqlite")
        assert ledger.outstanding() == ()
        ledger.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(at_site, "rehearse", killed)

    ran = call("audit", "--site", str(home), *QUICK)

    assert ran.code == 130
    assert len(_claims(home)) == 1


@pytest.mark.parametrize("override", ["model=smollm2", "data.path=other.jsonl", "audit.records=public"])
def test_model_and_records_are_those_of_the_site(call: Call, home: Path, override: str) -> None:
    """Nothing on the command line can put other records, or another word about them, into it."""
    ran = call("audit", "--site", str(home), *QUICK, override)

    assert ran.code == 2
    assert "site.yaml" in ran.err
