"""The tiny pretrained bases, loaded with adapters, and records for them."""

import dataclasses
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from site_bench import RULES, Bench, MakeBench

from partsong.client.data.encode import Encoded, EncodingReport, Record
from partsong.client.model.host import ModelHost
from partsong.client.model.load import load
from partsong.client.rules.consent import Rules
from partsong.common.config import (
    AdapterConfig,
    CohortConfig,
    DataConfig,
    ModelConfig,
    PrivacyConfig,
    SecureSumConfig,
    SimulationConfig,
    TrainingConfig,
)
from partsong.common.plan import Plan
from partsong.server.planning import Base
from partsong.server.questions.planning import plan_of_purpose

FIXTURES = Path(__file__).parent.parent / "fixtures"
LABELS = ("heart", "lung", "skin")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two cores are shared with other tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def _host(base: str = "tiny-llama", *, model: dict[str, Any] | None = None, **adapter: Any) -> ModelHost:
    classifies = base == "tiny-bert" or (model or {}).get("task") == "classification"
    targets = ("query", "value") if base == "tiny-bert" else ("q_proj", "v_proj")
    settings = {
        "source": str(FIXTURES / base),
        "task": "classification" if classifies else "causal_lm",
        "device": "cpu",
    }
    return load(
        ModelConfig(**settings | (model or {})),
        AdapterConfig(**{"r": 2, "lora_alpha": 4.0, "target_modules": targets} | adapter),
        labels=LABELS if classifies else (),
    )


@pytest.fixture
def make_host() -> Callable[..., ModelHost]:
    """Load a tiny base with an adapter."""
    return _host


@pytest.fixture
def llama() -> ModelHost:
    """A causal host whose adapter is not zero."""
    return _stirred(_host())


@pytest.fixture
def bert() -> ModelHost:
    """A classifying host whose adapter is not zero."""
    return _stirred(_host("tiny-bert"))


def _stirred(host: ModelHost) -> ModelHost:
    rng = np.random.default_rng(3)
    host.put((0.3 * rng.standard_normal(host.layout.size(trained=True))).astype(np.float32))
    return host


def _records(lengths: tuple[int, ...] = (9, 3, 6, 2, 12), *, prompt: int = 1, seed: int = 5) -> tuple[Record, ...]:
    """Records of random tokens; loss is taken after `prompt` tokens; classes go round."""
    rng = np.random.default_rng(seed)
    records = []
    for i, length in enumerate(lengths):
        ids_T = rng.integers(3, 1024, length).astype(np.int32)
        labels_T = ids_T.copy()
        labels_T[: min(prompt, length)] = -100
        records.append(Record(input_ids=ids_T, labels=labels_T, label=i % len(LABELS), unit=None))
    return tuple(records)


@pytest.fixture
def make_records() -> Callable[..., tuple[Record, ...]]:
    """Random records of these lengths."""
    return _records


@pytest.fixture(autouse=True)
def no_renaming_warnings() -> Iterator[None]:
    """PEFT asks transformers for an attribute by its old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def _site_plan(host: ModelHost, *, privacy: dict[str, Any] | None = None, sites: int = 3, **config: Any) -> Plan:
    layout = host.layout
    settings: dict[str, Any] = {
        "model": ModelConfig(source="x", task="classification" if host.is_classifier else "causal_lm"),
        "data": DataConfig(unit_field="patient"),
        "adapter": AdapterConfig(r=2, lora_alpha=4.0),
        "privacy": PrivacyConfig(**{"mode": "none", "sampling_rate": 0.5} | (privacy or {})),
        "training": TrainingConfig(steps_per_round=2),
        "cohort": CohortConfig(minimum=min(sites, 3)),
        "secure_sum": SecureSumConfig(field_bits=32, mode="off"),
        "rounds": 3,
    }
    return plan_of_purpose(
        SimulationConfig(**settings | config),
        run="run-1",
        max_sites=sites,
        base=Base(sha256=host.files.sha256, lora=host.lora_options, layout=layout),
        labels=LABELS if host.is_classifier else (),
        frozen_F=host.take(trained=False),
        start_P=host.take(),
    )


@pytest.fixture
def make_site_plan() -> Callable[..., Plan]:
    """The plan that a coordinator would make for this host."""
    return _site_plan


def _encoded(records: tuple[Record, ...]) -> Encoded:
    tokens = sum(len(r.input_ids) for r in records)
    report = EncodingReport(
        records=len(records), truncated=0, tokens=tokens, tokens_cut=0, without_loss=0, longest=tokens, max_length=512
    )
    return Encoded(records=records, report=report)


@pytest.fixture
def make_encoded() -> Callable[..., Encoded]:
    """Records as a site holds them."""
    return _encoded


def _beside(name: str) -> Any:
    """Load a helper beside this file under a name that tests can import."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def fleet_end() -> Any:
    """Flower's own server, loaded when a test first needs it."""
    return _beside("fleet_end")


@pytest.fixture(scope="session")
def networks() -> Any:
    """Networks in between."""
    return _beside("networks")


@pytest.fixture
def make_bench(
    make_host: Callable[..., ModelHost],
    make_records: Callable[..., tuple[Record, ...]],
    make_encoded: Callable[..., Encoded],
    make_site_plan: Callable[..., Plan],
    tmp_path: Path,
) -> Iterator[MakeBench]:
    """A site with twelve records and a plan that fits it."""

    def make(*, rules: Rules = RULES, **config: Any) -> Bench:
        host = make_host()
        records = make_records((5, 7, 4) * 4)
        encoded = make_encoded(tuple(dataclasses.replace(r, unit=f"p{i % 5}") for i, r in enumerate(records)))
        folder = tmp_path / "site"
        folder.mkdir()
        made.append(Bench(host, encoded, make_site_plan(host, **config), folder / "journal.jsonl", rules))
        return made[-1]

    made: list[Bench] = []
    yield make
    for bench in made:
        bench.ledger.close()
