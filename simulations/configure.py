"""Hydra composes, `build` checks: from YAML and `key=value` overrides to one frozen configuration."""

from __future__ import annotations

import dataclasses
import logging
import re
import typing
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from partsong.common.build import build, to_tree, unknown_key
from partsong.common.config import SimulationConfig
from partsong.common.deployment import CanaryConfig, JobConfig
from partsong.common.errors import ConfigError

_OPEN_KEYS = ("adapter.peft.",)
"""Below these any key is allowed: PEFT's own options pass through."""
_OWN = ("model", "data")
"""Groups whose choice `local` stands for what the user brings."""
_GROUPS = ("model", "data", "adapter", "privacy", "steps", "demo", "demo/arm")


def compose_simulation(overrides: Sequence[str]) -> SimulationConfig:
    """Compose the configuration of a simulation.

    Args:
        overrides: `key=value` and `group=choice`, as Hydra writes them.
    Raises:
        ConfigError: an unknown key (with the closest known one), a value of the wrong type or out of range, a
            required key without a value. Nothing was started.
    """
    return build(SimulationConfig, compose_tree("simulation", SimulationConfig, overrides))


def compose_job(study: str, overrides: Sequence[str]) -> JobConfig:
    """Compose the configuration of a job.

    Args:
        study: name of the study.
        overrides: `key=value` and `group=choice`, as Hydra writes them.
    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, a required key without a value.
    """
    return build(JobConfig, {**compose_tree("job", JobConfig, overrides), "study": study})


def compose_canary(overrides: Sequence[str]) -> CanaryConfig:
    """Compose the configuration of a canary.

    Args:
        overrides: `key=value`.
    Raises:
        ConfigError: as `compose_job`.
    """
    return build(CanaryConfig, compose_tree("canary", CanaryConfig, overrides))


def compose_tree(name: str, cls: type[Any], overrides: Sequence[str]) -> Any:
    """Compose one entry point's configuration as plain mappings, lists and scalars."""
    ConfigStore.instance().store(group="schema", name=name, node=_defaults(cls), package="_global_")
    logging.getLogger("hydra").setLevel(logging.ERROR)
    GlobalHydra.instance().clear()
    with initialize_config_module("partsong.conf", version_base="1.3"):
        try:
            composed = compose(name, overrides=[_passed_through(o) for o in overrides])
            return OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        except MissingMandatoryValue as err:
            key = str(getattr(err, "full_key", "") or _quoted(str(err)))
            raise ConfigError(key, found="nothing", expected="a value", remedy=f"give {key}=...") from err
        except (HydraException, ConfigCompositionException, OmegaConfBaseException) as err:
            raise _explained(err, cls, overrides) from err


def known_keys(cls: type[Any]) -> list[str]:
    """Every key of a configuration, dotted."""
    return sorted(_flat(_defaults(cls)))


def to_yaml(config: object) -> str:
    """Print a configuration as YAML, resolved."""
    return OmegaConf.to_yaml(OmegaConf.create(to_tree(config)))


def _defaults(cls: type[Any]) -> dict[str, Any]:
    """Default tree of a dataclass; `???`, Hydra's sign for a required value, where there is no default."""
    tree: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            tree[field.name] = _defaults(hints[field.name])
        elif field.default is not dataclasses.MISSING:
            tree[field.name] = to_tree(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            tree[field.name] = to_tree(field.default_factory())
        else:
            tree[field.name] = "???"
    return tree


def _passed_through(override: str) -> str:
    return f"++{override}" if override.startswith(_OPEN_KEYS) else override


def _explained(err: Exception, cls: type[Any], overrides: Sequence[str]) -> ConfigError:
    """Turn a composition error into one of ours, with a proposal where a key is unknown."""
    known = known_keys(cls)
    sections = {k.partition(".")[0] for k in known} | set(_GROUPS)
    for override in overrides:
        key, equals, _ = override.lstrip("+~").partition("=")
        if not equals:
            return ConfigError("argument", found=repr(override), expected="key=value")
        if key not in known and key not in sections and not override.startswith(_OPEN_KEYS):
            return unknown_key(key, [*known, *sections])
    reason = re.sub(r"\s+", " ", str(err)).strip()
    choice = re.search(r"Could not find '(\w+)/(\w+)'(?: Available options in '\w+': (.*?))?(?: Config|$)", reason)
    if choice:
        return ConfigError(
            choice[1],
            found=repr(choice[2]),
            expected=f"one of {(choice[3] or '').replace(' ', ', ')}",
            remedy=f"or {choice[1]}=local with your own" if choice[1] in _OWN else None,
        )
    return ConfigError("configuration", found="overrides that do not compose", expected=reason[:300])


def _quoted(text: str) -> str:
    found = re.search(r"Missing mandatory value: ([\w.]+)", text)
    return found[1] if found else "a required key"


def _flat(tree: dict[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            keys += _flat(value, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys
