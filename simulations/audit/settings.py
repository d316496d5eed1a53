"""What a rehearsal is told, checked before torch is imported, so that a typing error is answered at once."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Literal

from partsong.common.build import build
from partsong.common.config import RehearsalConfig, SimulationConfig
from partsong.common.errors import ConfigError, Refused
from partsong.simulations.configure import compose_tree

Declared = Literal["private", "public", "synthetic"]
"""What a dataset holds, by its owner's word."""
DECLARATION = "audit.records="


def compose_rehearsal(overrides: Sequence[str]) -> RehearsalConfig:
    """Compose the configuration of a rehearsal.

    Raises:
        Refused: `private_records_in_audit`; nothing was read.
        ConfigError: as `compose_simulation`, and for a run without privacy: it claims nothing.
    """
    config = build(RehearsalConfig, compose_tree("audit", RehearsalConfig, overrides))
    require_public(config, declared=config.audit.records)
    if config.privacy.mode != "dp":
        raise ConfigError(
            "privacy.mode", found="none", expected="dp", remedy="without privacy there is no claim to audit"
        )
    return config


def require_public(config: SimulationConfig, *, declared: Declared) -> None:
    """Refuse records that nobody has declared public or synthetic.

    Args:
        config: whose `data` is asked about.
        declared: what `audit.records` says.
    Raises:
        Refused: `private_records_in_audit`; nothing was read.
    """
    if config.data.builtin is None and declared == "private":
        raise Refused(
            "private_records_in_audit",
            reason="an audit trains on its records and publishes what it found, and nothing charges that to a ledger",
            remedy="use data=icd10 or data=iso18245, or say audit.records=public or audit.records=synthetic if that is "
            "what data.path holds",
        )


def declared_in(overrides: Sequence[str]) -> Declared:
    """Read `audit.records`, the one setting that has a meaning beside a finished run.

    Raises:
        ConfigError: another setting, or another value.
    """
    said: Declared = "private"
    for override in overrides:
        found = [w for w in typing.get_args(Declared) if override == f"{DECLARATION}{w}"]
        if not found:
            raise ConfigError(
                "argument",
                found=repr(override),
                expected="audit.records=public or audit.records=synthetic",
                remedy="beside --adapter there is nothing else to set: a run keeps its configuration",
            )
        said = found[0]
    return said
