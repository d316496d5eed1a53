"""Which of the registered sites take part in a round, where a run asks some of them only.

Covers: nobody can steer the draw after the plan is agreed; it is repeatable, also after a crash, and anyone who has the
plan can draw it again.
Does not cover: secrecy. The draw is public, so no privacy is claimed from it: a site's budget is what it would be if it
were asked in every round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def cohort_of(names: Iterable[str], *, plan_sha256: str, number: int, size: int) -> tuple[str, ...]:
    """Draw the sites of a round: those of the smallest hashes.

    Args:
        names: of all registered sites.
        plan_sha256: hash of the plan.
        number: of the round.
        size: most sites to draw.
    """

    def place(name: str) -> bytes:
        return hashlib.sha256(f"partsong cohort\0{plan_sha256}\0{number}\0{name}".encode()).digest()

    return tuple(sorted(sorted(names, key=place)[:size]))
