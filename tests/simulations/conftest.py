"""Small federations for the tests: a few made-up records, a tiny pretrained base, one thread."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

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
from partsong.simulations.simulate import simulate

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


def _simulated(folder: Path, *overrides: str) -> Path:
    """Carry a run of five sites and three rounds to its published end; the vectors of two rounds stay."""
    words = list(CLASSES)
    records = folder / "prompts.jsonl"
    rows = [
        {"prompt": f"Case {i}: {CLASSES[words[i % 4]]}\nGroup:", "completion": f" {words[i % 4]}"} for i in range(60)
    ]
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = compose_simulation(
        [
            "model=local",
            f"model.source={FIXTURES / 'tiny-llama'}",
            "model.threads=1",
            "data=local",
            f"data.path={records}",
            "data.max_length=48",
            "partition.kind=iid",
            "sites=5",
            "rounds=3",
            "drop=[site-2@2]",
            "training.steps_per_round=1",
            "privacy=none",
            "privacy.sampling_rate=0.4",
            "seed=7",
            "adapter.r=64",
            "secure_sum.check_window=2",
            f"run_dir={folder / 'runs'}",
            *overrides,
        ]
    )
    return simulate(config, console=Console(quiet=True)).run.path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a finished run under the secure sum; not to be changed."""
    return _simulated(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="session")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a finished run that is different in all else: private, a classifier, all of LoRA trained, FedAdam.

    Round 2 has no sum: too few sites report.
    """
    folder = tmp_path_factory.mktemp("private")
    words = list(CLASSES)
    records = folder / "classes.jsonl"
    rows = [{"text": f"Case {i}: {CLASSES[words[i % 4]]}", "label": words[i % 4]} for i in range(60)]
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return _simulated(
        folder,
        f"model.source={FIXTURES / 'tiny-bert'}",
        "model.task=classification",
        f"data.path={records}",
        f"data.labels=[{','.join(words)}]",
        "adapter.target_modules=[query,value]",
        "adapter.method=fedit",
        "optimizer.name=fedadam",
        "privacy=dp",
        "privacy.epsilon=20",
        "privacy.delta=1e-2",
        "seed=null",
        "drop=[site-1@2,site-2@2,site-3@2]",
    )


@pytest.fixture(scope="session")
def unmasked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a finished run without the secure sum; not to be changed."""
    return _simulated(tmp_path_factory.mktemp("unmasked"), "secure_sum=off", "drop=[]")
