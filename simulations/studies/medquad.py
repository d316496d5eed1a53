"""MedQuAD: which kind of question an answer answers, at six publishers of the US National Institutes of Health.

The text is the answer, the label the type of its question. Types with fewer than 100 answers are left out, which leaves
twelve. Documents, not answers, are dealt to training, validation and test, so no disease is in two parts. The sites are
the publishers: one of them has a single type, another five types in equal numbers.

Source: Ben Abacha and Demner-Fushman 2019, BMC Bioinformatics 20:511.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from partsong.common.errors import DataError
from partsong.simulations.studies.corpus import Corpus, Example, Part, part_of
from partsong.simulations.studies.sources import Source, locate

SALT = "partsong-medquad-1"
VALIDATION, TEST = 0.1, 0.2
LABELS = (
    "causes",
    "considerations",
    "exams and tests",
    "frequency",
    "genetic changes",
    "information",
    "inheritance",
    "outlook",
    "research",
    "susceptibility",
    "symptoms",
    "treatment",
)
_ORIGIN = "github.com/abachaa/MedQuAD at 577bd37, one JSON line per answered question"
_DIGESTS = {
    "CancerGov": "e102b0a090a2f9eaf2a6117730c3628fcee86cd627563a8491e40e49268901fb",
    "GARD": "b70281927f8595dfd9eeb03c784a76126faac839dd1db8878ab916f6b99b1bf5",
    "GHR": "301b175b9d251d030979a7c4b2956e7bf2bd2b86ceee2d978f2f0864705d53cc",
    "MedlinePlus": "4512c280fdb99800730413d20ee2fcf698e52f164cb86a34dde521fad1b41da4",
    "NIDDK": "e11ecec071a96a46babce18314700cbaa1b45a119011f488938caacc7c21f64a",
    "NINDS": "6ac010cf46e5fd52e3c3f37a1cd48576d60b24418c094aa35eaf04c7e3dd54c2",
}
SOURCES = tuple(
    Source(path=f"medquad/{name}.jsonl", sha256=digest, origin=_ORIGIN, licence="CC BY 4.0")
    for name, digest in _DIGESTS.items()
)
_FIELDS = ("document_id", "source", "question_type", "answer")


def read(data_dir: Path, sources: tuple[Source, ...] = SOURCES) -> Corpus:
    """Read the six files.

    Args:
        data_dir: folder with `medquad/`.
        sources: its files.
    Raises:
        DataError: a file is absent, has other bytes, or a line of it is not what is expected.
    """
    parts: dict[Part, list[Example]] = {"train": [], "validation": [], "test": []}
    for file in locate(data_dir, sources):
        for document, example in _examples(file):
            if example.label in LABELS:
                parts[part_of(document, salt=SALT, validation=VALIDATION, test=TEST)].append(example)
    return Corpus(
        name="medquad",
        labels=LABELS,
        train=tuple(parts["train"]),
        validation=tuple(parts["validation"]),
        test=tuple(parts["test"]),
    )


def lines_of(file: Path, fields: Sequence[str]) -> Iterator[dict[str, str]]:
    """Read a file's objects.

    Args:
        file: with one on each line.
        fields: texts that each has to have.
    Raises:
        DataError: a line is not such an object.
    """
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{file.name}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as err:
                raise DataError(place, found="a line that is not JSON", expected="one object a line") from err
            if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in fields):
                raise DataError(place, found="another shape", expected=f"an object with texts {', '.join(fields)}")
            yield row


def _examples(file: Path) -> Iterator[tuple[str, Example]]:
    for row in lines_of(file, _FIELDS):
        if text := " ".join(row["answer"].split()):
            yield row["document_id"], Example(text=text, label=row["question_type"], site=row["source"].lower())
