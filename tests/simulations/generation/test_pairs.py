"""Questions and answers, by publisher."""

import hashlib
import json
from pathlib import Path

import pytest

from partsong.common.errors import DataError
from partsong.simulations.generation.pairs import Pair, made_up, read, table_of
from partsong.simulations.studies.sources import Source


def written(folder: Path, name: str, lines: list[object]) -> Source:
    """One file of a data directory."""
    file = folder / "medquad" / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Source(path=f"medquad/{name}.jsonl", sha256=digest, origin="here", licence="none")


def row(site: str, document: int, answer: str = "An answer") -> dict[str, str]:
    return {"document_id": f"{site}-{document}", "source": site, "question": f"What is {document}?", "answer": answer}


def test_each_publisher_gives_the_same_number_of_pairs(tmp_path: Path) -> None:
    """The same ones every time, and not simply the first; a publisher with fewer gives them all."""
    large = written(tmp_path, "a", [row("a", n) for n in range(200)])
    small = written(tmp_path, "b", [row("b", n) for n in range(40)])

    found, again = (read(tmp_path, train=50, test=6, sources=(large, small)) for _ in range(2))

    assert found == again
    count = {site: sum(pair.site == site for pair in found.train) for site in found.sites}
    assert count["a"] == 50
    assert 20 < count["b"] < 40
    assert [pair.site for pair in found.test].count("a") == 6
    assert [pair.question for pair in found.train][:50] != [f"What is {n}?" for n in range(50)]


def test_no_document_is_on_both_sides(tmp_path: Path) -> None:
    """Ten answers of each document go where it goes."""
    rows = [row("a", document, answer=f"Answer {n}") for document in range(60) for n in range(10)]

    found = read(tmp_path, train=1000, test=1000, sources=(written(tmp_path, "a", list(rows)),))

    train, test = ({pair.question for pair in part} for part in (found.train, found.test))
    assert train
    assert test
    assert not train & test
    assert len(found.train) == 10 * len(train)


def test_an_answer_without_text_is_left_out(tmp_path: Path) -> None:
    """Of spaces alone; spaces within a text become one."""
    rows = [row("a", n, answer="  " if n % 2 else "two \n words") for n in range(40)]

    found = read(tmp_path, train=100, test=100, sources=(written(tmp_path, "a", list(rows)),))

    assert {pair.answer for pair in found.train + found.test} == {"two words"}


@pytest.mark.parametrize(("line", "match"), [("{", "not JSON"), ({"answer": "x"}, "another shape"), ("3", "another")])
def test_a_line_of_another_shape_is_named(tmp_path: Path, line: object, match: str) -> None:
    """By file and line."""
    source = written(tmp_path, "a", [row("a", 1), line])

    with pytest.raises(DataError, match=rf"a\.jsonl, line 2.*{match}"):
        read(tmp_path, train=1, test=1, sources=(source,))


def test_the_answer_is_what_a_model_learns() -> None:
    """The question stands before it."""
    table = table_of((Pair(site="a", question="Why?", answer="Because."),), name="a")

    assert table.kind == "prompt_completion"
    assert [part[1] for part in table.rows[0].parts] == ["Question: Why?\nAnswer:", " Because."]


def test_made_up_pairs_are_of_three_sites() -> None:
    """None of them on both sides."""
    found = made_up(train=5, test=2)

    assert (len(found.sites), len(found.train), len(found.test)) == (3, 15, 6)
    assert not set(found.train) & set(found.test)
