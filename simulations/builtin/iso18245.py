"""ISO 18245: from the wording of a merchant category to its group, at seven institutions.

The same merchant category code (MCC) is worded by each institution in its own way: that is what makes the
sites differ, and the institutions are real. Visa, Mastercard, Amex and USDA also list airlines, car rentals and
lodging by brand; Alipay, Stripe and the official list do not. The class is the standard's own range of codes;
the range reserved for private use is parted into the three that the schemes use it for.

The unit is the MCC: about 20 % of each group's records are held out, in whole codes, so a wording of one
institution never tests what another institution's wording of the same code taught. Wordings that stand under
more than one code are left out, as are the few codes of the range "Other". Sites do hold alike wordings of one
code: this is no data for a claim about disjoint records.
"""

from __future__ import annotations

import importlib.metadata
from collections import defaultdict

from partsong.simulations.builtin.records import (
    BuiltinData,
    Record,
    Style,
    hold_out,
    positions_by_site,
    require,
    rows_by_site,
    split,
    to_row,
)

PACKAGE = "iso18245"
SALT = "partsong-mcc-1"
HELD_OUT_SHARE = 0.2

DESCRIPTIONS = {
    "alipay": "alipay_description",
    "amex": "amex_description",
    "mastercard": "mastercard_description",
    "official": "iso_description",
    "stripe": "stripe_description",
    "usda": "usda_description",
    "visa": "visa_description",
}
"""Site: the package's field that holds its wording."""

RANGES = {
    "Agricultural services": "Agriculture",
    "Contracted services": "Contractors",
    "Transportation": "Transport",
    "Utilities": "Utilities",
    "Retail outlets": "Retail",
    "Clothing outlets": "Clothing",
    "Miscellaneous outlets": "Shops",
    "Service providers": "Services",
    "Business services": "Business",
    "Repair services": "Repair",
    "Amusement and entertainment": "Entertainment",
    "Professional services and membership organizations": "Professional",
    "Government services": "Government",
}
"""Name of a range in the standard: short name of the class."""

PRIVATE_RANGES = {"Airlines": ("3000", "3350"), "Cars": ("3351", "3500"), "Lodging": ("3501", "3999")}
"""Class: first and last code of what the schemes use the private range for (private_ranges.csv of the package)."""


def load(*, style: Style) -> BuiltinData:
    """Build the seven institutions out of the installed package; takes under a second.

    With iso18245 1.4.1: 210 to 706 training records an institution, 802 held out, of which the most frequent
    class (Lodging) makes 29 %.

    Raises:
        DataError: the package is not installed; nothing was read.
    """
    records = _records()
    chosen = hold_out(records, share=HELD_OUT_SHARE, salt=SALT)
    train, held_out = split(records, held_out=chosen, salt=SALT)
    sites = tuple(DESCRIPTIONS)
    row = to_row(style=style, question="Merchant", answer="Group")
    return BuiltinData(
        name="iso18245",
        sites=rows_by_site(train, sites=sites, to_row=row),
        held_out=tuple(row(record) for record in held_out),
        held_out_by_site=positions_by_site(held_out, sites=sites),
        labels=(*RANGES.values(), *PRIVATE_RANGES),
        task="Name the group of a merchant category as a payment institution words it.",
        source=f"ISO 18245 merchant category codes from {PACKAGE} {importlib.metadata.version(PACKAGE)}",
        licence="package: MIT; wordings: public lists of the institutions",
    )


def _records() -> list[Record]:
    mccs = require(PACKAGE, builtin="iso18245").get_all_mccs()
    records = [
        Record(site=site, unit=mcc.mcc, text=" ".join(wording.split()), label=label)
        for mcc in mccs
        if (label := _label(mcc.mcc, mcc.range.description))
        for site, field in DESCRIPTIONS.items()
        if (wording := getattr(mcc, field))
    ]
    units: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        units[record.text.lower()].add(record.unit)
    return [record for record in records if len(units[record.text.lower()]) == 1]


def _label(mcc: str, range_name: str) -> str | None:
    for label, (first, last) in PRIVATE_RANGES.items():
        if first <= mcc <= last:
            return label
    return RANGES.get(range_name)
