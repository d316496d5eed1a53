"""What a run hands over: streams, report, adapter, exports, marks, and not a word of a record."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from partsong.common.build import build, sha256_of
from partsong.common.config import SimulationConfig
from partsong.simulations.configure import compose_simulation

Call = Callable[..., Any]
Write = Callable[..., Path]

FIXTURES = Path(__file__).parents[1] / "fixtures"
NOT_PRIVATE = "NOT PRIVATE: privacy.mode=none"
SEEDED = "SEEDED: sampling is repeatable"
UNMASKED = "UNMASKED"
ONE_PROCESS = "SIMULATION: one process plays all sites"
SHORT = ("rounds=1", "training.steps_per_round=1")
PRIVATE = ("privacy=dp", "seed=null", "privacy.epsilon=3", "privacy.delta=1e-3")


def only_run(tmp_path: Path) -> Path:
    """The one run that there is."""
    return next((tmp_path / "runs").iterdir())


def logits(model: torch.nn.Module, folder: Path) -> torch.Tensor:
    """Of one fixed text."""
    tokens = AutoTokenizer.from_pretrained(folder, local_files_only=True)("fracture of the wrist", return_tensors="pt")
    model.eval()
    with torch.no_grad():
        return model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits


@pytest.mark.parametrize("privacy", [(), PRIVATE], ids=["plain", "private"])
@pytest.mark.parametrize("task", ["causal_lm", "classification"])
def test_stdout_holds_results_and_stderr_talk(
    call: Call, usual: list[str], encoder: list[str], tmp_path: Path, task: str, privacy: tuple[str, ...]
) -> None:
    """The report and the two paths on one, progress on the other; no library says a word."""
    ran = call("simulate", *usual, *(encoder if task == "classification" else []), *SHORT, *privacy)

    run = only_run(tmp_path)
    assert ran.code == 0
    assert (
        ran.out == (run / "report.txt").read_text() + f"\nadapter: {run / 'adapter'}\nreport:  {run / 'report.txt'}\n"
    )
    allowed = (
        "tokenising",
        "run directory:",
        "! ",
        "  site-",
        "simulation: round",
        "  held-out loss",
        "  3 of 3 sites recomputed",
    )
    assert [line for line in ran.err.splitlines() if not line.startswith(allowed)] == []


def test_json_output_is_one_object_with_the_marks(call: Call, usual: list[str], tmp_path: Path) -> None:
    """`--json` parses and says what the run does not protect."""
    ran = call("simulate", "--json", *usual, *SHORT)

    facts = json.loads(ran.out)
    assert facts["run"] == str(only_run(tmp_path))
    assert [entry["round"] for entry in facts["rounds"]] == [1]
    assert [mark.split(":")[0] for mark in facts["marks"]] == ["NOT PRIVATE", "SEEDED", "SIMULATION"]
    assert (facts["secure_sum"]["members"], facts["secure_sum"]["checked_by"]) == (3, ["site-1", "site-2", "site-3"])


def test_a_run_that_is_not_private_says_so_everywhere(call: Call, usual: list[str], tmp_path: Path) -> None:
    """Terminal, report, model card, privacy.json, run.json, and the line of each round; unmasked as well."""
    ran = call("simulate", *usual, *SHORT, "secure_sum=off")

    run = only_run(tmp_path)
    places = {
        "terminal": ran.err,
        "result": ran.out,
        "report": (run / "report.txt").read_text(),
        "card": (run / "adapter" / "README.md").read_text(),
        "privacy": (run / "adapter" / "privacy.json").read_text(),
        "run": (run / "run.json").read_text(),
    }
    for mark in (NOT_PRIVATE, SEEDED, UNMASKED, ONE_PROCESS):
        assert [name for name, text in places.items() if mark not in text] == []
    assert json.loads(places["privacy"])["guarantee"] is None
    assert "not-private" in places["card"]
    assert "federation loss" in ran.err
    assert "NOT PRIVATE;" in ran.err


def test_a_private_run_does_not_say_that_it_is_not(call: Call, usual: list[str], tmp_path: Path) -> None:
    """The marks above depend on the run; the guarantee is stated with its unit and its delta."""
    ran = call("simulate", "--json", *usual, *SHORT, *PRIVATE)

    run = only_run(tmp_path)
    texts = ran.err + ran.out + "".join(f.read_text() for f in run.rglob("*") if f.suffix in (".json", ".txt", ".md"))
    assert "NOT PRIVATE" not in texts
    assert "SEEDED" not in texts
    assert UNMASKED not in texts
    report = (run / "report.txt").read_text()
    assert "nobody: vectors were masked" in report
    assert "checked: 3 of 3 sites recomputed the adapter from the sums and signed" in report
    assert json.loads(ran.out)["guarantee"] == json.loads((run / "adapter" / "privacy.json").read_text())["guarantee"]
    guarantee = json.loads((run / "adapter" / "privacy.json").read_text())["guarantee"]
    assert 0 < guarantee["epsilon"] <= 3
    assert (guarantee["delta"], guarantee["unit"]) == (1e-3, "record")


@pytest.mark.parametrize("privacy", [(), PRIVATE], ids=["plain", "private"])
@pytest.mark.parametrize("task", ["causal_lm", "classification"])
def test_no_word_of_a_record_leaves_its_file(
    call: Call, usual: list[str], encoder: list[str], write: Write, tmp_path: Path, task: str, privacy: tuple[str, ...]
) -> None:
    """A word that stands in texts and answers is in no file of the run and in no output."""
    marker = "xyzzyplugh"
    if task == "classification":
        rows = [{"text": f"{marker} {i}", "label": ["skin", "ear"][i % 2]} for i in range(36)]
    else:
        rows = [{"prompt": f"{marker} {i}", "completion": f" {marker}"} for i in range(36)]
    held_out = write("marked.jsonl", rows)

    ran = call(
        "simulate", *usual, *(encoder if task == "classification" else []), *SHORT, *privacy,
        f"data.path={held_out}", f"data.held_out={held_out}",
    )  # fmt: skip

    assert ran.code == 0, ran.err
    files = [file for file in only_run(tmp_path).rglob("*") if file.is_file()]
    assert len(files) > 10
    assert [file.name for file in files if marker.encode() in file.read_bytes()] == []
    assert marker not in ran.out + ran.err


def test_the_resolved_configuration_and_its_hash_are_stored(call: Call, usual: list[str], tmp_path: Path) -> None:
    """config.yaml builds to what was composed; run.json holds its SHA-256."""
    call("simulate", *usual, *SHORT)

    run = only_run(tmp_path)
    stored = build(SimulationConfig, yaml.safe_load((run / "config.yaml").read_text()))
    assert stored == compose_simulation([*usual, *SHORT])
    assert json.loads((run / "run.json").read_text())["config_sha256"] == sha256_of(stored)
    assert json.loads((run / "adapter" / "provenance.json").read_text())["config_sha256"] == sha256_of(stored)


def test_cfg_job_prints_what_composes_back(call: Call, usual: list[str], tmp_path: Path) -> None:
    """The YAML on stdout is the configuration, whole; nothing is started."""
    wished = [*usual, "drop=['site-1@2']", "adapter.peft.use_rslora=true", "privacy.delta=1e-7"]
    ran = call("simulate", "--cfg", "job", *wished)

    assert ran.code == 0
    assert build(SimulationConfig, yaml.safe_load(ran.out)) == compose_simulation(wished)
    assert not (tmp_path / "runs").exists()


def test_cfg_job_of_a_run_prints_the_runs_own(call: Call, usual: list[str], tmp_path: Path) -> None:
    """`--resume RUN --cfg job` does not ignore the run."""
    call("simulate", *usual, *SHORT)
    ran = call("simulate", "--resume", str(only_run(tmp_path)), "--cfg", "job")

    assert build(SimulationConfig, yaml.safe_load(ran.out)) == compose_simulation([*usual, *SHORT])


def test_report_prints_the_report(call: Call, usual: list[str], tmp_path: Path) -> None:
    """Of a finished run; of an unfinished one it refuses."""
    call("simulate", *usual, *SHORT)
    run = only_run(tmp_path)

    assert call("report", str(run)).out == (run / "report.txt").read_text()
    (run / "report.txt").unlink()
    assert call("report", str(run)).code == 2


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's, in this test's own loading
@pytest.mark.parametrize("task", ["causal_lm", "classification"])
def test_a_merged_export_answers_as_base_and_adapter_do(
    call: Call, usual: list[str], encoder: list[str], tmp_path: Path, task: str
) -> None:
    """Copy and merge load with transformers and PEFT alone; their logits agree and are not those of the base."""
    encoding = task == "classification"
    base_folder = FIXTURES / ("tiny-bert" if encoding else "tiny-llama")
    assert call("simulate", *usual, *(encoder if encoding else []), "rounds=1").code == 0
    copy, merged = tmp_path / "deep" / "copy", tmp_path / "merged"

    ran = call("export", str(only_run(tmp_path)), str(copy))
    also = call("export", "--merge", str(only_run(tmp_path)), str(merged))

    assert (ran.code, ran.out, ran.err) == (0, f"{copy}\n", "")
    assert (also.code, also.out) == (0, f"{merged}\n")
    assert [line.split()[0] for line in also.err.splitlines()] == ["looking", "merging", "writing"]
    kind = AutoModelForSequenceClassification if encoding else AutoModelForCausalLM
    more = {"num_labels": 4} if encoding else {}
    base = kind.from_pretrained(base_folder, **more)
    plain = logits(base, base_folder)
    adapted = logits(PeftModel.from_pretrained(base, copy), base_folder)
    whole = logits(kind.from_pretrained(merged), merged)
    torch.testing.assert_close(whole, adapted, atol=1e-4, rtol=1e-4)
    assert (adapted - plain).abs().max() > 1e-2
    assert {"privacy.json", "provenance.json", "README.md"} <= {file.name for file in merged.iterdir()}


def test_an_adapter_is_merged_into_its_own_base_only(call: Call, usual: list[str], tmp_path: Path) -> None:
    """A base that changed since the run is refused by its digest, although the configuration names none."""
    base = tmp_path / "base"
    shutil.copytree(FIXTURES / "tiny-llama", base)
    call("simulate", *usual, *SHORT, f"model.source={base}")
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(settings | {"rms_norm_eps": 0.1}))

    ran = call("export", "--merge", str(only_run(tmp_path)), str(tmp_path / "out"))

    assert ran.code == 2
    assert "is not the agreed base model" in ran.err
    assert not (tmp_path / "out").exists()


def test_an_export_overwrites_nothing(call: Call, usual: list[str], tmp_path: Path) -> None:
    """A path that exists is refused, with and without merging, and stays as it was."""
    call("simulate", *usual, *SHORT)
    out = tmp_path / "out"
    out.mkdir()

    codes = [call("export", *merge, str(only_run(tmp_path)), str(out)).code for merge in ([], ["--merge"])]

    assert codes == [2, 2]
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("merge", [[], ["--merge"]], ids=["copy", "merge"])
def test_an_export_that_cannot_be_written_leaves_nothing(
    call: Call, usual: list[str], tmp_path: Path, merge: list[str]
) -> None:
    """A file stands where a folder is needed: try again, and nothing half-written."""
    call("simulate", *usual, *SHORT)
    (tmp_path / "file").write_text("in the way")

    ran = call("export", *merge, str(only_run(tmp_path)), str(tmp_path / "file" / "out"))

    assert ran.code == 75
    assert "nothing of it is left" in ran.err


def test_an_unfinished_run_is_not_exported(call: Call, usual: list[str], tmp_path: Path) -> None:
    """It says how to finish it."""
    call("simulate", *usual, *SHORT, "drop=['site-1@1']")

    ran = call("export", str(only_run(tmp_path)), str(tmp_path / "out"))
    assert ran.code == 2
    assert f"partsong simulate --resume {only_run(tmp_path)}" in ran.err


def test_classification_learns(call: Call, usual: list[str], encoder: list[str], tmp_path: Path) -> None:
    """Three rounds with the encoder bring the held-out loss below its start, and the head is published."""
    ran = call("simulate", "--json", *usual, *encoder, "rounds=3", "training.steps_per_round=8",
               "training.learning_rate=3e-2")  # fmt: skip

    facts = json.loads(ran.out)
    first = float(ran.err.partition("held-out loss ")[2].partition(",")[0])
    assert facts["rounds"][-1]["held_out"]["loss"] < 0.9 * first
    tensors = load_file(only_run(tmp_path) / "adapter" / "adapter_model.safetensors")
    assert any(name.endswith("classifier.weight") for name in tensors)


@pytest.mark.parametrize("setting", ["", "1"])
def test_no_color_is_honoured(call: Call, usual: list[str], monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    """With NO_COLOR no escape sequence sets a colour; without it, on a terminal, some does."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", setting)

    ran = call("simulate", *usual, *SHORT)

    assert ran.code == 0
    assert ("\x1b[33m" in ran.err) == (setting == "")
    assert "\x1b" not in ran.out
