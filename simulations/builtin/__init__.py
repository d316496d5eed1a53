"""Real text out of installed packages, so that a federation runs on a machine that holds no data.

    icd10       five hospitals, diagnosis -> ICD-10-CM chapter
    iso18245    seven institutions, merchant category -> group of the standard

Both are public classifications: nothing here is anybody's record, and nothing needs protection.
"""

from __future__ import annotations

from typing import Literal

from partsong.simulations.builtin import icd10, iso18245
from partsong.simulations.builtin.records import BuiltinData, Row, Style

__all__ = ["BuiltinData", "Row", "Style", "load"]


def load(name: Literal["icd10", "iso18245"], *, style: Style) -> BuiltinData:
    """Load a built-in dataset with its own sites and its own held-out set.

    Guarantees:
        - no unit (3-character category, merchant category code) is both in training and held out;
        - no text is both in training and held out;
        - the same package version gives the same rows in the same order, on every machine.
    Args:
        name: value of `data.builtin`.
        style: `prompt_completion` for a causal model, `text_label` for a classifier. Rows and their order are
            otherwise the same.
    Raises:
        DataError: the package that carries the text is not installed; nothing was read.
    """
    return {"icd10": icd10.load, "iso18245": iso18245.load}[name](style=style)
