"""The command line, called as a user calls it, on a tiny pretrained base."""

import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

with warnings.catch_warnings():
    # typer still asks click for a name that click deprecates.
    warnings.filterwarnings("ignore", message="'click", category=DeprecationWarning)
    from partsong.simulations import cli

FIXTURES = Path(__file__).parents[1] / "fixtures"
WORDS = {"injury": "fracture of the wrist", "skin": "itching rash", "ear": "ringing ear", "spine": "stiff back"}
COMMAND = [sys.executable, "-P", "-c", "from partsong.simulations.cli import main; main()"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """How a call ended."""

    code: int
    out: str
    err: str


Call = Callable[..., Ran]
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call `partsong` in this process."""

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["partsong", *arguments])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return Ran(code=code, out=out, err=err)

    return run


@pytest.fixture
def rows() -> list[dict[str, str]]:
    """Sixty prompts with one-word answers."""
    names = list(WORDS)
    return [{"prompt": f"Case {i}: {WORDS[names[i % 4]]}\nGroup:", "completion": f" {names[i % 4]}"} for i in range(60)]


@pytest.fixture
def labelled() -> list[dict[str, str]]:
    """Thirty-six texts with a label."""
    names = list(WORDS)
    return [{"text": f"Case {i}: {WORDS[names[i % 4]]}", "label": names[i % 4]} for i in range(36)]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write JSON lines."""

    def to(name: str, lines: Sequence[Mapping[str, object]]) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return file

    return to


@pytest.fixture
def usual(tmp_path: Path, write: Write, rows: list[dict[str, str]]) -> list[str]:
    """Overrides of a small seeded run without privacy."""
    return [
        "model=local",
        f"model.source={FIXTURES / 'tiny-llama'}",
        "model.threads=1",
        "data=local",
        f"data.path={write('rows.jsonl', rows)}",
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


@pytest.fixture
def encoder(write: Write, labelled: list[dict[str, str]]) -> list[str]:
    """Overrides that turn the usual run into classification with an encoder."""
    file = write("labelled.jsonl", labelled)
    return [
        f"model.source={FIXTURES / 'tiny-bert'}",
        "model.task=classification",
        f"data.path={file}",
        f"data.held_out={file}",
        f"data.labels=[{','.join(WORDS)}]",
        "adapter.target_modules=[query,value]",
    ]


@pytest.fixture
def command() -> list[str]:
    """Start of a command line that runs `partsong` in another process."""
    return COMMAND


@pytest.fixture
def leftovers(tmp_path: Path) -> Callable[[], list[Path]]:
    """List everything under the directory of runs."""
    return lambda: sorted((tmp_path / "runs").rglob("*"))
