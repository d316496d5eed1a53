"""A canary: a run whose vectors anyone can compute, to try the whole path before it is trusted with records.

Covers: what a canary carries says nothing about a site: it is zero, or follows from public values alone.
Does not cover: that a site takes part, and when; every message tells that.
"""

from __future__ import annotations

import hashlib

import numpy as np

from partsong.common.adapters.adapter import FloatVec
from partsong.common.deployment import MOST_CANARY_NUMBERS
from partsong.common.plan import Plan

STUDY = "canary"
NO_MODEL = hashlib.sha256(b"partsong canary: no base model").hexdigest()
"""Stands in a canary's plan where another names its base model."""
MOST_NUMBERS = MOST_CANARY_NUMBERS
LARGEST_MARK = 3
_MARKS = 2 * LARGEST_MARK + 1


def canary_update(plan: Plan, *, number: int, site: str) -> FloatVec:
    """Give the vector of one site in one round: whole numbers, so that a sum can be told right or wrong.

    Args:
        plan: of study `canary`; without a seed all is zero.
        number: of the round.
        site: its name.
    Returns:
        (P,) between -LARGEST_MARK and LARGEST_MARK, from SHAKE-256 of plan, round and name.
    """
    size = plan.layout.size(trained=True)
    if plan.seed is None:
        return np.zeros(size, np.float32)
    drawn = hashlib.shake_256(f"partsong canary\0{plan.sha256}\0{number}\0{site}".encode()).digest(size)
    return (np.frombuffer(drawn, np.uint8) % _MARKS).astype(np.float32) - LARGEST_MARK
