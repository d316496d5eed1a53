"""Federations whose sites bring their noise together, from end to end."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from partsong.client.budget.ledger import Ledger
from partsong.client.budget.ledger_export import summaries
from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError
from partsong.common.privacy.accounting import epsilon
from partsong.server.planning import epsilon_after
from partsong.simulations.audit.settings import compose_rehearsal
from partsong.simulations.federation import Federation, draft
from partsong.simulations.marks import marks
from partsong.simulations.prepare import prepare
from partsong.simulations.run_dir import RunDir
from partsong.simulations.simulate import simulate
from partsong.simulations.verify.run import verify

SHARED = [
    "sites=5",
    "rounds=3",
    "seed=null",
    "training.steps_per_round=1",
    "training.optim=sgd",
    "training.learning_rate=0.5",
    "optimizer.name=fedavgm",
    "privacy=dp",
    "privacy.placement=sum",
    "privacy.expected_batch=24",
    "privacy.epsilon=12",
    "privacy.delta=1e-2",
]


@pytest.fixture
def shared(configured: Callable[..., SimulationConfig]) -> Callable[..., SimulationConfig]:
    """Five sites of twelve records; a sum of four, one of whom may collude."""
    return lambda *overrides: configured(*SHARED, *overrides)


def test_a_run_says_where_its_noise_is_and_verifies(shared: Callable[..., SimulationConfig]) -> None:
    """A site drops out of round 2: the sums of rounds are taken, each ledger holds both epsilons, and all of it adds up."""
    done = simulate(shared("drop=[site-2@2]"), console=Console(quiet=True))

    plan, path = done.result.plan, done.run.path
    assert plan.on_sum is not None
    assert (plan.on_sum.minimum_sum, plan.on_sum.colluders) == (4, 1)
    assert [len(entry["sites"]) for entry in done.result.history] == [5, 4, 5]
    assert done.result.epsilon == pytest.approx(12.0, rel=2e-3)
    assert done.result.epsilon <= 12.0
    guarantee = json.loads((path / "adapter" / "privacy.json").read_text())["guarantee"]
    alone = epsilon([plan.events_alone(steps=3)], delta=1e-2).epsilon
    assert guarantee["placement"]["sum"] == {"minimum_sum": 4, "colluders": 1, "epsilon_alone": alone}
    assert "noise ON THE SUM of at least 4 sites, 1 of which may collude" in (path / "report.txt").read_text()
    held = _holding(path, "site-1")
    assert (held.spent.epsilon, held.alone.epsilon) == (pytest.approx(12.0, rel=2e-2), pytest.approx(alone, rel=2e-2))
    assert held.alone.epsilon > 1.5 * held.spent.epsilon
    found = verify(path)
    assert not found.wrong
    assert any("noise on the sum of at least 4 sites" in finding.detail for finding in found.findings)


def test_a_round_below_the_floor_is_spent_and_asked_no_more(shared: Callable[..., SimulationConfig]) -> None:
    """Two of five drop out after READY: no sum, nothing sent again, and every ledger of a sealed vector has paid."""
    config = shared("drop=[site-2@2,site-3@2]")
    folder = RunDir.create(config, marks=marks(config))

    result = Federation(prepare(config), folder).run()

    assert [len(entry["sites"]) for entry in result.history] == [5, 0, 5]
    assert result.epsilon == epsilon_after(result.plan, 3)
    assert _claims(folder.path, "site-1") == 3


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("training.steps_per_round=2", "a second local step starts from a site's own sum"),
        ("secure_sum=off", "one site's share of the noise hides none of its records"),
        ("secure_sum.mode=sum-only", "one site's share of the noise hides none of its records"),
        ("training.optim=adamw", "no site takes a step of its own"),
        ("training.weight_decay=0.1", "no site takes a step of its own"),
        ("training.prox_mu=0.1", "a single step starts at the global adapter"),
        ("adapter.method=fedrot", "which none of them turns"),
        ("privacy=none", "there is no noise to place"),
        ("secure_sum.weights=[1,1,1,1,2]", "every share of the noise has to count alike"),
        ("measure_aggregation=true", "a sum of gradients loses nothing"),
        ("secure_sum.field_bits=14", "field_bits of at least"),
    ],
)
def test_what_noise_on_the_sum_cannot_be_under_is_refused_by_name(
    shared: Callable[..., SimulationConfig], override: str, named: str
) -> None:
    """Before a plan is made, with the reason."""
    config = shared(override)
    prepared = prepare(config)

    with pytest.raises(ConfigError, match=named):
        draft(prepared, tuple(sorted(prepared.sites)), run="r")


@pytest.mark.parametrize("overrides", [["privacy.expected_batch=null"], ["privacy.placement=site"]])
def test_the_batch_is_a_public_number_and_belongs_to_the_sum(
    shared: Callable[..., SimulationConfig], overrides: list[str]
) -> None:
    """It is asked for, and never counted from records; without a sum to divide it is a mistake."""
    with pytest.raises(ConfigError, match="expected_batch with placement=sum"):
        shared(*overrides)


def test_an_audit_of_one_site_does_not_rehearse_the_noise_of_several() -> None:
    """The engine is audited with noise that is enough by itself."""
    with pytest.raises(ConfigError, match=r"privacy\.placement"):
        compose_rehearsal(["data=icd10", *(o for o in SHARED if not o.startswith("seed"))])


def _holding(path: Path, site: str):
    ledger = Ledger(path / "sites" / site / "ledger.sqlite")
    try:
        return summaries(ledger)[0]
    finally:
        ledger.close()


def _claims(path: Path, site: str) -> int:
    return _holding(path, site).claims


def test_the_whole_noise_is_no_less_than_that_of_one_site(shared: Callable[..., SimulationConfig]) -> None:
    """Same budget: each of five sites adds a share below what it would have to add by itself."""
    plans = []
    for overrides in ([], ["privacy.placement=site", "privacy.expected_batch=null"]):
        prepared = prepare(shared(*overrides))
        plans.append(draft(prepared, tuple(sorted(prepared.sites)), run="r")[0])
    together, apart = plans

    share = together.noised(1).share_stds["update"]

    assert share == pytest.approx(apart.dp.noise_multiplier * apart.dp.clip_norm / math.sqrt(3), rel=2e-2)
