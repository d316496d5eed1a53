"""The model of a daemon is built for the plan, on first need, and for no plan that breaks the site's limits."""

import dataclasses
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partsong.client.daemon.records import SiteRecords
from partsong.client.dp.sampler import SeededRandomness
from partsong.client.encoders.encoder import LocalRound
from partsong.client.encoders.lazy import LazyLora
from partsong.client.encoders.lora import LoraTraining
from partsong.client.encoders.resident import ResidentModel
from partsong.client.model.from_plan import adapter_of
from partsong.client.rules.consent import NotAgreed, Rules, check_plan
from partsong.common.config import AdapterConfig, DataConfig, ModelConfig
from partsong.common.errors import ModelError
from partsong.common.plan import Plan

FIXTURES = Path(__file__).parents[2] / "fixtures"
RULES = Rules(allow_without_privacy=True, minimum_records=1, max_rank=4)
SHORT = DataConfig(max_length=128)
LABELS = ("heart", "lung", "skin")


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    rows = [{"prompt": f"code of case {n}", "completion": f"A{n}", "patient": f"p{n % 3}"} for n in range(8)]
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(path=str(file), unit_field="patient", max_length=512)


def lazy_of(data: DataConfig, *, base: str = "tiny-llama", rules: Rules = RULES, **model: Any) -> LazyLora:
    config = ModelConfig(**{"source": str(FIXTURES / base), "device": "cpu"} | model)
    return LazyLora(
        model=config, data=data, rules=rules, records=SiteRecords(data).snapshot(), resident=ResidentModel(config)
    )


@pytest.mark.parametrize(
    "adapter",
    [
        {},
        {"method": "fedit"},
        {"last_layers": 1},
        {"target_modules": ("all-linear",)},
        {"peft": {"use_rslora": True}, "a_init": "kaiming", "seed": 5},
        {"method": "rolora"},
        {"method": "fedsb", "a_init": "public_svd"},
        {"method": "fedrot"},
        {"refresh": 2},
    ],
    ids=str,
)
def test_what_a_plan_lays_out_is_what_is_built(
    make_host: Callable[..., Any], make_site_plan: Callable[..., Plan], data: DataConfig, adapter: dict[str, Any]
) -> None:
    """Layout and options are those of the coordinator's own model, and the site's rules accept them."""
    host = make_host(**adapter)
    plan = make_site_plan(
        host, data=SHORT, adapter=AdapterConfig(**{k: v for k, v in adapter.items() if k in ("method", "refresh")})
    )
    lazy = lazy_of(data)

    facts = lazy.facts(plan)

    assert (facts.layout, facts.base_sha256) == (host.layout, host.files.sha256)
    assert (facts.records, facts.patients) == (8, 3)
    check_plan(dataclasses.replace(plan, masked=True), RULES, facts)


def test_a_classification_plan_brings_its_head_and_labels(
    make_host: Callable[..., Any], make_site_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    """The site that names no labels takes those of the plan, one that names others refuses."""
    file = tmp_path / "labelled.jsonl"
    file.write_text("".join(json.dumps({"text": f"note {n}", "label": LABELS[n % 3]}) + "\n" for n in range(6)))
    host = make_host("tiny-bert")
    plan = make_site_plan(host, data=DataConfig(max_length=64))
    data = DataConfig(path=str(file), max_length=64)
    task = {"base": "tiny-bert", "task": "classification"}

    facts = lazy_of(data, **task).facts(plan)
    other = lazy_of(dataclasses.replace(data, labels=("a", "b")), **task).facts(plan)

    assert (facts.layout, facts.labels) == (host.layout, LABELS)
    assert other.labels == ("a", "b")
    with pytest.raises(NotAgreed, match="labels"):
        check_plan(dataclasses.replace(plan, masked=True), RULES, other)


def test_a_plan_beyond_the_limits_gets_no_model(
    make_host: Callable[..., Any], make_site_plan: Callable[..., Plan], data: DataConfig
) -> None:
    """Another base, a larger rank, longer records: the rule is named, and nothing was loaded."""
    plan = make_site_plan(make_host(), data=SHORT)
    lazy = lazy_of(data)
    for changes, rule in (
        ({"base_sha256": "0" * 64}, "model"),
        ({"lora": {**plan.lora, "r": 64}}, "adapter.max_r"),
        ({"max_length": 4096}, "model"),
        ({"minimum_cohort": 2}, "data.minimum_cohort"),
    ):
        odd = dataclasses.replace(plan, **changes)

        with pytest.raises(NotAgreed) as refused:
            check_plan(odd, RULES, lazy.facts(odd))

        assert refused.value.rule == rule
    assert not lazy.resident.is_loaded
    lazy.facts(plan)
    assert lazy.resident.is_loaded


@pytest.mark.parametrize(
    "change",
    [
        {"lora": {"r": 2, "lora_alpha": 4.0, "target_modules": ["nothing"], "task_type": "CAUSAL_LM"}},
        {"lora": {"r": "2", "lora_alpha": 4.0, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}},
        {"lora": {"r": 2, "lora_alpha": 4.0, "target_modules": ["q_proj"], "use_dora": True}},
        {"method": "fedit"},
        {"task": "classification", "labels": ("a", "b")},
    ],
    ids=["target", "type", "dora", "method", "task"],
)
def test_a_plan_that_no_adapter_here_fits_is_refused_with_the_code_model(
    make_host: Callable[..., Any], make_site_plan: Callable[..., Plan], data: DataConfig, change: dict[str, Any]
) -> None:
    """Whether it cannot be built, or is built and is another one."""
    plan = dataclasses.replace(make_site_plan(make_host(), data=SHORT), **change)

    with pytest.raises(NotAgreed) as refused:
        lazy_of(data).facts(plan)

    assert refused.value.code == "model"


def test_an_option_of_the_wrong_type_is_no_adapter(make_plan: Callable[..., Plan]) -> None:
    """It is refused before PEFT sees it."""
    with pytest.raises(ModelError, match=r"plan\.lora\.r"):
        adapter_of(make_plan(lora={"r": True, "lora_alpha": 1.0, "target_modules": ["q_proj"]}))


def test_two_plans_share_one_model_and_each_trains_as_if_it_were_alone(
    make_host: Callable[..., Any], make_site_plan: Callable[..., Plan], data: DataConfig
) -> None:
    """A second source: an encoder on a model of its own gives the same update to the last bit."""
    host = make_host()
    fedit = AdapterConfig(method="fedit")
    first = make_site_plan(host, data=SHORT)
    second = make_site_plan(make_host(method="fedit"), data=SHORT, adapter=fedit)
    lazy = lazy_of(data)
    encoded = (
        SiteRecords(data)
        .snapshot()
        .encoded(host.tokenizer, dataclasses.replace(data, max_length=128), task="causal_lm")
    )
    starts = {p.sha256: h for p, h in ((first, host), (second, make_host(method="fedit")))}

    def update(encoder: Any, plan: Plan) -> bytes:
        own = make_host(method=plan.method)
        done = encoder.encode(LocalRound(
            plan=plan, number=1, frozen_F=own.take(trained=False), adapter_P=own.take(),
            randomness=SeededRandomness(b"x"), on_step=lambda _p: None,
        ))  # fmt: skip
        return bytes(done.update_P.tobytes())

    together = [update(lazy, plan) for plan in (first, second, first)]

    alone = [update(LoraTraining(host=starts[p.sha256], encoded=encoded, labels=()), p) for p in (first, second)]
    assert together == [*alone, alone[0]]
    assert np.frombuffer(together[0], np.float32).any()


def test_a_model_makes_room_for_the_next_one(
    make_host: Callable[..., Any], make_site_plan: Callable[..., Plan], data: DataConfig
) -> None:
    """Once another plan needs another adapter, nothing holds the one before, although both plans were trained."""
    fedit = AdapterConfig(method="fedit")
    plans = [
        (make_site_plan(make_host(), data=SHORT), make_host()),
        (make_site_plan(make_host(method="fedit"), data=SHORT, adapter=fedit), make_host(method="fedit")),
    ]
    lazy, gone = lazy_of(data), []

    for plan, host in plans:
        lazy.encode(LocalRound(
            plan=plan, number=1, frozen_F=host.take(trained=False), adapter_P=host.take(),
            randomness=SeededRandomness(b"x"), on_step=lambda _p: None,
        ))  # fmt: skip
        gone.append(weakref.ref(lazy.resident.host_for(plan)))

    assert [ref() is None for ref in gone] == [True, False]
