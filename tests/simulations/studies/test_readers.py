"""Reading the published files, in their layout, with made-up lines."""

import hashlib
import json
from pathlib import Path

import pytest

from partsong.common.errors import DataError
from partsong.simulations.studies import banking77, medquad
from partsong.simulations.studies.sources import Source


def written(folder: Path, path: str, text: str) -> Source:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return Source(path=path, sha256=hashlib.sha256(text.encode()).hexdigest(), origin="here", licence="CC0")


def answers(count: int, **others: str) -> str:
    rows = [
        {
            "document_id": f"d{i // 2}",
            "source": "GHR",
            "question_type": "symptoms",
            "answer": f" An\n answer {i}",
            **others,
        }
        for i in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_answers_of_one_document_stay_in_one_part(tmp_path: Path) -> None:
    """Two hundred documents of two answers each; white space is evened out, type and publisher are kept, the latter as a site id."""
    corpus = medquad.read(tmp_path, (written(tmp_path, "medquad/GHR.jsonl", answers(400)),))

    parts = [{row.text for row in part} for part in (corpus.train, corpus.validation, corpus.test)]
    assert sum(map(len, parts)) == 400
    assert all(parts)
    for number in range(200):
        assert sum(f"An answer {2 * number}" in part and f"An answer {2 * number + 1}" in part for part in parts) == 1
    assert {(row.site, row.label) for row in corpus.train} == {("ghr", "symptoms")}


def test_rare_types_and_empty_answers_are_left_out(tmp_path: Path) -> None:
    """A type that is not among the twelve, and an answer of white space."""
    text = answers(3, question_type="stages") + answers(2, answer=" \n") + answers(1)

    corpus = medquad.read(tmp_path, (written(tmp_path, "medquad/GHR.jsonl", text),))

    assert [row.text for row in (*corpus.train, *corpus.validation, *corpus.test)] == ["An answer 0"]


@pytest.mark.parametrize("line", ["{", "[]", '{"document_id": 3}', '"text"'])
def test_a_line_of_another_shape_is_named_and_not_quoted(tmp_path: Path, line: str) -> None:
    """By file and number."""
    source = written(tmp_path, "medquad/GHR.jsonl", answers(1) + line + "\n")

    with pytest.raises(DataError, match=r"GHR\.jsonl, line 2"):
        medquad.read(tmp_path, (source,))


def test_a_tenth_of_the_questions_is_kept_for_choosing(tmp_path: Path) -> None:
    """The test questions are the published ones; nothing is lost or doubled."""
    rows = "".join(f"question {i},intent-{i % 3}\n" for i in range(600))
    files = (
        written(tmp_path, "banking77/banking_data/train.csv", "text,category\n" + rows),
        written(tmp_path, "banking77/banking_data/test.csv", 'text,category\n"where, when?",intent-1\n'),
    )

    corpus = banking77.read(tmp_path, files)

    assert corpus.labels == ("intent-0", "intent-1", "intent-2")
    assert [row.text for row in corpus.test] == ["where, when?"]
    assert len({row.text for row in (*corpus.train, *corpus.validation)}) == 600
    assert 30 < len(corpus.validation) < 90


def test_a_row_without_a_category_is_named(tmp_path: Path) -> None:
    """By file and line."""
    files = (
        written(tmp_path, "banking77/banking_data/train.csv", "text,category\nwhere?,\n"),
        written(tmp_path, "banking77/banking_data/test.csv", "text,category\nx,y\n"),
    )

    with pytest.raises(DataError, match=r"train\.csv, line 2"):
        banking77.read(tmp_path, files)
