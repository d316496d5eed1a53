"""Bad input through the command line: a clear text, the right exit code, and nothing left behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., Any]
Write = Callable[..., Path]
Leftovers = Callable[[], list[Path]]


def test_a_row_that_is_bad_among_ten_thousand_is_named(
    call: Call, usual: list[str], write: Write, leftovers: Leftovers
) -> None:
    """File, row, field, found and expected; no directory."""
    rows: list[dict[str, object]] = [{"prompt": f"case {i}", "completion": " skin"} for i in range(10_000)]
    rows[7_654]["completion"] = 3
    file = write("many.jsonl", rows)

    ran = call("simulate", *usual, f"data.path={file}")

    assert ran.code == 2
    assert f"{file}, row 7655, field completion: found a whole number, expected text" in ran.err
    assert leftovers() == []
    assert ran.out == ""


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.path={tmp}/none.jsonl"], "none.jsonl: found nothing, expected a file or folder with records"),
        (["data.path={tmp}/empty.jsonl"], "empty.jsonl: found an empty file, expected at least one record"),
        (["data.path={tmp}/blank.jsonl"], "blank.jsonl: found no rows, expected at least one record"),
        (["data.path={tmp}/folder"], "folder: found a folder without dataset_info.json"),
        (["data.prompt_field=promt"], "did you mean data.prompt_field=prompt?"),
        (["partition.kind=column", "partition.column=ward", "sites=null"], "field ward: found nothing"),
        (["partition.kind=column", "sites=null"], "partition.column: found nothing"),
        (["partition.kind=natural", "sites=null"], "partition.kind: found natural for one dataset"),
        (["sites=30"], "found 60 records, expected at least 10 for each of 30 sites"),
        (["sites=2"], "cohort.minimum: found 3 with 2 sites"),
        (["adapter.target_modules=[q_prj]"], "did you mean 'q_proj'?"),
        (["adapter.peft.foo=1"], "found options that PEFT refuses"),
        (["model.source={tmp}/nowhere"], "models are never downloaded by a run"),
        (["model.sha256=00"], "is not the agreed base model"),
        (["data.max_length=500"], "data.max_length: found 500, expected at most 256, the context of tiny-llama"),
        (["privacy=dp"], "no seed under privacy.mode=dp"),
        (["privacy=dp", "seed=null", "data.packing=true"], "data.packing=false under privacy.mode=dp"),
        (["privacy.epsilom=3"], "did you mean 'privacy.epsilon'?"),
        (["modle=local"], "did you mean 'model'?"),
        (["model=locl"], "model: found 'locl', expected one of local, minilm, smollm2; or model=local with your own"),
        (["privacy=dpp"], "privacy: found 'dpp', expected one of dp, none"),
        (["privacy.mode=dpp"], "did you mean 'dp'?"),
        (["rounds=many"], "rounds: found 'many'"),
        (["rounds=0"], "rounds above 0, not 0"),
        (["foo"], "argument: found 'foo', expected key=value"),
        (["drop=['site-9@1']"], "drop: found site 'site-9', expected one of site-1, site-2, site-3"),
        (["secure_sum.update_clip=1e30"], "secure_sum: found an encoding that cannot be"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_mistake_is_named_and_leaves_nothing(
    call: Call, usual: list[str], tmp_path: Path, leftovers: Leftovers, overrides: list[str], words: str
) -> None:
    """Exit code 2, one line on stderr that says what to do, nothing on stdout, no run directory."""
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "blank.jsonl").write_text("\n\n")
    (tmp_path / "folder").mkdir()

    ran = call("simulate", *usual, *(o.format(tmp=tmp_path) for o in overrides))

    assert ran.code == 2
    assert words in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""
    assert leftovers() == []


def test_a_required_key_without_value_is_named(call: Call) -> None:
    """The choice `local` needs a source."""
    ran = call("simulate", "model=local", "data=local")

    assert ran.code == 2
    assert "model.source: found nothing, expected a value; give model.source=..." in ran.err


def test_an_unknown_label_is_refused_without_quoting_it(
    call: Call, usual: list[str], encoder: list[str], labelled: list[dict[str, str]], write: Write, leftovers: Leftovers
) -> None:
    """The row and the closest public label are named; what stood there is not."""
    labelled[20]["label"] = "spinne"
    file = write("labelled.jsonl", labelled)

    ran = call("simulate", *usual, *encoder, f"data.path={file}")

    assert ran.code == 2
    assert "row 21, field label: found a label outside data.labels" in ran.err
    assert "did you mean 'spine'?" in ran.err
    assert "spinne" not in ran.err
    assert leftovers() == []


def test_a_record_beyond_the_length_is_cut_counted_and_reported(
    call: Call, usual: list[str], rows: list[dict[str, str]], write: Write, tmp_path: Path
) -> None:
    """The run goes on, the terminal says how many, and partition.json keeps the count."""
    rows[5]["prompt"] = "a very long story " * 100
    file = write("long.jsonl", rows)

    ran = call("simulate", *usual, f"data.path={file}")

    assert ran.code == 0
    assert "1 of 20 records were longer than data.max_length=48 and cut" in ran.err
    partition = json.loads(next((tmp_path / "runs").glob("*/partition.json")).read_text())
    assert sorted(site["encoding"]["truncated"] for site in partition.values()) == [0, 0, 1]


def test_a_directory_that_cannot_be_made_is_an_input_error(call: Call, usual: list[str], tmp_path: Path) -> None:
    """A file stands where the directory of runs should be."""
    (tmp_path / "file").write_text("in the way")

    ran = call("simulate", *usual, f"run_dir={tmp_path / 'file' / 'runs'}")

    assert ran.code == 2
    assert "run_dir: found" in ran.err
    assert "expected a folder that can be written to" in ran.err
    assert (tmp_path / "file").read_text() == "in the way"


def test_an_absurd_learning_rate_ends_in_a_clear_failure(call: Call, usual: list[str], leftovers: Leftovers) -> None:
    """Sites fail, rounds are aborted by name, no adapter is published; exit code 1."""
    ran = call(
        "simulate", *usual, "training.optim=sgd", "training.learning_rate=1e38", "secure_sum.update_clip=1",
        "training.steps_per_round=3",
    )  # fmt: skip

    assert ran.code == 1
    assert "site-1 (shown at the site only): local training: found a loss or an adapter that is not finite" in ran.err
    assert "round 1: 0 sites ready, 3 needed; no sum was opened" in ran.err
    assert "no round ended with a sum; there is no adapter" in ran.err
    assert not [file for file in leftovers() if file.name == "adapter"]


def test_resuming_what_is_no_run_is_refused(call: Call, tmp_path: Path) -> None:
    """Neither a folder nor a path that does not exist is taken for a run."""
    for place in (tmp_path, tmp_path / "nowhere"):
        ran = call("simulate", "--resume", str(place))
        assert ran.code == 2
        assert f"{place}: found no config.yaml in it, expected the directory of an earlier run" in ran.err


def test_resume_takes_no_overrides(call: Call, tmp_path: Path) -> None:
    """A resumed run keeps its configuration."""
    ran = call("simulate", "--resume", str(tmp_path), "rounds=9")

    assert ran.code == 2
    assert "a resumed run keeps its configuration" in " ".join(ran.err.replace("│", " ").split())


@pytest.mark.parametrize("command", ["report", "export"])
def test_a_command_on_what_is_no_run_is_refused(call: Call, tmp_path: Path, command: str) -> None:
    """Exit code 2 and nothing written."""
    out = tmp_path / "out"
    ran = call(command, str(tmp_path), *([str(out)] if command == "export" else []))

    assert ran.code == 2
    assert "expected the directory of" in ran.err
    assert not out.exists()


def test_two_runs_of_the_same_second_have_their_own_directories(call: Call, usual: list[str], tmp_path: Path) -> None:
    """Neither writes into the other's."""
    short = ["rounds=1", "training.steps_per_round=1"]

    codes = [call("simulate", *usual, *short).code for _ in range(3)]

    assert codes == [0, 0, 0]
    assert len(list((tmp_path / "runs").iterdir())) == 3
