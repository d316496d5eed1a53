"""What a rehearsal is told, checked before torch is imported, so that a typing error is answered at once."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from partsong.common.build import build
from partsong.common.config import SimulationConfig
from partsong.common.deployment import SiteConfig
from partsong.common.errors import ConfigError, Refused
from partsong.common.simulated import AuditConfig
from partsong.simulations.configure import compose_tree

Declared = Literal["private", "public", "synthetic"]
"""What a dataset holds, by its owner's word."""
DECLARATION = "audit.records="


@dataclass(frozen=True, kw_only=True, slots=True)
class RehearsalConfig(SimulationConfig):
    """The configuration of a run, and what its audit needs."""

    audit: AuditConfig = field(default_factory=AuditConfig)


def compose_rehearsal(overrides: Sequence[str]) -> RehearsalConfig:
    """Compose the configuration of a rehearsal.

    Raises:
        Refused: `private_records_in_audit`; nothing was read.
        ConfigError: as `compose_simulation`, and for a run without privacy: it claims nothing.
    """
    config = _composed(overrides)
    require_public(config, declared=config.audit.records)
    return config


def compose_at_site(site: SiteConfig, overrides: Sequence[str]) -> RehearsalConfig:
    """Compose the configuration of a rehearsal over a site's own records.

    Args:
        site: whose model and records are used.
        overrides: everything else.
    Raises:
        ConfigError: as `compose_rehearsal`, and for a setting of model or data, which are the site's.
    """
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] in ("model", "data") or key == "audit.records":
            raise ConfigError(
                "argument", found=repr(override), expected="the model and the records that site.yaml names"
            )
    source = f"model.source={_quoted(site.model.source)}"
    config = _composed(["model=local", source, "data=local", *overrides])
    return dataclasses.replace(
        config,
        model=site.model,
        data=site.data,
        cohort=dataclasses.replace(config.cohort, minimum=1),
        secure_sum=dataclasses.replace(config.secure_sum, mode="off"),
    )


def _quoted(text: str) -> str:
    """Write a value as Hydra reads it back."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _composed(overrides: Sequence[str]) -> RehearsalConfig:
    config = build(RehearsalConfig, compose_tree("audit", RehearsalConfig, overrides))
    if config.privacy.mode != "dp":
        raise ConfigError(
            "privacy.mode", found="none", expected="dp", remedy="without privacy there is no claim to audit"
        )
    if config.privacy.placement != "site":
        raise ConfigError(
            "privacy.placement",
            found=config.privacy.placement,
            expected="site: a rehearsal has one site, and its noise has to be enough by itself",
            remedy="audit the engine with placement=site and the noise multiplier of the plan",
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
            reason="an audit trains on its records and shows what it found, and here nothing charges that to a ledger",
            remedy="use data=icd10 or data=iso18245; say audit.records=public or audit.records=synthetic if that is "
            "what data.path holds; or audit at the site, from its budget: partsong audit --site DIR",
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
