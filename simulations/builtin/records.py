"""What built-in text looks like once it is loaded, and the public hash that splits it.

Nothing here draws random numbers: who gets a record and what is held out follow from SHA-256 of public
codes, so one version of a package gives the same data on every machine and every Python.
"""

from __future__ import annotations

import hashlib
import importlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal

from partsong.common.errors import DataError

Row = dict[str, str]
Style = Literal["prompt_completion", "text_label"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltinData:
    """A federation's worth of real text: records of each site and a held-out set nobody trains on."""

    name: str
    sites: Mapping[str, tuple[Row, ...]]
    """Training rows by site. In every row `unit` names the code that was split by."""
    held_out: tuple[Row, ...]
    """Rows whose units occur at no site. Any prefix is a fair sample, of this and of each site's rows."""
    held_out_by_site: Mapping[str, tuple[int, ...]]
    """Positions in `held_out` that follow the site's own mix; every position belongs to one site."""
    labels: tuple[str, ...]
    """The closed, public list of classes."""
    task: str
    """One sentence for people."""
    source: str
    """Where the text is from: package and version."""
    licence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One labelled text and the site that holds it, before it takes the form of a row."""

    site: str
    unit: str
    text: str
    label: str


def fraction(*parts: str) -> float:
    """Map public words to a number in [0, 1) that looks uniform and never changes."""
    digest = hashlib.sha256("/".join(parts).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2.0**53


def hold_out(records: Iterable[Record], *, share: float, salt: str) -> frozenset[str]:
    """Choose whole units to hold out, label by label.

    Guarantees:
        - at most `share` of each label's records belong to a chosen unit of that label;
        - the choice depends on the records' units and labels alone, not on their order or their sites.
    Args:
        records: every record, held out or not.
        share: of a label's records, 0 to 1. A unit too large to fit is passed over and stays in training.
        salt: public name of the split.
    """
    sizes = Counter((record.label, record.unit) for record in records)
    totals: Counter[str] = Counter()
    for (label, _), size in sizes.items():
        totals[label] += size
    taken: Counter[str] = Counter()
    chosen = set()
    for label, unit in sorted(sizes, key=lambda pair: (fraction(salt, pair[1]), pair)):
        if taken[label] + sizes[label, unit] <= share * totals[label]:
            taken[label] += sizes[label, unit]
            chosen.add(unit)
    return frozenset(chosen)


def shuffled(records: Iterable[Record], *, salt: str) -> list[Record]:
    """Order records by a public hash, so that any prefix is a fair sample."""
    return sorted(records, key=lambda r: (fraction(salt, "order", r.site, r.unit, r.text), r.site, r.unit, r.text))


def rows_by_site(
    records: Iterable[Record], *, sites: Sequence[str], to_row: Callable[[Record], Row]
) -> dict[str, tuple[Row, ...]]:
    """Turn records into rows, grouped by the site that holds them, in the order given."""
    rows: dict[str, list[Row]] = {site: [] for site in sites}
    for record in records:
        rows[record.site].append(to_row(record))
    return {site: tuple(held) for site, held in rows.items()}


def positions_by_site(records: Iterable[Record], *, sites: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Say which positions of `records` belong to which site."""
    positions: dict[str, list[int]] = {site: [] for site in sites}
    for position, record in enumerate(records):
        positions[record.site].append(position)
    return {site: tuple(held) for site, held in positions.items()}


def split(records: Iterable[Record], *, held_out: AbstractSet[str], salt: str) -> tuple[list[Record], list[Record]]:
    """Part records into those to train on and those held out, each in the order of a public hash."""
    ordered = shuffled(records, salt=salt)
    return [r for r in ordered if r.unit not in held_out], [r for r in ordered if r.unit in held_out]


def to_row(*, style: Style, question: str, answer: str) -> Callable[[Record], Row]:
    """Choose the form of a row.

    Args:
        style: `prompt_completion` for a causal model, `text_label` for a classifier.
        question: word before the text of a prompt.
        answer: word that asks for the label at the end of a prompt.
    """
    if style == "text_label":
        return lambda r: {"text": r.text, "label": r.label, "unit": r.unit}
    return lambda r: {
        "prompt": f"{question}: {r.text}\n{answer}:",
        "completion": f" {r.label}",
        "unit": r.unit,
    }


def require(package: str, *, builtin: str) -> Any:
    """Import the package that carries the text.

    Raises:
        DataError: it is not installed; says how to get it.
    """
    try:
        with warnings.catch_warnings():  # simple_icd_10_cm reads its files through a function deprecated in 3.11
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(package)
    except ModuleNotFoundError as err:
        if err.name != package:
            raise
        raise DataError(
            f"data.builtin={builtin}",
            found=f"no package {package}",
            expected="the text that comes with it",
            remedy="pip install 'partsong[demo]'",
        ) from err
