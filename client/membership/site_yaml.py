"""The two files that a new site is given to look at: its settings, and rules that allow nothing yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partsong.client.membership.onboarding import HEAD, Records
from partsong.common.build import build
from partsong.common.deployment import SiteConfig
from partsong.common.errors import ConfigError
from partsong.common.strict_yaml import differences, parse_yaml, to_yaml

LARGEST_DELTA = 1e-5
USUAL_EPSILON = 8.0
_PATHS = (("data", "path"), ("data", "opt_out"), ("data", "chat_template_path"), ("ca_bundle",))


def settings(
    *, name: str, coordinator: str, data: Path, model: str, base_sha256: str, overrides: Sequence[str]
) -> tuple[SiteConfig, str]:
    """Make a site's settings and the text of `site.yaml`, which holds what differs from the defaults.

    Args:
        name: of the site in the invitation.
        coordinator: host:port.
        data: records.
        model: the base, as `ModelConfig.source`.
        base_sha256: its digest, which the settings then insist on.
        overrides: `key=value` with dotted keys, the value as YAML writes it.
    Raises:
        ConfigError: an override is none, names an unknown key or has a value of another type.
    """
    tree: dict[str, Any] = {
        "name": name,
        "coordinator": coordinator,
        "model": {"source": _absolute(model), "sha256": base_sha256},
        "data": {"path": str(data.resolve())},
    }
    for override in overrides:
        _set(tree, override)
    for path in _PATHS:
        _resolve(tree, path)
    config = build(SiteConfig, tree)
    return config, HEAD + to_yaml(differences(config))


def policy_text(config: SiteConfig, records: Records, *, epsilon: float | None, layers: Sequence[str]) -> str:
    """Write rules that allow nothing, with those for training beside them as comments; or those, if asked for.

    Args:
        config: settings; names holding and base.
        records: what was registered.
        epsilon: budget of the records' whole life; None leaves everything closed.
        layers: that may be trained.
    """
    allowed = to_yaml(
        {
            "holdings": {
                config.holding: {
                    "epsilon": USUAL_EPSILON if epsilon is None else epsilon,
                    "delta": safe_delta(records),
                }
            },
            "purposes": {"train": {"approval": "manual"}},
            "adapter": {"bases": [config.model.sha256], "target_modules": list(layers)},
        }
    ).splitlines()
    closed = epsilon is None
    head = [
        "# What this site allows. What is not named here is not allowed; docs/policy.md explains every key.",
        "# `partsong site policy check policy.yaml` says it in words.",
        *(["# To allow training on these records, take the marks away. The budget is for their whole life."] * closed),
        *(f"# {line}" if closed else line for line in allowed),
    ]
    if not config.data.unit_field:
        head += [
            "# The records do not say whose they are, so nobody can count patients.",
            "data: {minimum_patients: null}",
        ]
    return "\n".join(head) + "\n"


def safe_delta(records: Records) -> float:
    """Choose a delta well below 1 / number of units: a power of ten, 1e-5 at most."""
    delta, units = LARGEST_DELTA, records.records if records.units is None else records.units
    while delta * units > 0.1:
        delta /= 10
    return delta


def _set(tree: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    *sections, last = key.split(".")
    if not sign or not last:
        raise ConfigError("override", found=repr(override)[:60], expected="KEY=VALUE")
    value = parse_yaml(_Value, f"value: {text or 'null'}", where=key, what="value").value
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(key, found="a key below a value", expected="a key of the schema")
    tree[last] = value


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Value:
    value: Any


def _resolve(tree: dict[str, Any], path: tuple[str, ...]) -> None:
    """Make a path absolute: the daemon has another working directory."""
    *sections, last = path
    for section in sections:
        tree = tree[section]
    if isinstance(tree.get(last), str):
        tree[last] = str(Path(tree[last]).expanduser().resolve())


def _absolute(source: str) -> str:
    return source if source.startswith("package:") else str(Path(source).expanduser().resolve())
