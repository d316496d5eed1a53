"""ICD-10-CM: from a diagnosis as a coder words it to the chapter it belongs to, at five hospitals.

A record is one inclusion term of the classification, at most 80 characters long. A term that stands under more
than one code is left out, so no text is in two places. Chapters 20 to 22 (external causes, contacts, special
codes) hold no diagnoses and are left out. The unit is the 3-character category: about 15 % of each chapter's
records, in whole categories, are held out.

No hospital publishes such records, so terms are dealt to five by a public hash under a table of shares: a
maternity hospital sees nine in ten of the terms on pregnancy, a general one a little of everything. The sizes
and the mixes are made up; every word of the text is real.
"""

from __future__ import annotations

import importlib.metadata
import itertools
from collections import Counter
from dataclasses import dataclass

from partsong.simulations.builtin.records import (
    BuiltinData,
    Record,
    Style,
    fraction,
    hold_out,
    positions_by_site,
    require,
    rows_by_site,
    split,
    to_row,
)

PACKAGE = "simple_icd_10_cm"
SALT = "partsong-icd-1"
HELD_OUT_SHARE = 0.15
MAX_CHARACTERS = 80
SITES = ("general", "maternity", "oncology", "trauma", "cardiopulmonary")


@dataclass(frozen=True, kw_only=True, slots=True)
class Chapter:
    """A chapter's short name and the percentage of its records that each of `SITES` holds."""

    label: str
    percent: tuple[int, int, int, int, int]


CHAPTERS = {
    "1": Chapter(label="Infection", percent=(38, 10, 17, 15, 20)),
    "2": Chapter(label="Cancer", percent=(6, 6, 80, 3, 5)),
    "3": Chapter(label="Blood", percent=(12, 10, 62, 4, 12)),
    "4": Chapter(label="Metabolic", percent=(40, 14, 14, 4, 28)),
    "5": Chapter(label="Mental", percent=(55, 12, 6, 21, 6)),
    "6": Chapter(label="Nervous", percent=(26, 5, 12, 45, 12)),
    "7": Chapter(label="Eye", percent=(50, 5, 8, 30, 7)),
    "8": Chapter(label="Ear", percent=(50, 8, 7, 28, 7)),
    "9": Chapter(label="Heart", percent=(8, 5, 5, 5, 77)),
    "10": Chapter(label="Lung", percent=(8, 4, 8, 4, 76)),
    "11": Chapter(label="Digestive", percent=(36, 6, 36, 8, 14)),
    "12": Chapter(label="Skin", percent=(36, 6, 24, 24, 10)),
    "13": Chapter(label="Bone", percent=(18, 4, 6, 66, 6)),
    "14": Chapter(label="Kidney", percent=(22, 46, 12, 4, 16)),
    "15": Chapter(label="Pregnancy", percent=(3, 92, 1, 2, 2)),
    "16": Chapter(label="Newborn", percent=(3, 88, 1, 2, 6)),
    "17": Chapter(label="Congenital", percent=(10, 52, 6, 10, 22)),
    "18": Chapter(label="Symptoms", percent=(22, 10, 14, 14, 40)),
    "19": Chapter(label="Injury", percent=(7, 5, 5, 78, 5)),
}
"""Key: number of the chapter. Each row of percentages adds up to 100."""


def load(*, style: Style) -> BuiltinData:
    """Build the five hospitals out of the installed package; takes about two seconds, nearly all of it parsing.

    With simple_icd_10_cm 1.5.0: 1,510 to 2,010 training records a hospital, 1,488 held out, of which the most
    frequent chapter (Injury) makes 14 %.

    Raises:
        DataError: the package is not installed; nothing was read.
    """
    records = _records()
    train, held_out = split(records, held_out=_held_out(records), salt=SALT)
    row = to_row(style=style, question="Diagnosis", answer="Chapter")
    return BuiltinData(
        name="icd10",
        sites=rows_by_site(train, sites=SITES, to_row=row),
        held_out=tuple(row(record) for record in held_out),
        held_out_by_site=positions_by_site(held_out, sites=SITES),
        labels=tuple(chapter.label for chapter in CHAPTERS.values()),
        task="Name the ICD-10-CM chapter of a diagnosis as a coder words it.",
        source=f"ICD-10-CM inclusion terms from {PACKAGE} {importlib.metadata.version(PACKAGE)}",
        licence="package: MIT; text: published by the US National Center for Health Statistics",
    )


def held_out_categories() -> frozenset[str]:
    """Name the 3-character categories that no hospital trains on."""
    return _held_out(_records())


def _held_out(records: list[Record]) -> frozenset[str]:
    return hold_out(records, share=HELD_OUT_SHARE, salt=SALT)


def _records() -> list[Record]:
    terms = _terms()
    times_seen = Counter(term.lower() for _, _, term in terms)
    return [
        Record(site=_site(chapter, code, term), unit=_category(code), text=term, label=CHAPTERS[chapter].label)
        for chapter, code, term in terms
        if chapter in CHAPTERS and len(term) <= MAX_CHARACTERS and times_seen[term.lower()] == 1
    ]


def _terms() -> list[tuple[str, str, str]]:
    """Every inclusion term as (chapter, code, term); blocks of a single category share its name and are left out."""
    icd = require(PACKAGE, builtin="icd10")
    return [
        (icd.get_ancestors(code)[-1], code, " ".join(term.split()))
        for code in icd.get_all_codes()
        if not icd.is_chapter_or_block(code)
        for term in icd.get_inclusion_term(code)
    ]


def _category(code: str) -> str:
    return code.partition(".")[0]


def _site(chapter: str, code: str, term: str) -> str:
    """Deal one term by its hash against the cumulated shares of its chapter."""
    ends = itertools.accumulate(CHAPTERS[chapter].percent)
    drawn = 100 * fraction(SALT, "site", code, term)
    return next(site for site, end in zip(SITES, ends, strict=True) if drawn < end)
