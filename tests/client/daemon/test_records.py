"""Records are read when they are needed, and again when their files have changed."""

import dataclasses
import json
from pathlib import Path

import pytest

from partsong.client.daemon.records import SiteRecords
from partsong.common.config import DataConfig
from partsong.common.errors import ConfigError, DataError


def write(file: Path, count: int) -> DataConfig:
    rows = [{"prompt": f"case {n}", "completion": "A1", "patient": f"p{n % 3}"} for n in range(count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(path=str(file), unit_field="patient")


def test_one_reading_serves_until_the_file_changes(tmp_path: Path) -> None:
    """Then what was read stays as it was, for the plan that uses it."""
    file = tmp_path / "records.jsonl"
    records = SiteRecords(write(file, 7))
    assert not records.has_changed
    first = records.snapshot()
    assert records.snapshot() is first

    write(file, 8)

    assert records.has_changed
    second = records.snapshot()
    assert not records.has_changed
    assert (first.units, second.units) == ({"record": 7, "patient": 3}, {"record": 8, "patient": 3})
    assert first.fingerprint != second.fingerprint


def test_a_list_of_those_who_opted_out_is_one_of_the_files(tmp_path: Path) -> None:
    """Who opts out is gone from the next reading."""
    opt_out = tmp_path / "opt-out.txt"
    opt_out.write_text("p9\n")
    config = dataclasses.replace(write(tmp_path / "records.jsonl", 9), opt_out=str(opt_out))
    records = SiteRecords(config)
    assert records.snapshot().patients == 3

    opt_out.write_text("p9\np1\n")

    assert records.has_changed
    assert records.snapshot().patients == 2


def test_records_without_a_unit_count_no_patients(tmp_path: Path) -> None:
    """Nobody knows how many there are."""
    config = dataclasses.replace(write(tmp_path / "records.jsonl", 4), unit_field=None)

    assert SiteRecords(config).snapshot().units == {"record": 4, "patient": None}


def test_files_that_are_gone_are_no_records(tmp_path: Path) -> None:
    """Neither readable nor read."""
    records = SiteRecords(DataConfig(path=str(tmp_path / "none.jsonl")))

    for act in (records.check_readable, records.snapshot):
        with pytest.raises(DataError):
            act()
    with pytest.raises(ConfigError, match=r"data\.path"):
        SiteRecords(DataConfig())
    write(tmp_path / "none.jsonl", 2)
    records.check_readable()
