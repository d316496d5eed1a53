"""One table from four formats, and from rows in memory."""

import csv
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.data.table import Table, read_table, table_from_rows
from partsong.common.config import DataConfig
from partsong.common.errors import DataError

Rows = list[dict[str, object]]
PLAIN = DataConfig()
LABELLED: Rows = [
    {"text": "chest is clear", "label": "lung"},
    {"text": 'a "quoted", torn\nligament ü😀', "label": "bone"},
    {"text": "line \u2028 separator", "label": 7},
]


def write_jsonl(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: Rows) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: Rows) -> Path:
    text = [{k: v if isinstance(v, list) else str(v) for k, v in row.items()} for row in rows]
    pq.write_table(pa.Table.from_pylist(text), path)
    return path


def write_dataset(path: Path, rows: Rows) -> Path:
    datasets = pytest.importorskip("datasets")
    text = [{k: v if isinstance(v, list) else str(v) for k, v in row.items()} for row in rows]
    datasets.Dataset.from_list(text).save_to_disk(str(path))
    return path


WRITERS = [(write_jsonl, "a.jsonl"), (write_csv, "a.csv"), (write_parquet, "a.parquet"), (write_dataset, "a")]


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_each_format_gives_the_same_records(tmp_path: Path, write: Callable[[Path, Rows], Path], name: str) -> None:
    """What was written is what is read, line ends, quotes and emoji included, under one fingerprint."""
    path = write(tmp_path / name, LABELLED)

    table = read_table(path, PLAIN)

    assert table.kind == "text_label"
    assert [row.parts for row in table.rows] == [
        (("text", row["text"]), ("label", str(row["label"]))) for row in LABELLED
    ]
    assert table.fingerprint() == table_from_rows(LABELLED, PLAIN, "memory").fingerprint()


@pytest.mark.parametrize(("write", "name"), [w for w in WRITERS if w[1] != "a.csv"])
def test_chats_come_from_every_format_that_can_hold_them(
    tmp_path: Path, write: Callable[[Path, Rows], Path], name: str
) -> None:
    """Fields that a table fills with null are as if they were not there."""
    turns = [{"role": "user", "content": "hi", "name": None}, {"role": "assistant", "content": "yes", "name": None}]

    table = read_table(write(tmp_path / name, [{"messages": turns}]), PLAIN)

    assert table.rows[0].parts == (("user", "hi"), ("assistant", "yes"))


def test_stored_class_numbers_come_back_as_names(tmp_path: Path) -> None:
    """A `ClassLabel` column holds places in a list of names, and it is the names that count."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["lung", "bone"])}
    )
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features).save_to_disk(
        str(tmp_path / "d")
    )

    table = read_table(tmp_path / "d", PLAIN)

    assert [row.parts[1][1] for row in table.rows] == ["bone", "lung"]


def test_a_format_stored_with_a_dataset_does_not_change_its_records(tmp_path: Path) -> None:
    """A dataset saved for numpy holds the same texts and numbers as a plain one."""
    datasets = pytest.importorskip("datasets")
    stored = datasets.Dataset.from_dict({"text": ["x"], "u": [7]}).with_format("numpy")
    stored.save_to_disk(str(tmp_path / "d"))

    table = read_table(tmp_path / "d", DataConfig(unit_field="u"))

    assert table.units == ("7",)
    assert type(table.rows[0].parts[0][1]) is str


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"messages": [{"role": "user", "content": "x"}], "text": "x", "prompt": "x", "completion": "x"}, "chat"),
        ({"prompt": "x", "completion": "x", "text": "x", "label": "x"}, "prompt_completion"),
        ({"text": "x", "label": "x", "prompt": "x"}, "text_label"),
        ({"text": "x", "title": "x"}, "text"),
    ],
)
def test_the_kind_follows_from_the_columns(fields: dict[str, object], kind: str) -> None:
    """The richest kind that the columns allow is taken."""
    assert table_from_rows([fields], PLAIN, "memory").kind == kind


def test_columns_may_have_other_names() -> None:
    """A renamed column fills its part; the name it had does not enter the fingerprint."""
    config = DataConfig(prompt_field="q", completion_field="a", unit_field="patient")
    renamed = table_from_rows([{"q": "Q", "a": "A", "patient": 7}], config, "memory")

    plain = table_from_rows([{"prompt": "Q", "completion": "A", "p": "7"}], DataConfig(unit_field="p"), "memory")

    assert renamed.units == plain.units == ("7",)
    assert renamed.fingerprint() == plain.fingerprint()


def test_a_further_column_is_carried_only_when_asked_for(tmp_path: Path) -> None:
    """`keep` carries a column beside the record and leaves the fingerprint alone."""
    rows: Rows = [{"text": "x", "ward": "east"}, {"text": "y", "ward": 3}]

    for write, name in WRITERS:
        table = read_table(write(tmp_path / name, rows), PLAIN, keep=("ward",))
        assert table.kept("ward") == ("east", "3")
        assert table.fingerprint() == table_from_rows(rows, PLAIN, "memory").fingerprint()
    with pytest.raises(KeyError):
        table_from_rows(rows, PLAIN, "memory").kept("ward")
    with pytest.raises(DataError, match=r"memory, row 1, field wart: found nothing.*did you mean 'ward'"):
        table_from_rows(rows, PLAIN, "memory", keep=("wart",))


def test_a_selection_keeps_row_numbers_and_order() -> None:
    """A record can still be pointed at in its file after the table was split."""
    rows = [{"text": t, "u": t} for t in "abcd"]
    table = table_from_rows(rows, DataConfig(unit_field="u"), "memory")

    part = table.select([3, 1])

    assert [row.number for row in part.rows] == [4, 2]
    assert part.units == ("d", "b")
    assert len(table.select([])) == 0
    assert table.units == ("a", "b", "c", "d")
    assert table_from_rows([{"text": "a"}], PLAIN, "memory").units is None


texts = st.text(alphabet='ab,"]ü', min_size=1, max_size=8)


@settings(deadline=None)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=6))
def test_the_fingerprint_tells_apart_what_a_plain_join_would_not(pairs: list[tuple[str, str]]) -> None:
    """Moving text over a field border, swapping records, or naming a unit each changes the hash."""

    def of(rows: list[tuple[str, str]], **more: str) -> str:
        config = DataConfig(unit_field="u" if more else None)
        return table_from_rows([{"prompt": p, "completion": c} | more for p, c in rows], config, "m").fingerprint()

    moved = [(pairs[0][0] + pairs[0][1][:1], pairs[0][1][1:] or "x"), *pairs[1:]]

    assert of(pairs) == of(list(pairs))
    assert of(pairs) != of(moved)
    assert of(pairs) != of(pairs, u="1")
    assert of(pairs) != of([*pairs, pairs[0]])
    if pairs != pairs[::-1]:
        assert of(pairs) != of(pairs[::-1])


@settings(deadline=None)
@given(st.lists(st.text(min_size=1, max_size=12).filter(str.strip), min_size=1, max_size=5))
def test_any_text_survives_json_and_parquet(values: list[str]) -> None:
    """Every string that UTF-8 can carry comes back unchanged through a JSONL line and through Parquet."""
    rows: Rows = [{"text": value} for value in values]

    with tempfile.TemporaryDirectory() as folder:
        read = [read_table(w(Path(folder) / n, rows), PLAIN) for w, n in (WRITERS[0], WRITERS[2])]

    assert all([row.parts[0][1] for row in table.rows] == values for table in read)


def test_a_table_is_a_value() -> None:
    """Equal rows make equal tables."""
    made: list[Table] = [table_from_rows([{"text": "a"}], PLAIN, "m") for _ in range(2)]

    assert made[0] == made[1]
