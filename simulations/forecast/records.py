"""Which records a forecast may train on, checked before torch is imported."""

from __future__ import annotations

from typing import Literal

from partsong.common.config import SimulationConfig
from partsong.common.errors import Refused


def require_public(config: SimulationConfig, *, declared: Literal["private", "public", "synthetic"]) -> None:
    """Refuse records that nobody has declared public or synthetic.

    Args:
        config: whose `data` is asked about.
        declared: what `data.path` holds, by its owner's word.
    Raises:
        Refused: `private_records_in_forecast`; nothing was read.
    """
    if config.data.builtin is None and declared == "private":
        raise Refused(
            "private_records_in_forecast",
            reason="a forecast trains on its records and shows their loss, and nothing here charges that to a ledger",
            remedy="use data=icd10 or data=iso18245, or say --records public or --records synthetic if that is what "
            "data.path holds",
        )
