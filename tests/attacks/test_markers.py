"""Markers are planted in records, labels of units, names of folders and keys, and everything a run makes is searched.

Searched: every file of a training run, of an evaluation of its adapter and of a survey, the sites' own folders included;
what is said on the terminal; the report in all forms, with both answers, and its drafts; the table of verify; the exported
adapter; what MLflow is given, where it is installed. The records' own file and the settings that name it are not outputs.
Metrics, spans, logs and pages of daemons: `tests/client/test_daemon_markers.py` and both folders `dashboard`.
"""

import base64
import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from rich.console import Console

from partsong.server.report.command import Format, Given, report, write_drafts
from partsong.simulations.commands.export import export_adapter
from partsong.simulations.commands.mlflow_registry import register
from partsong.simulations.configure import compose_simulation
from partsong.simulations.simulate import simulate
from partsong.simulations.verify import table
from partsong.simulations.verify.run import verify

BASE = Path(__file__).parents[1] / "fixtures" / "tiny-llama"
PROMPT, ANSWER, PATIENT = "Zwölfender-7f3a9c", "Quittenmus-b81e44", "patient-Xylander-5dd0"
PLACE = "folder-Wermutkraut-90ab"
TEXTS = (PROMPT, ANSWER, PATIENT)
SETTINGS = {"config.yaml", "records.jsonl"}
"""Files that hold the path of the records by purpose: the settings of the run, for its owner."""
SHORTEST = 8
"""Part of a base64 form that is still nobody else's."""
PRIVATE = ("identity.key", "vault.key")
FORMS: tuple[Format, ...] = ("text", "html", "md", "json")


def forms(marker: bytes) -> Iterator[bytes]:
    """A marker as it may be written: plain, hex, base64 at any offset; text as JSON escapes and in UTF-16 too."""
    yield marker
    yield marker.hex().encode()
    for shift in range(3):
        inner = base64.b64encode(bytes(shift) + marker)[4:-4]
        if len(inner) >= SHORTEST:
            yield inner
    try:
        text = marker.decode()
    except UnicodeDecodeError:
        return
    yield json.dumps(text)[1:-1].encode()
    yield text.encode("utf-16-le")


def found_in(hay: bytes, markers: dict[str, bytes]) -> set[str]:
    """Name the markers that are in some bytes."""
    return {name for name, marker in markers.items() if any(form in hay for form in forms(marker))}


@dataclass(frozen=True, kw_only=True)
class Made:
    """A run and everything that was made of it, by name."""

    run: Path
    outputs: dict[str, bytes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name would be recognised, with records that would be; torch keeps to one thread."""
    made = tmp_path_factory.mktemp(PLACE)
    rows = [
        {"prompt": f"{PROMPT} case {i}\nGroup:", "completion": f" {ANSWER}", "patient": f"{PATIENT}-{i}"}
        for i in range(80)
    ]
    (made / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


def played(folder: Path, *more: str) -> tuple[Path, str]:
    """Play a run of patients; its directory, and what was said meanwhile."""
    records, said, before = folder / "records.jsonl", io.StringIO(), torch.get_num_threads()
    settings = [
        "model=local", f"model.source={BASE}", "model.threads=1", "data=local", f"data.path={records}",
        "data.max_length=48", "data.unit_field=patient", "privacy.unit=patient", "privacy.delta=1e-2",
        "privacy.sampling_rate=0.5", "sites=4", f"run_dir={folder / 'runs'}", *more,
    ]  # fmt: skip
    torch.set_num_threads(1)
    done = simulate(compose_simulation(settings), console=Console(file=said, force_terminal=True, width=200))
    torch.set_num_threads(before)
    return done.run.path, said.getvalue()


def files_of(place: Path, name: str) -> dict[str, bytes]:
    """Every file of a folder."""
    return {f"{name}/{file.relative_to(place)}": file.read_bytes() for file in place.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def made(folder: Path) -> Made:
    """A private run of patients, with everything that can be asked of it."""
    run, said = played(folder, "rounds=2", "training.steps_per_round=1")
    outputs = files_of(run, "run") | {
        "terminal": said.encode(),
        "verify": json.dumps(table.facts(verify(run))).encode(),
    }
    outputs |= {f"report.{form}": report(run, form=form).encode() for form in FORMS}
    outputs |= {f"drafts/{file.name}": file.read_bytes() for file in write_drafts(run, folder / "drafts")}
    outputs |= files_of(export_adapter(run, folder / "adapter"), "export")
    return Made(run=run, outputs=outputs)


@pytest.fixture(scope="module")
def asked(folder: Path, made: Made) -> Made:
    """An evaluation of that run and a survey of its sites, whose test records are marked too, and the report with both."""
    test = [f"data.held_out={folder / 'records.jsonl'}", f"evaluation.run={made.run}", "evaluation.most_tokens=4"]
    scored, said = played(folder, "purpose=evaluate", "study=scored", *test)
    surveyed, also_said = played(folder, "purpose=survey", "study=surveyed", "survey.lengths=[16]")
    outputs = files_of(scored, "run") | files_of(surveyed, "survey") | {"terminal": (said + also_said).encode()}
    given = Given(answers=(scored, surveyed))
    outputs |= {f"report.{form}": report(made.run, form=form, given=given).encode() for form in FORMS if form != "text"}
    return Made(run=scored, outputs=outputs)


@pytest.fixture(params=["made", "asked"])
def searched(request: pytest.FixtureRequest) -> Made:
    """Each of both."""
    found: Made = request.getfixturevalue(request.param)
    return found


def test_nothing_of_a_record_is_in_anything_that_a_run_makes(searched: Made) -> None:
    """Neither text nor answer nor the name of a patient; also not in the sites' own folders."""
    markers = {text: text.encode() for text in TEXTS}

    leaked = {name: found_in(data, markers) for name, data in searched.outputs.items()}

    assert len(searched.outputs) > 60
    assert {name: found for name, found in leaked.items() if found} == {}


def test_no_key_is_in_anything_that_leaves_its_owner(searched: Made) -> None:
    """Identity and vault keys are in their own files and in no other."""
    owned = {name: data for name, data in searched.outputs.items() if name.rpartition("/")[2] in PRIVATE}
    told = {name: data for name, data in searched.outputs.items() if name not in owned}

    leaked = {name: found_in(data, owned) for name, data in told.items()}

    assert len(owned) >= 9
    assert {name: found for name, found in leaked.items() if found} == {}


def test_no_path_is_in_what_is_handed_on(searched: Made) -> None:
    """Reports, drafts, model card, facts, journals, adapter; only settings and the terminal name folders."""
    handed_on = {
        name: data
        for name, data in searched.outputs.items()
        if name.rpartition("/")[2] not in SETTINGS
        and name != "terminal"
        and not name.startswith(("run/sites/", "survey/sites/"))
    }
    markers = {"folder": PLACE.encode(), "base": str(BASE.parent).encode(), "home": str(Path.home()).encode() + b"/"}

    leaked = {name: found_in(data, markers) for name, data in handed_on.items()}

    assert {name: found for name, found in leaked.items() if found} == {}


@pytest.mark.parametrize("form", list(forms(PROMPT.encode())))
def test_the_search_finds_what_is_there(made: Made, form: bytes) -> None:
    """The control: in the middle of a report, however it is written."""
    page = made.outputs["report.html"]
    middle = len(page) // 2

    found = found_in(page[:middle] + form + page[middle:], {PROMPT: PROMPT.encode()})

    assert found == {PROMPT}


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")
def test_what_mlflow_is_given_holds_nothing_of_a_record_either(made: Made, folder: Path, tmp_path: Path) -> None:
    """Its database and its folder of files, whole; the control: the adapter's card is among them."""
    pytest.importorskip("mlflow")
    with contextlib.chdir(tmp_path):
        register(made.run, name="coding", uri=f"sqlite:///{tmp_path}/mlflow.db")
    markers = {text: text.encode() for text in (*TEXTS, str(folder))}

    kept = files_of(tmp_path, "mlflow")

    assert made.outputs["run/adapter/README.md"] in kept.values()
    assert {name: found for name, data in kept.items() if (found := found_in(data, markers))} == {}
