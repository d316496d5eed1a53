"""BANKING77: which of 77 intents a customer's question to a bank has. The data name no sites; they are drawn.

A tenth of the published training questions, by a public hash of their text, is kept for choosing learning rates; the
published test questions are the test.

Source: Casanueva et al. 2020, NLP4ConvAI (arXiv 2003.04807).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from partsong.common.errors import DataError
from partsong.simulations.studies.corpus import Corpus, Example, part_of
from partsong.simulations.studies.sources import Source, locate

SALT = "partsong-banking77-1"
VALIDATION = 0.1
_ORIGIN = "github.com/PolyAI-LDN/task-specific-datasets at 57ec275"
SOURCES = (
    Source(
        path="banking77/banking_data/train.csv",
        sha256="b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
        origin=_ORIGIN,
        licence="CC BY 4.0",
    ),
    Source(
        path="banking77/banking_data/test.csv",
        sha256="d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
        origin=_ORIGIN,
        licence="CC BY 4.0",
    ),
)


def read(data_dir: Path, sources: tuple[Source, ...] = SOURCES) -> Corpus:
    """Read the two files.

    Args:
        data_dir: folder with `banking77/`.
        sources: its files: training, then test.
    Raises:
        DataError: a file is absent, has other bytes, or a row of it is not what is expected.
    """
    train_file, test_file = locate(data_dir, sources)
    train, test = tuple(_examples(train_file)), tuple(_examples(test_file))
    parts = [part_of(example.text, salt=SALT, validation=VALIDATION, test=0.0) for example in train]
    return Corpus(
        name="banking77",
        labels=tuple(sorted({example.label for example in train})),
        train=tuple(e for e, part in zip(train, parts, strict=True) if part == "train"),
        validation=tuple(e for e, part in zip(train, parts, strict=True) if part == "validation"),
        test=test,
    )


def _examples(file: Path) -> Iterator[Example]:
    with file.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines)
        for row in rows:
            text, label = row.get("text"), row.get("category")
            if not text or not label:
                raise DataError(
                    f"{file.name}, line {rows.line_num}", found="a row without text or category", expected="both"
                )
            yield Example(text=" ".join(text.split()), label=label)
