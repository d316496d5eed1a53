"""Readers of the files of published vectors."""

import json
from collections.abc import Callable
from pathlib import Path

import cryptography_vectors
import pytest

WYCHEPROOF = Path(__file__).parents[1] / "vectors" / "wycheproof.json"
Record = dict[str, str]


def _open(name: str) -> list[str]:
    with cryptography_vectors.open_vector_file(name, "r") as file:
        return file.read().splitlines()


def _records(name: str, *, first: str, section: str = "") -> list[Record]:
    """Records of `key = value` lines, each beginning with the key `first`, of the section in brackets or of all."""
    found: list[Record] = []
    inside = not section
    for line in _open(name):
        if line.startswith("[") and not line.startswith("[B.4.2 ") and section:  # a heading within a curve's section
            inside = line.strip("[]") == section
        key, equals, value = (part.strip() for part in line.partition("="))
        if inside and equals and key == first:
            found.append({})
        if inside and equals and found:
            found[-1][key] = value
    return found


@pytest.fixture(scope="session")
def lines() -> Callable[[str], list[str]]:
    """Lines of a file of `cryptography_vectors`."""
    return _open


@pytest.fixture(scope="session")
def records() -> Callable[..., list[Record]]:
    """Records of a file of `cryptography_vectors`."""
    return _records


@pytest.fixture(scope="session")
def wycheproof() -> Callable[[str], list[dict[str, object]]]:
    """Rows of one file of Wycheproof, as dictionaries; byte strings are in hex."""
    files = json.loads(WYCHEPROOF.read_text())["files"]

    def rows(name: str) -> list[dict[str, object]]:
        fields = ["id", "result", "flags", *files[name]["fields"]]
        return [dict(zip(fields, row, strict=True)) for row in files[name]["rows"]]

    return rows
