"""Markers are planted in records, labels of units, names of folders and keys, and everything a run makes is searched.

Searched: every file of the run, the sites' own folders included; what is said on the terminal; the report in all forms and
its drafts; the table of verify; the exported adapter. The records' own file and the settings that name it are not outputs.
"""

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from rich.console import Console

from partsong.server.report.command import report, write_drafts
from partsong.simulations.commands.export import export_adapter
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
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A private run of patients, with everything that can be asked of it."""
    folder = tmp_path_factory.mktemp(PLACE)
    rows = [
        {"prompt": f"{PROMPT} case {i}\nGroup:", "completion": f" {ANSWER}", "patient": f"{PATIENT}-{i}"}
        for i in range(80)
    ]
    records = folder / "records.jsonl"
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [
        "model=local", f"model.source={BASE}", "model.threads=1", "data=local", f"data.path={records}",
        "data.max_length=48", "data.unit_field=patient", "privacy.unit=patient", "privacy.delta=1e-2",
        "privacy.sampling_rate=0.5", "sites=4", "rounds=2", "training.steps_per_round=1", f"run_dir={folder / 'runs'}",
    ]  # fmt: skip
    before, said = torch.get_num_threads(), io.StringIO()
    torch.set_num_threads(1)
    run = simulate(compose_simulation(settings), console=Console(file=said, force_terminal=True, width=200)).run.path
    torch.set_num_threads(before)
    outputs = {f"run/{file.relative_to(run)}": file.read_bytes() for file in run.rglob("*") if file.is_file()}
    outputs |= {f"report.{form}": report(run, form=form).encode() for form in ("text", "html", "md", "json")}
    outputs |= {f"drafts/{file.name}": file.read_bytes() for file in write_drafts(run, folder / "drafts")}
    outputs |= {f"export/{file.name}": file.read_bytes() for file in export_adapter(run, folder / "adapter").iterdir()}
    outputs["verify"] = json.dumps(table.facts(verify(run))).encode()
    outputs["terminal"] = said.getvalue().encode()
    return Made(run=run, outputs=outputs)


def test_nothing_of_a_record_is_in_anything_that_a_run_makes(made: Made) -> None:
    """Neither text nor answer nor the name of a patient; also not in the sites' own folders."""
    markers = {text: text.encode() for text in TEXTS}

    leaked = {name: found_in(data, markers) for name, data in made.outputs.items()}

    assert len(made.outputs) > 60
    assert {name: found for name, found in leaked.items() if found} == {}


def test_no_key_is_in_anything_that_leaves_its_owner(made: Made) -> None:
    """Identity and vault keys are in their own files and in no other."""
    owned = {name: data for name, data in made.outputs.items() if name.rpartition("/")[2] in PRIVATE}
    told = {name: data for name, data in made.outputs.items() if name not in owned}

    leaked = {name: found_in(data, owned) for name, data in told.items()}

    assert len(owned) >= 9
    assert {name: found for name, found in leaked.items() if found} == {}


def test_no_path_is_in_what_is_handed_on(made: Made) -> None:
    """Reports, drafts, model card, facts, journals, adapter; only settings and the terminal name folders."""
    handed_on = {
        name: data
        for name, data in made.outputs.items()
        if name.rpartition("/")[2] not in SETTINGS and name != "terminal" and not name.startswith("run/sites/")
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
