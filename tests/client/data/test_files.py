"""Files that are missing, damaged or odd."""

import csv
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.data.table import read_table
from partsong.common.config import DataConfig
from partsong.common.errors import DataError

PLAIN = DataConfig()
SECRET = "Smith has syphilis"


def refused(path: Path, content: bytes | None = None, config: DataConfig = PLAIN) -> str:
    """Read a file that must be refused and return what the error says; no content may be in it."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_table(path, config)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "Smith" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(str(path), "FILE")


def test_a_missing_and_an_empty_file_are_named(tmp_path: Path) -> None:
    """Nothing there, no bytes, and no rows are three different things to say."""
    assert refused(tmp_path / "no.jsonl").startswith("FILE: found nothing")
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        assert refused(tmp_path / name, b"").startswith("FILE: found an empty file")
    assert refused(tmp_path / "b.jsonl", b"\n \n").startswith("FILE: found no rows")
    assert refused(tmp_path / "b.csv", b"text,label\n").startswith("FILE: found no rows")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "b.parquet")
    assert refused(tmp_path / "b.parquet").startswith("FILE: found no rows")


@pytest.mark.parametrize("bad", [1, 5_000, 9_999, 10_000])
def test_one_bad_row_in_ten_thousand_is_named_by_its_number(tmp_path: Path, bad: int) -> None:
    """The number is the one an editor shows; in CSV the header is line 1."""
    rows: list[dict[str, object]] = [{"text": SECRET}] * 10_000
    lines = [json.dumps(row) for row in rows]
    lines[bad - 1] = json.dumps({"text": 7})
    records = ["text,label", *[f"{SECRET},x"] * 10_000]
    records[bad] = SECRET

    jsonl = refused(tmp_path / "a.jsonl", "\n".join(lines).encode())
    commas = refused(tmp_path / "a.csv", "\n".join(records).encode())
    pq.write_table(
        pa.table({"text": [None if i == bad - 1 else SECRET for i in range(10_000)]}), tmp_path / "a.parquet"
    )
    parquet = refused(tmp_path / "a.parquet")

    assert jsonl == f"FILE, row {bad}, field text: found a whole number, expected text"
    assert commas == f"FILE, row {bad + 1}: found 1 values, expected 2, as in the header"
    assert parquet == f"FILE, row {bad}, field text: found null, expected text"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f'{{"text": "{SECRET}"', "no valid JSON from column"),
        (f'["{SECRET}"]', "JSON that is no object"),
        (f'{{"text": "x", "text": "{SECRET}"}}', "a key given twice"),
        (f'{{"text": "{SECRET}", "score": NaN}}', "NaN or an infinity"),
        (f'{{"text": "{SECRET}", "score": {"9" * 5000}}}', "a number of too many digits"),
        ("[" * 100_000, "too many levels"),
        ('{"text": "\\ud800 Smith"}', "half of a surrogate pair"),
        ('{"text": "  "}', "empty text"),
        ('{"text": null}', "null"),
        ('{"text": 1.5}', "a number"),
        ('{"text": true}', "true or false"),
        ('{"text": ["Smith"]}', "a list"),
        ('{"text": {"a": "Smith"}}', "an object"),
        (f'{{"txt": "{SECRET}"}}', "nothing, expected this field in every row; did you mean 'txt'?"),
        ('{"text": "x", "label": "Smith"}', "the fields of text_label records"),
    ],
)
def test_a_bad_json_line_is_named_and_not_quoted(tmp_path: Path, line: str, says: str) -> None:
    """Each fault of a line has its own words; the line number counts blank lines."""
    message = refused(tmp_path / "a.jsonl", b'{"text": "fine"}\n\n' + line.encode() + b"\n")

    assert message.startswith("FILE, row 3")
    assert f"found {says}" in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'text,label\nx,y\n"Smith,y\nx,y\n', "row 3: found a line that is not CSV"),
        (b'text,label\n"Smith"z,y\n', "row 2: found a line that is not CSV"),
        (b'text,label\n"two\nlines",x\n\nSmith\n', "row 5: found 1 values, expected 2"),
        (b'text,label\n"two\nlines",x\n"Smith\nSmith",\n', "row 4, field label: found empty text"),
        (b"text,text\nSmith,x\n", "row 1: found a column name given twice"),
        (b"text;label\nSmith;x\n", "row 1: found columns parted by semicolons"),
        (b"text\tlabel\nSmith\tx\n", "row 1: found columns parted by tabs"),
        (b"text\rSmith\r", "row 1: found a line that is not CSV"),
        (b"text,label\nx,y\nSm\xeft,h\n", "row 3: found a byte that is not UTF-8 (byte 3)"),
        ("text\nSmith\n".encode("utf-16"), "FILE: found UTF-16"),
        (b"messages\nSmith\n", "field messages: found text, expected a list of messages; CSV holds no chats"),
        (b"Smith has,syphilis\nJones,flu\n", "row 2: found 2 columns that fit no kind of record"),
    ],
)
def test_a_bad_csv_line_is_named_and_not_quoted(tmp_path: Path, content: bytes, says: str) -> None:
    """The number is that of the first line of a record, also after records of several lines."""
    assert says in refused(tmp_path / "a.csv", content)


def test_a_byte_order_mark_and_line_ends_of_windows_are_taken(tmp_path: Path) -> None:
    """What Excel and Notepad write is read like anything else."""
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext,label\r\nx,y\r\n")
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "x", "label": "y"}\r\n')

    tables = [read_table(tmp_path / name, PLAIN) for name in ("a.csv", "a.jsonl")]

    assert all(table.rows[0].parts == (("text", "x"), ("label", "y")) for table in tables)


def test_a_csv_value_longer_than_the_library_default_is_read(tmp_path: Path) -> None:
    """A very long note is a matter of truncation, not of reading; the process-wide limit is put back."""
    limit = csv.field_size_limit()
    (tmp_path / "a.csv").write_text("text\n" + "x" * (limit + 1) + "\n")

    table = read_table(tmp_path / "a.csv", PLAIN)

    assert len(table.rows[0].parts[0][1]) == limit + 1
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("columns", "remedy"),
    [
        (("Text", "id"), "did you mean data.text_field=Text?"),
        (("prompt", "completions"), "did you mean data.completion_field=completions?"),
        (("message",), "did you mean data.messages_field=message?"),
        (("a", "b"), "name the columns with data.messages_field, data.prompt_field"),
    ],
)
def test_a_wrong_column_is_met_with_the_setting_that_names_it(
    tmp_path: Path, columns: tuple[str, ...], remedy: str
) -> None:
    """A near miss becomes a proposal."""
    pq.write_table(pa.table({name: ["Smith"] for name in columns}), tmp_path / "a.parquet")

    message = refused(tmp_path / "a.parquet")

    assert f"{len(columns)} columns that fit no kind of record" in message
    assert remedy in message


def test_damaged_parquet_is_told_from_bad_text_in_it(tmp_path: Path) -> None:
    """Bytes that are no Parquet, a torn file, columns of one name, and a string that is not UTF-8."""
    assert "damaged or not Parquet" in refused(tmp_path / "a.parquet", b"Smith" * 100)
    pq.write_table(pa.table({"text": ["x" * 50] * 100}), tmp_path / "b.parquet")
    assert "damaged or not Parquet" in refused(tmp_path / "b.parquet", (tmp_path / "b.parquet").read_bytes()[:-20])
    pq.write_table(pa.table({"text": [f"{i} Smith" for i in range(1000)]}), tmp_path / "f.parquet")
    torn = bytearray((tmp_path / "f.parquet").read_bytes())
    torn[4:204] = b"Smith" * 40
    assert "it may be damaged" in refused(tmp_path / "f.parquet", bytes(torn))
    pq.write_table(pa.table([["x"], ["y"]], names=["text", "text"]), tmp_path / "c.parquet")
    assert "a column name given twice" in refused(tmp_path / "c.parquet")
    crooked = pa.array([b"fine"] * 2000 + [b"Sm\xefth", b"fine"]).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"text": crooked}), tmp_path / "d.parquet")
    assert refused(tmp_path / "d.parquet") == "FILE, row 2001: found bytes that are not UTF-8, expected UTF-8"
    pq.write_table(pa.table({"text": [b"Smith"]}), tmp_path / "e.parquet")
    assert refused(tmp_path / "e.parquet") == "FILE, row 1, field text: found bytes, expected text"


def test_a_format_that_cannot_be_told_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    """The ending decides unless the configuration does."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "dataset_info.json").write_text("{")

    assert "found the ending '.json'" in refused(tmp_path / "a.json", b"[]")
    assert "found no ending" in refused(tmp_path / "a", b"[]")
    assert "a folder without dataset_info.json" in refused(tmp_path / "folder")
    assert "a folder of several splits" in refused(tmp_path / "splits")
    assert "found a folder, expected a jsonl file" in refused(tmp_path / "folder", config=DataConfig(format="jsonl"))
    assert "found a file, expected a folder" in refused(tmp_path / "a", config=DataConfig(format="dataset"))
    (tmp_path / "a").write_text('{"text": "x"}')
    assert len(read_table(tmp_path / "a", DataConfig(format="jsonl"))) == 1
    pytest.importorskip("datasets")
    assert "a damaged saved dataset" in refused(tmp_path / "torn")


def test_a_saved_dataset_without_its_library_is_answered_with_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optional package is named together with the way round it."""
    (tmp_path / "dataset_info.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)

    message = refused(tmp_path)

    assert message.endswith("pip install 'partsong[hf]', or save the data as Parquet")


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "found an empty list, expected at least one message"),
        ("Smith", "found text, expected a list of messages"),
        ([{"role": "user", "content": "x"}, None], "field messages[1]: found null, expected an object"),
        ([{"role": "user", "content": None}], "field messages[0].content: found null, expected text"),
        ([{"role": "user"}], "field messages[0].content: found null, expected text"),
        ([{"role": "Assistant", "content": "x"}], "found an unknown role.*did you mean 'assistant'"),
        ([{"role": "Smith", "content": "x"}], "found an unknown role"),
        ([{"role": "user", "content": "x", "tool_calls": ["Smith"]}], "found 1 fields besides role and content"),
        ([{"role": "user", "content": [{"type": "text", "text": "Smith"}]}], "found a list, expected text"),
    ],
)
def test_a_bad_message_is_named_by_its_place_in_the_chat(tmp_path: Path, messages: object, says: str) -> None:
    """A chat is checked down to each role and content."""
    message = refused(tmp_path / "a.jsonl", json.dumps({"messages": messages}).encode())

    assert message.startswith("FILE, row 1, field messages")
    for part in says.split(".*"):
        assert part in message


@pytest.mark.parametrize(
    ("unit", "says"), [(None, "null"), (1.5, "a number"), (True, "true or false"), ("", "empty text")]
)
def test_every_record_belongs_to_a_unit_once_a_column_is_named(tmp_path: Path, unit: object, says: str) -> None:
    """A record without a unit would be counted against nobody."""
    message = refused(
        tmp_path / "a.jsonl", json.dumps({"text": "x", "patient": unit}).encode(), DataConfig(unit_field="patient")
    )

    assert message.startswith(f"FILE, row 1, field patient: found {says}")


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["a.jsonl", "a.csv", "a.parquet"]))
def test_no_bytes_whatever_end_in_anything_but_a_table_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    """Readers are strict decoders."""
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    try:
        table = read_table(path, PLAIN)
    except DataError:
        return

    assert len(table) > 0


def test_a_refused_file_leaves_nothing_open_or_changed(tmp_path: Path) -> None:
    """The process-wide limit of the CSV library is back before the error is handled."""
    limit = csv.field_size_limit()
    (tmp_path / "a.csv").write_text("text\n" + "x" * limit + "\n \n")

    with pytest.raises(DataError) as caught:
        read_table(tmp_path / "a.csv", PLAIN)

    assert caught.value.found == "empty text"
    assert csv.field_size_limit() == limit


def test_the_library_errors_that_are_replaced_do_hold_the_record() -> None:
    """Chaining them would carry a record into logs: this is what the tests above guard against."""
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads(f'{{"text": "{SECRET}"')

    assert SECRET in caught.value.doc
