"""Questions with their answers, by publisher: MedQuAD as a language model learns it.

Documents, not answers, are dealt to training and test, as the classification of the same data deals them, so no disease
is in two parts. Each publisher gives as many pairs as any other, chosen by a public hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from partsong.client.data.table import Table, table_from_rows
from partsong.common.config import DataConfig
from partsong.simulations.builtin.records import fraction
from partsong.simulations.studies.corpus import part_of
from partsong.simulations.studies.medquad import SALT, SOURCES, TEST, VALIDATION, lines_of
from partsong.simulations.studies.sources import Source, locate

_FIELDS = ("document_id", "source", "question", "answer")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A question and its answer."""

    site: str
    """Who publishes it."""
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """What sites learn from, and what they are tested on."""

    train: tuple[Pair, ...]
    test: tuple[Pair, ...]

    @property
    def sites(self) -> tuple[str, ...]:
        """Publishers, in order."""
        return tuple(sorted({pair.site for pair in self.train}))


def read(data_dir: Path, *, train: int, test: int, sources: tuple[Source, ...] = SOURCES) -> Pairs:
    """Read the files.

    Args:
        data_dir: folder with `medquad/`.
        train: pairs that each publisher gives to learn from; one with fewer gives them all.
        test: likewise, to be tested on.
        sources: the files.
    Raises:
        DataError: a file is absent, has other bytes, or a line of it is not what is expected.
    """
    parts: dict[str, list[Pair]] = {"train": [], "test": []}
    for file in locate(data_dir, sources):
        found: dict[str, list[Pair]] = {"train": [], "validation": [], "test": []}
        for document, pair in _pairs(file):
            found[part_of(document, salt=SALT, validation=VALIDATION, test=TEST)].append(pair)
        for part, most in (("train", train), ("test", test)):
            parts[part] += sorted(found[part], key=_draw)[:most]
    return Pairs(train=tuple(parts["train"]), test=tuple(parts["test"]))


def made_up(*, train: int, test: int) -> Pairs:
    """Make short pairs of three sites, for grids that only show that the program works."""
    things = ("card", "loan", "transfer")

    def some(first: int, count: int) -> tuple[Pair, ...]:
        return tuple(
            Pair(site=f"site-{thing}", question=f"Where is {thing} {first + i}?", answer=f"The {thing} is at {i % 5}.")
            for thing in things
            for i in range(count)
        )

    return Pairs(train=some(0, train), test=some(1000, test))


def table_of(pairs: tuple[Pair, ...], *, name: str) -> Table:
    """Give pairs as records: the answer is learned, the question is not."""
    rows = [{"prompt": f"Question: {pair.question}\nAnswer:", "completion": f" {pair.answer}"} for pair in pairs]
    return table_from_rows(rows, DataConfig(), source=f"medquad:{name}")


def _draw(pair: Pair) -> float:
    return fraction("partsong-generation", pair.question, pair.answer)


def _pairs(file: Path) -> Iterator[tuple[str, Pair]]:
    for row in lines_of(file, _FIELDS):
        question, answer = (" ".join(row[name].split()) for name in ("question", "answer"))
        if question and answer:
            yield row["document_id"], Pair(site=row["source"], question=question, answer=answer)
