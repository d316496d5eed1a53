"""Names that data bring along, as the ids that sites have in a charter: `Hospital_A.jsonl` is of site hospital-a."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from partsong.common.errors import DataError

_LONGEST = 63
"""As `partsong.common.identity.charter` has it."""


def site_ids(names: Iterable[str], *, place: str) -> dict[str, str]:
    """Give each name its id: lower-case letters, digits and inner hyphens. What is an id already stays as it is.

    Args:
        names: without repeats.
        place: where they are from, for errors.
    Raises:
        DataError: a name without a letter or digit of ASCII, or two names with one id; no site was made.
    """
    found: dict[str, str] = {}
    for name in names:
        chosen = _id(name)
        if not chosen:
            raise DataError(place, found=f"a site named {name!r}", expected="a name with Latin letters or digits")
        if chosen in found.values():
            other = next(known for known, taken in found.items() if taken == chosen)
            raise DataError(place, found=f"sites named {other!r} and {name!r}", expected=f"one that becomes {chosen}")
        found[name] = chosen
    return found


def _id(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_LONGEST].rstrip("-")
