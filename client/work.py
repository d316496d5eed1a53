"""What a plan's queries are answered with, and what they are paid from."""

from __future__ import annotations

from dataclasses import dataclass

from partsong.client.budget.spending import Purse
from partsong.client.encoders.encoder import Encoder


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Of one plan."""

    encoder: Encoder
    purse: Purse
