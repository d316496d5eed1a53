"""Small federations for the tests: a few made-up records, a tiny pretrained base, one thread."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

with warnings.catch_warnings():
    # typer, which flwr imports, still asks click for a name that click deprecates.
    warnings.filterwarnings("ignore", message="'click", category=DeprecationWarning)
    import typer  # noqa: F401  # imported here so that it is not imported later with warnings as errors

from partsong.common.config import SimulationConfig
from partsong.simulations.configure import compose_simulation
from partsong.simulations.federation import Federation, Result
from partsong.simulations.marks import marks
from partsong.simulations.prepare import prepare
from partsong.simulations.run_dir import RunDir

FIXTURES = Path(__file__).parents[1] / "fixtures"
CLASSES = {"injury": "fracture of the wrist", "skin": "itching rash", "ear": "ringing ear", "spine": "stiff back"}

Configure = Callable[..., SimulationConfig]
Play = Callable[..., Result]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Sixty prompts with one-word answers."""
    words = list(CLASSES)
    rows = [
        {"prompt": f"Case {i}: {CLASSES[words[i % 4]]}\nGroup:", "completion": f" {words[i % 4]}", "ward": f"w{i % 3}"}
        for i in range(60)
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Thirty-six texts with a label."""
    words = list(CLASSES)
    rows = [{"text": f"Case {i}: {CLASSES[words[i % 4]]}", "label": words[i % 4]} for i in range(36)]
    file = tmp_path / "classes.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def configured(tmp_path: Path, prompts: Path) -> Configure:
    """Compose a small seeded run without privacy; later overrides win."""

    def compose(*overrides: str) -> SimulationConfig:
        usual = [
            "model=local",
            f"model.source={FIXTURES / 'tiny-llama'}",
            "model.threads=1",
            "data=local",
            f"data.path={prompts}",
            "data.max_length=48",
            "partition.kind=iid",
            "sites=3",
            "rounds=2",
            "training.steps_per_round=2",
            "privacy=none",
            "privacy.sampling_rate=0.4",
            "seed=7",
            f"run_dir={tmp_path / 'runs'}",
        ]
        return compose_simulation([*usual, *overrides])

    return compose


@pytest.fixture
def play(configured: Configure) -> Play:
    """Run a small federation in a fresh directory."""

    def run(*overrides: str, **more: object) -> Result:
        config = configured(*overrides)
        folder = RunDir.create(config, marks=marks(config))
        return Federation(prepare(config), folder, **more).run()

    return run
