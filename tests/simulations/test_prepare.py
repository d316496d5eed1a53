"""From files to sites: one file divided, or a folder with a file for each."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError, DataError
from partsong.simulations.prepare import prepare, read_tables

Configure = Callable[..., SimulationConfig]
NATURAL = ("partition.kind=natural", "sites=null")


def write(file: Path, rows: int) -> Path:
    """Some prompts with answers."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"prompt": f"case {i}", "completion": " skin"}) + "\n" for i in range(rows)))
    return file


def test_a_folder_has_a_site_for_each_dataset(configured: Configure, tmp_path: Path) -> None:
    """Named after the files, whatever their format; hidden files are passed over, the held-out one too."""
    for name, rows in (("north.jsonl", 3), ("south.ndjson", 4), (".hidden.jsonl", 5), ("test.jsonl", 6)):
        write(tmp_path / "sites" / name, rows)
    (tmp_path / "sites" / "west.csv").write_text("prompt,completion\na, b\n")

    tables = read_tables(
        configured(f"data.path={tmp_path / 'sites'}", f"data.held_out={tmp_path / 'sites' / 'test.jsonl'}", *NATURAL)
    )

    assert {name: len(table) for name, table in tables.sites.items()} == {"north": 3, "south": 4, "west": 1}
    assert tables.held_out is not None
    assert len(tables.held_out) == 6


def test_a_number_of_sites_that_the_folder_does_not_have_is_refused(configured: Configure, tmp_path: Path) -> None:
    """`sites` must agree with the data or be left out."""
    for name in ("a", "b", "c"):
        write(tmp_path / "sites" / f"{name}.jsonl", 3)
    folder = f"data.path={tmp_path / 'sites'}"

    with pytest.raises(ConfigError, match="sites: found 4, expected 3, the datasets in sites"):
        read_tables(configured(folder, "partition.kind=natural", "sites=4"))
    assert len(read_tables(configured(folder, "partition.kind=natural", "sites=3")).sites) == 3


def test_a_folder_of_sites_is_not_divided_again(configured: Configure, tmp_path: Path) -> None:
    """A partition that would be ignored is an error."""
    write(tmp_path / "sites" / "a.jsonl", 3)

    with pytest.raises(ConfigError, match=r"partition\.kind: found iid, expected natural: sites has a dataset"):
        read_tables(configured(f"data.path={tmp_path / 'sites'}"))


def test_two_datasets_of_one_name_are_refused(configured: Configure, tmp_path: Path) -> None:
    """Neither may silently take the other's place."""
    write(tmp_path / "sites" / "a.jsonl", 3)
    (tmp_path / "sites" / "a.csv").write_text("prompt,completion\na, b\n")

    with pytest.raises(DataError, match="two datasets named a"):
        read_tables(configured(f"data.path={tmp_path / 'sites'}", *NATURAL))


def test_files_are_called_as_people_call_them_and_sites_as_charters_do(configured: Configure, tmp_path: Path) -> None:
    """So that a folder works with the secure sum, too."""
    for name in ("Hospital_A", "St. Mary's"):
        write(tmp_path / "sites" / f"{name}.jsonl", 3)

    tables = read_tables(configured(f"data.path={tmp_path / 'sites'}", *NATURAL))

    assert sorted(tables.sites) == ["hospital-a", "st-mary-s"]


def test_the_splits_of_a_saved_dataset_are_not_taken_for_sites(configured: Configure, tmp_path: Path) -> None:
    """Train and test are no hospitals."""
    write(tmp_path / "saved" / "train" / "x.jsonl", 3)
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')

    with pytest.raises(DataError, match="several splits"):
        read_tables(configured(f"data.path={tmp_path / 'saved'}", *NATURAL))


def test_a_column_makes_the_sites(configured: Configure) -> None:
    """Every record once; the manifest holds no answer in free words."""
    config = configured("partition.kind=column", "partition.column=ward", "sites=null")
    tables = read_tables(config)

    assert list(tables.sites) == ["w0", "w1", "w2"]
    rows = sorted(row.number for table in tables.sites.values() for row in table.rows)
    assert rows == list(range(1, 61))
    assert tables.manifest == {name: {"records": 20} for name in ("w0", "w1", "w2")}


def test_labels_of_a_public_list_are_counted(configured: Configure, classes: Path) -> None:
    """Only a closed, public list may be named in the manifest."""
    text = (f"data.path={classes}", "model.task=classification")

    tables = read_tables(configured(*text, "data.labels=[injury,skin,ear,spine]"))
    assert sum(tables.manifest["site-1"]["labels"].values()) == 12
    assert "labels" not in read_tables(configured(*text)).manifest["site-1"]


def test_a_natural_run_with_a_number_of_sites_is_divided_evenly(configured: Configure) -> None:
    """One file and `sites=2`: two equal parts."""
    tables = read_tables(configured("partition.kind=natural", "sites=2"))

    assert [len(table) for table in tables.sites.values()] == [30, 30]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("data.path=null",), r"data\.path: found nothing"),
        (("data.builtin=icd10",), "both data.builtin and data.path"),
        (NATURAL, "natural for one dataset"),
    ],
)
def test_records_have_to_come_from_somewhere(configured: Configure, overrides: tuple[str, ...], words: str) -> None:
    """From one place, and divided in a way that was asked for."""
    with pytest.raises(ConfigError, match=words):
        read_tables(configured(*overrides))


def test_what_was_cut_is_said_site_by_site(configured: Configure) -> None:
    """Counts only; nothing is said where nothing was cut."""
    said: list[str] = []
    prepare(configured("data.max_length=6"), say=said.append)

    assert len([line for line in said if line.startswith("site-") and "20 of 20 records were longer" in line]) == 3
    said.clear()
    prepare(configured(), say=said.append)
    assert not any("longer" in line for line in said)


def test_answers_that_were_cut_off_whole_are_said(configured: Configure, tmp_path: Path) -> None:
    """A chat whose answer comes after the limit is learned nothing from."""
    turns = [{"role": "user", "content": "long " * 100}, {"role": "assistant", "content": "skin"}]
    file = tmp_path / "chats.jsonl"
    file.write_text((json.dumps({"messages": turns}) + "\n") * 30)
    said: list[str] = []

    prepare(configured(f"data.path={file}"), say=said.append)

    assert any("10 of 10 records were longer than data.max_length=48" in line for line in said)
    assert any("; 10 lost all that is learned" in line for line in said)


def test_a_limit_of_the_held_out_set_is_an_even_repeatable_choice(configured: Configure, prompts: Path) -> None:
    """The same records each time, in their order, not simply the first."""
    config = configured(f"data.held_out={prompts}", "evaluate_limit=9")
    first, again = read_tables(config).held_out, read_tables(config).held_out

    assert first is not None
    assert again is not None
    numbers = [row.number for row in first.rows]
    assert numbers == [row.number for row in again.rows] == sorted(numbers)
    assert len(numbers) == 9
    assert numbers != list(range(1, 10))


def of_patients(file: Path, *, patients: int = 30, records: int = 3) -> Path:
    """Prompts with answers, several of each patient."""
    rows = [
        {"prompt": f"case {i}", "completion": " skin", "patient": f"p{i % patients}"} for i in range(patients * records)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("kind", ["iid", "dirichlet"])
def test_nobody_is_at_two_sites_where_a_column_names_them(configured: Configure, tmp_path: Path, kind: str) -> None:
    """Patients are divided, not records; without the column records are, and patients come apart."""
    data = f"data.path={of_patients(tmp_path / 'patients.jsonl')}"
    divided = (data, f"partition.kind={kind}", "partition.alpha=100")

    whole = read_tables(configured(*divided, "data.unit_field=patient")).sites.values()
    apart = read_tables(configured(*divided, "partition.kind=iid")).sites.values()

    owners = [set(table.units or ()) for table in whole]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 30
    assert sorted(row.number for table in whole for row in table.rows) == list(range(1, 91))
    found = [{(row.number - 1) % 30 for row in table.rows} for table in apart]
    assert sum(map(len, found)) > 30


def test_who_opted_out_is_at_no_site_and_the_count_is_said(configured: Configure, tmp_path: Path) -> None:
    """Once for the source, though it becomes three sites; nobody is named."""
    listed = tmp_path / "opt-out.txt"
    listed.write_text("p3\np4\np99\n")
    said: list[str] = []

    prepared = prepare(
        configured(
            f"data.path={of_patients(tmp_path / 'patients.jsonl', patients=36)}",
            "data.unit_field=patient",
            f"data.opt_out={listed}",
        ),
        say=said.append,
    )

    (line,) = [line for line in said if "opt_out" in line]
    assert "left out 6 records of 2 units in data.opt_out; 1 of the list have none here" in line
    units = {record.unit for site in prepared.sites.values() for record in site.records}
    assert len(units) == 34
    assert not units & {"p3", "p4"}
    assert not any("p3" in line or "p99" in line for line in said)
