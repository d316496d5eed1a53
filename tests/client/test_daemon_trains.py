"""Five daemons train the tiny base under differential privacy, and refuse what their directories do not allow."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from partsong.client.adapters.desk import verify
from partsong.client.adapters.store import AdapterStore
from partsong.client.rules.policy import (
    AdapterLimits,
    DataFloor,
    HoldingPolicy,
    Policy,
    PrivacyFloor,
    PurposePolicy,
)
from partsong.client.secure_sum.follow import Follower
from partsong.common import config, wire
from partsong.common.adapters.adapter import digest
from partsong.common.build import to_tree
from partsong.common.plan import Plan
from partsong.server.daemon.delivery import deliver
from partsong.server.run_files import RunFiles
from partsong.server.studies.publish import publish

BASE = Path(__file__).parents[1] / "fixtures" / "tiny-llama"
DP = {"mode": "dp", "epsilon": 8.0, "delta": 1e-3, "sampling_rate": 0.2, "noise_multiplier": 1.5}


def policy(base_sha256: str, **changes: Any) -> Policy:
    values: dict[str, Any] = {
        "holdings": {"records": HoldingPolicy(epsilon=20.0, delta=1e-3)},
        "purposes": {"train": PurposePolicy(approval="auto")},
        "privacy": PrivacyFloor(max_epsilon=8.0, max_delta=1e-3),
        "data": DataFloor(minimum_cohort=3, minimum_records=20, minimum_patients=5),
        "adapter": AdapterLimits(bases=(base_sha256,), target_modules=("q_proj", "v_proj"), max_r=2),
    }
    return Policy(**values | changes)


@pytest.fixture
def host(make_host: Callable[..., Any]) -> Any:
    return make_host()


@pytest.fixture
def plan(host: Any, make_site_plan: Callable[..., Plan]) -> Plan:
    """Two private rounds of one step."""
    return make_site_plan(
        host, privacy=DP, sites=5, rounds=2, data=config.DataConfig(max_length=64, unit_field="patient"),
        training=config.TrainingConfig(steps_per_round=1), secure_sum=config.SecureSumConfig(field_bits=32),
    )  # fmt: skip


@pytest.fixture
def training(fleet: Any, host: Any) -> Any:
    fleet.policy = policy(host.files.sha256)
    fleet.let_train(fleet, base=BASE)
    return fleet


def run_of(fleet: Any, plan: Plan, host: Any) -> Any:
    return fleet.run(plan, host.take(trained=False), host.take())


def rule_at(fleet: Any, plan: Plan, *, site: str = "a") -> str:
    """The rule that a site's operator finds beside a refused plan."""
    decision = fleet.sites[site].daemon.approvals.get(plan.sha256)
    return "" if decision is None else str(decision.rule)


def refusal(fleet: Any, plan: Plan, host: Any, *, site: str = "a") -> str:
    """Code that the coordinator gets for a proposal, or `accept`."""
    vector = wire.vector_bytes(host.take(trained=False)) + wire.vector_bytes(host.take())
    answer = fleet.sites[site].daemon.answer(wire.encode(wire.Propose(plan=plan)), vector=vector)
    if wire.kind_of(answer.header) == "accept":
        return "accept"
    return wire.decode(answer.header, wire.Refuse).code


def test_five_daemons_train_and_every_copy_is_the_published_adapter(training: Any, plan: Plan, host: Any) -> None:
    """All are killed between the rounds; each ledger holds two paid queries, each site's copy is the coordinator's."""
    run = run_of(training, plan, host)
    run.propose()

    run.round(1)
    for site in training.sites.values():
        site.start()
    run.round(2)
    checked = run.close()

    assert checked == ("a", "b", "c", "d", "e")
    assert not run.errors
    final = digest(run.state.adapter_P.astype("float32"))
    for site in training.sites.values():
        follower = Follower(site.home.plans / plan.sha256 / "copy.safetensors")
        follower.start(plan, host.take())
        assert follower.adapter_sha256 == final
        states = [site.ledger.state(f"{plan.sha256}:{n}:1") for n in (1, 2)]
        assert states == ["committed", "committed"]
        assert 0 < site.ledger.spent("records").epsilon <= 8.0


def test_an_update_that_waits_outlives_its_daemon(training: Any, plan: Plan, host: Any) -> None:
    """Killed between READY and ROSTER, the site is in the sum all the same, and pays once."""
    run = run_of(training, plan, host)
    run.propose()
    site = training.sites["c"]

    def before(_number: int, phase: str, name: str) -> None:
        if (phase, name) == ("roster", "c"):
            site.start()

    run.before = before
    run.round(1)

    assert run.survivors(1) == ("a", "b", "c", "d", "e")
    assert list(site.ledger.holding("records").claims) == [f"{plan.sha256}:1:1"]
    assert site.ledger.outstanding() == ()


def test_the_finished_adapter_reaches_every_site_and_a_forged_one_none(
    training: Any, plan: Plan, host: Any, tmp_path: Path
) -> None:
    """Offered, wanted, published, stored, to the last byte of the weights; then wanted no more."""
    run = run_of(training, plan, host)
    run.play()
    files, stored = RunFiles(tmp_path / "run"), []
    files.keep_plan(plan)
    options = {**to_tree(plan.lora), "peft_type": "LORA", "inference_mode": True}

    def published(trained_P: Any) -> tuple[str, ...]:
        publish(
            files.adapter, plan=plan, trained_P=trained_P, frozen_F=host.take(trained=False), peft=options,
            privacy={}, provenance={}, card="card",
        )  # fmt: skip
        stored.clear()
        deliver(run, [files], timeout_s=10.0, stored=lambda _files, site: stored.append(site))
        return tuple(stored)

    final_P = run.state.adapter_P.astype("float32")
    assert published(final_P + 1) == ()
    assert published(final_P) == ("a", "b", "c", "d", "e")
    assert published(final_P) == ()

    store = AdapterStore(training.sites["c"].home.adapters)
    current = store.find("")
    assert (current.plan, current.adapter) == (plan.sha256, digest(final_P))
    assert "follow from the sums" in verify(store, current, plans=training.sites["c"].home.plans)
    weights = (store.path(current) / "adapter_model.safetensors").read_bytes()
    assert weights == (files.adapter / "adapter_model.safetensors").read_bytes()


def test_downgraded_terms_are_refused_by_name(training: Any, plan: Plan, host: Any) -> None:
    """Raised epsilon, lowered cohort, another base, a lower noise, an unmasked sum; the untouched plan is accepted."""
    assert plan.dp is not None
    worse = {
        "privacy.max_epsilon": {"dp": dataclasses.replace(plan.dp, epsilon=9.0)},
        "data.minimum_cohort": {"minimum_cohort": 2},
        "adapter.bases": {"base_sha256": "0" * 64},
        "privacy.min_noise_multiplier": {"dp": dataclasses.replace(plan.dp, noise_multiplier=0.2)},
        "privacy.allow_secure_sum_off": {"masked": False},
        "privacy.allow_without_privacy": {"dp": None},
    }
    for rule, change in worse.items():
        odd = dataclasses.replace(plan, **change)
        assert refusal(training, odd, host) in ("policy", "model")
        assert rule_at(training, odd) == rule
    assert refusal(training, plan, host) == "accept"


def test_a_charter_with_a_higher_floor_than_the_policy_is_kept(training: Any, plan: Plan, host: Any) -> None:
    """The policy would allow three sites; the charter that everyone signed asks for four."""
    site = training.sites["a"]
    site.charter = dataclasses.replace(
        training.charter, version=2, previous=training.charter.hash.hex(), minimum_cohort=4
    )
    site.start()

    assert refusal(training, plan, host) == "policy"
    assert rule_at(training, plan) == "data.minimum_cohort"
    assert refusal(training, plan, host, site="b") == "accept"


def test_a_training_plan_with_a_seed_is_for_simulations(training: Any, plan: Plan, host: Any) -> None:
    """Nobody else chooses what a site draws."""
    seeded = dataclasses.replace(plan, dp=None, seed=3)

    assert refusal(training, seeded, host) == "policy"


def test_a_canary_that_looks_like_training_is_refused(training: Any, plan: Plan, host: Any) -> None:
    """With a model, a layout of an adapter or privacy terms it is none."""
    odd = dataclasses.replace(plan, study="canary")

    assert refusal(training, odd, host) == "plan"
    assert rule_at(training, odd) == "canary"


def test_records_that_change_are_counted_anew_and_what_was_spent_stays(training: Any, plan: Plan, host: Any) -> None:
    """Too few are left after the first round: the site refuses the next query, and its ledger stands."""
    run = run_of(training, plan, host)
    run.propose()
    run.round(1)
    site = training.sites["c"]
    spent = site.ledger.spent("records").epsilon
    file = Path(site.config.data.path)
    file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[:10]))

    run.round(2)

    assert run.survivors(2) == ("a", "b", "d", "e")
    assert site.ledger.spent("records").epsilon == spent
    assert len(site.ledger.holding("records").claims) == 1


def test_records_that_are_added_get_another_fingerprint_and_the_same_holding(
    training: Any, plan: Plan, host: Any
) -> None:
    """Both rounds are paid from one budget, each under the records of its day."""
    run = run_of(training, plan, host)
    run.propose()
    run.round(1)
    site = training.sites["c"]
    file = Path(site.config.data.path)
    file.write_text(file.read_text() + json.dumps({"prompt": "new", "completion": "A1", "patient": "p99"}) + "\n")

    run.round(2)

    claims = site.ledger.holding("records").claims.values()
    assert run.survivors(2) == ("a", "b", "c", "d", "e")
    assert len({claim.fingerprint for claim in claims}) == 2


def test_unreadable_records_are_refused_as_data(training: Any, plan: Plan, host: Any) -> None:
    """The coordinator learns the code alone."""
    Path(training.sites["a"].config.data.path).unlink()

    assert refusal(training, plan, host) == "data"
