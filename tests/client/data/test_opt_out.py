"""Who opted out is not there: not for checks, not for the fingerprint, not for training."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.data.encode import encode
from partsong.client.data.opt_out import OptOutReport, read_opt_out
from partsong.client.data.table import read_table, table_from_rows
from partsong.common.config import DataConfig
from partsong.common.errors import DataError

ROWS: list[dict[str, object]] = [
    {"text": "the chest is clear", "patient": "anna"},
    {"text": "the heart is large", "patient": "bert"},
    {"text": "fracture of the wrist", "patient": "anna"},
    {"text": "the left wrist", "patient": 7},
]


def config(folder: Path, text: str = "anna\n") -> DataConfig:
    file = folder / "opt-out.txt"
    file.write_text(text, encoding="utf-8")
    return DataConfig(unit_field="patient", opt_out=str(file))


def without(*patients: object) -> list[dict[str, object]]:
    return [row for row in ROWS if row["patient"] not in patients]


def test_the_fingerprint_is_that_of_records_that_were_never_there(tmp_path: Path) -> None:
    """Equal to the one without the person, and different from the one with."""
    plain = DataConfig(unit_field="patient")

    table = table_from_rows(ROWS, config(tmp_path), "memory")

    assert table.fingerprint() == table_from_rows(without("anna"), plain, "memory").fingerprint()
    assert table.fingerprint() != table_from_rows(ROWS, plain, "memory").fingerprint()
    assert table.opted_out == OptOutReport(records=2, units=1, listed=1)
    assert table_from_rows(ROWS, plain, "memory").opted_out is None


def test_no_token_of_theirs_is_encoded(tmp_path: Path, bpe) -> None:
    """What training sees is what it would see without them; the control finds their text."""

    def encoded(config: DataConfig) -> list[str]:
        table = table_from_rows(ROWS, config, "memory")
        return [bpe.decode(r.input_ids) for r in encode(table, bpe, config, task="causal_lm").records]

    texts = encoded(config(tmp_path))

    assert len(texts) == 2
    assert not any("fracture" in text or "chest" in text for text in texts)
    assert any("fracture" in text for text in encoded(DataConfig(unit_field="patient")))


def test_nothing_of_their_records_is_checked(tmp_path: Path) -> None:
    """A record that would be refused, or would fix the kind of the source, does neither."""
    rows = [{"messages": [], "patient": "anna"}, {"text": "", "patient": "anna"}, *without("anna")]

    table = table_from_rows(rows, config(tmp_path), "memory")

    assert (table.kind, len(table)) == ("text", 2)
    with pytest.raises(DataError):
        table_from_rows(rows, DataConfig(unit_field="patient"), "memory")


@pytest.mark.parametrize("listed", ["7", " 7 ", "\ufeff7\r\n\r\n", "8\n7"])
def test_numbers_spaces_and_line_ends_do_not_matter(tmp_path: Path, listed: str) -> None:
    """A unit given as a number is found by its digits."""
    table = table_from_rows(ROWS, config(tmp_path, listed), "memory")

    assert [row.unit for row in table.rows] == ["anna", "bert", "anna"]


@settings(deadline=None, max_examples=30)
@given(listed=st.sets(st.sampled_from(["anna", "bert", "7", "nobody"]), min_size=1))
def test_exactly_the_listed_are_gone(tmp_path_factory, listed: set[str]) -> None:
    """Whoever is on the list, and nobody else; counts say what was found."""
    folder = tmp_path_factory.mktemp("list")
    rows = [*ROWS, {"text": "stays", "patient": "carl"}]

    table = table_from_rows(rows, config(folder, "\n".join(listed)), "memory")

    assert [row.unit for row in table.rows] == [str(r["patient"]) for r in rows if str(r["patient"]) not in listed]
    dropped = [r for r in rows if str(r["patient"]) in listed]
    assert table.opted_out == OptOutReport(
        records=len(dropped), units=len({r["patient"] for r in dropped}), listed=len(listed)
    )


def test_two_spellings_of_one_letter_are_one(tmp_path: Path) -> None:
    """A composed and a decomposed umlaut look the same to who writes the list."""
    rows = [{"text": "a", "patient": "J\u00fcrgen"}, {"text": "b", "patient": "Eva"}]

    table = table_from_rows(rows, config(tmp_path, "Ju\u0308rgen"), "memory")

    assert [row.unit for row in table.rows] == ["Eva"]


def test_a_file_is_read_the_same_way(tmp_path: Path) -> None:
    """Row numbers stay those of the file."""
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    assert [row.number for row in read_table(file, config(tmp_path)).rows] == [2, 4]


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "an empty list"), (b"\n \n", "an empty list"), (b"\xff\xfe", "not UTF-8")]
)
def test_a_list_that_says_nothing_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    """A list lost by accident must not let everybody in."""
    file = tmp_path / "list"
    file.write_bytes(content)

    with pytest.raises(DataError, match=words):
        read_opt_out(file)
    with pytest.raises(DataError, match="cannot be read"):
        read_opt_out(tmp_path / "nowhere")


def test_errors_name_neither_the_listed_nor_the_found(tmp_path: Path) -> None:
    """A list of people is a record of its own."""
    with pytest.raises(DataError) as nobody_left:
        table_from_rows(ROWS[:1], config(tmp_path), "memory")
    with pytest.raises(DataError) as no_unit:
        table_from_rows([{"text": "secret", "patent": "anna"}], config(tmp_path), "memory")

    for err in (nobody_left, no_unit):
        assert "anna" not in str(err.value)
    assert "no rows but those of data.opt_out" in str(nobody_left.value)
    assert "field patient" in str(no_unit.value)
