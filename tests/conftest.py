"""Plans that fit no particular model, for tests that need any valid one."""

import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partsong.common.adapters.adapter import AdapterLayout, TensorSpec, digest
from partsong.common.config import ServerOptimizerConfig, TrainingConfig
from partsong.common.plan import LOSS, UPDATE, Plan
from partsong.common.privacy.terms import DpPlan
from partsong.common.secure_sum.fixed_point import Block, Encoding

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of click, by the typer that flwr brings along
    import flwr.app  # noqa: F401


def _dp(**changes: Any) -> DpPlan:
    values: dict[str, Any] = {
        "unit": "record",
        "contribution_bound": None,
        "epsilon": 8.0,
        "delta": 1e-4,
        "sampling_rate": 0.1,
        "clip_norm": 1.0,
        "clipping": "abadi",
        "noise_multiplier": 1.0,
        "loss_clip": 8.0,
        "loss_noise_multiplier": 4.0,
        "engine": "hooks",
        "noise": "gaussian",
    }
    return DpPlan(**values | changes)


def _plan(**changes: Any) -> Plan:
    layout = AdapterLayout(
        tensors=(
            TensorSpec(name="q.lora_A.weight", shape=(2, 3), trained=False),
            TensorSpec(name="q.lora_B.weight", shape=(4, 2), trained=True),
        )
    )
    encoding = Encoding(
        blocks=(
            Block(name=UPDATE, size=8, clip=4.0, norm="l2", rotate=True),
            Block(name=LOSS, size=1, clip=32.0, norm="linf", rotate=False),
        ),
        field_bits=32,
        max_sites=5,
    )
    values: dict[str, Any] = {
        "run": "run-1",
        "study": "train",
        "task": "causal_lm",
        "rounds": 3,
        "base_sha256": "b" * 64,
        "method": "ffa",
        "lora": {"r": 2, "lora_alpha": 4.0, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"},
        "layout": layout,
        "frozen_sha256": "f" * 64,
        "training": TrainingConfig(steps_per_round=2),
        "sampling_rate": 0.1,
        "dp": None,
        "encoding": encoding,
        "masked": False,
        "spot_checks": False,
        "start_sha256": "a" * 64,
        "optimizer": ServerOptimizerConfig(),
        "minimum_cohort": 3,
        "labels": (),
        "max_length": 64,
        "seed": None,
    }
    return Plan(**values | changes)


@pytest.fixture(scope="session")
def make_dp() -> Callable[..., DpPlan]:
    """Privacy terms with these changes."""
    return _dp


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    """A small valid plan with these changes."""
    return _plan


def _helper(name: str) -> Any:
    """Load a helper beside this file once, under a name that tests can import."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


_helper("wiring")
_helper("office")
_helper("lies")
_helper("loopback")
_helper("quiet_daemons")
_helper("fleet_site")
_helper("transport_fixtures")
_helper("ceremony")
_helper("daemon_fleet")
_helper("hostile")
_helper("rehearsed")
_helper("visitor")
_helper("dashboards")
_helper("site_bench")
_helper("one_machine")
_helper("fault_scripts")


def _masked_plan(**changes: Any) -> Plan:
    zeros = {"frozen_sha256": digest(np.zeros(6, np.float32)), "start_sha256": digest(np.zeros(8, np.float32))}
    return _plan(**{"masked": True, "rounds": 20, "dp": _dp(), **zeros} | changes)


@pytest.fixture(scope="session")
def make_masked_plan() -> Callable[..., Plan]:
    """A plan whose sums are masked, from an adapter of zeros, with these changes."""
    return _masked_plan


@pytest.fixture
def wired(tmp_path: Path) -> Callable[..., Any]:
    """Start a masked federation without a model; the plan's changes may be given."""

    def make(**changes: Any) -> Any:
        number = len(list(tmp_path.iterdir()))
        folder = tmp_path / f"wired-{number}"
        folder.mkdir()
        return _helper("wiring").Wired(folder, _masked_plan(**changes))

    return make


@pytest.fixture
def open_port(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open a coordinator's public port for sites of these names, on loopback, with certificates of its own."""
    with _helper("transport_fixtures").opened_ports(tmp_path) as make:
        yield make


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Any]:
    """Five site daemons and a coordinator."""
    made = _helper("daemon_fleet").Fleet(tmp_path)
    made.let_train = _helper("daemon_fleet").let_train
    yield made
    made.close()


@pytest.fixture
def office(tmp_path: Path) -> Callable[..., Any]:
    """Open a coordinator's directory with five sites connected."""

    def make(name: str = "office", **changes: Any) -> Any:
        folder = tmp_path / name
        folder.mkdir()
        return _helper("office").Office(folder, _masked_plan(), **changes)

    return make


@pytest.fixture(scope="session")
def _founded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return _helper("ceremony").found(tmp_path_factory.mktemp("founded"))


@pytest.fixture
def ceremony(_founded: Any, tmp_path: Path) -> Any:
    """A consortium of three sites whose first charter is in force everywhere, on directories of this test's own."""
    return _founded.copy(tmp_path / "ceremony")


@pytest.fixture(scope="session")
def _joining(_founded: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = _founded.copy(tmp_path_factory.mktemp("joining") / "ceremony")
    made.join("zagreb")
    return made


@pytest.fixture
def joining(_joining: Any, tmp_path: Path) -> Any:
    """As `ceremony`, and a fourth site, zagreb, is enrolled but stands in no charter yet."""
    return _joining.copy(tmp_path / "ceremony")
