"""What is left of a failure when everything about the records was taken out.

Covers: a capsule holds the types of the exceptions and the rule that refused, where in this package they passed, which
    versions ran on what kind of machine, and a remedy of a closed list. No message of an exception, path, host name or
    user name; memory and disk are rounded down to powers of two. A site keeps every capsule; one leaves it only where
    `SiteConfig.release_capsules` says so.
Does not cover: that something failed here, at this line and time. If failing depends on a record, that is a fact about
    it which no differential privacy hides; so the release is the site's choice, and off by default.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from partsong.common.blame import MOST_ERRORS, MOST_PLACES, blame
from partsong.common.build import build, canonical_json
from partsong.common.deployment import SiteConfig
from partsong.common.errors import ConfigError, InputError, ModelError, Refused, TryAgain, WireError
from partsong.common.facts import checked, word

MOST_BYTES = 8 * 1024
_ID = re.compile(r"[0-9a-f]{16}")
_LIBRARIES = ("partsong", "flwr", "torch", "transformers", "peft", "opacus", "numpy", "cryptography")

Advice = Literal["refusal", "settings", "data", "model", "message", "later", "memory", "disk", "network", "unknown"]
REMEDIES: dict[Advice, str] = {
    "refusal": "a rule of the site refused: read the rule in docs/policy.md; change the job or ask the site",
    "settings": "a setting of the site is wrong: `partsong doctor` at the site names it",
    "data": "the site's data cannot be used: run `partsong doctor` there, which checks it against its schema",
    "model": "the base model cannot be loaded or is another one: compare its digest with the plan's",
    "message": "a message was not what the protocol says: compare the versions at both ends",
    "later": "a passing shortage: the same command may work later",
    "memory": "memory ran out: lower training.per_device_train_batch_size or max_length",
    "disk": "the disk is full or the folder cannot be written: free space, then start the daemon again",
    "network": "the connection failed: `partsong doctor` at the site tries each step of it",
    "unknown": "not a failure this package knows: report it with this capsule",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """What ran on what kind of machine."""

    python: str
    system: str
    machine: str
    versions: dict[str, str]
    """Of this package and the libraries that matter to it; one that is not installed is left out."""
    gpu: bool
    memory_gb: int
    """Memory that was free, rounded down to a power of two; 0: less than one, or not known."""
    disk_gb: int
    """Disk that was free, rounded down likewise."""

    def __post_init__(self) -> None:
        _check_words(self.python, self.system, self.machine, *self.versions, *self.versions.values())
        if not self.versions.keys() <= set(_LIBRARIES):
            raise ValueError("versions of known libraries")
        for size in (self.memory_gb, self.disk_gb):
            if size != _floor(size):
                raise ValueError("memory and disk as a power of two below 2**20, or 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Capsule:
    """One failure."""

    id: str
    time_ms: int
    """Since 1970."""
    site: str
    run: str
    """Empty: outside of a run."""
    round: int
    """0: outside of a round."""
    phase: str
    """Empty: outside of a round."""
    errors: tuple[str, ...]
    """Type of the exception, then of those behind it."""
    rule: str
    """That refused; empty where none did."""
    places: tuple[str, ...]
    """`module:line` in this package, the innermost last."""
    environment: Environment
    advice: Advice

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ValueError("an id of 16 hex digits")
        if not 0 <= self.time_ms < 1 << 53 or not 0 <= self.round < 1 << 31:
            raise ValueError("a time and a round that can be")
        if not 1 <= len(self.errors) <= MOST_ERRORS or len(self.places) > MOST_PLACES:
            raise ValueError(f"1 to {MOST_ERRORS} errors and at most {MOST_PLACES} places")
        optional = [text for text in (self.run, self.phase, self.rule) if text]
        _check_words(self.site, *optional, *self.errors, *self.places)

    @property
    def remedy(self) -> str:
        """What to do."""
        return REMEDIES[self.advice]


def make_capsule(
    error: BaseException,
    *,
    site: str,
    run: str = "",
    round_id: int = 0,
    phase: str = "",
    environment: Environment,
    entropy: Callable[[int], bytes] = os.urandom,
    clock: Callable[[], float] = time.time,
) -> Capsule:
    """Take from an exception what may be told.

    Args:
        error: as it was caught; its text is not looked at.
        site: where it happened.
        run: in which; empty: none.
        round_id: in which, from 1; 0: none.
        phase: of the round, or of the daemon's life.
        environment: of `look_around`.
        entropy: for the id.
        clock: seconds since 1970.
    """
    found = blame(error)
    return Capsule(
        id=entropy(8).hex(),
        time_ms=int(clock() * 1000),
        site=word(site),
        run=word(run) if run else "",
        round=round_id,
        phase=word(phase) if phase else "",
        errors=found.errors,
        rule=found.rule,
        places=found.places,
        environment=environment,
        advice=_advice(error, found.errors),
    )


def look_around(folder: Path) -> Environment:
    """Say what runs here.

    Args:
        folder: on the disk that fills.
    """
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = word(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    return Environment(
        python=word(platform.python_version()),
        system=word(platform.system()),
        machine=word(platform.machine()),
        versions=versions,
        gpu=Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists(),
        memory_gb=_floor(_free_memory() >> 30),
        disk_gb=_floor(shutil.disk_usage(folder).free >> 30),
    )


def encode(capsule: Capsule) -> bytes:
    """Give the one form of a capsule: canonical JSON."""
    return canonical_json(capsule)


def decode(data: bytes) -> Capsule:
    """Read a capsule.

    Raises:
        WireError: larger than `MOST_BYTES`, not of the one form, or with anything a capsule does not hold.
    """
    if len(data) > MOST_BYTES:
        raise WireError(f"a capsule of {len(data)} bytes, at most {MOST_BYTES} are read")
    try:
        capsule = build(Capsule, json.loads(data))
    except (ConfigError, InputError, ValueError, RecursionError) as err:
        raise WireError("no capsule: another format, or a value it does not hold") from err
    if encode(capsule) != data:
        raise WireError("a capsule in a form that is not canonical")
    return capsule


def release(capsule: Capsule, *, config: SiteConfig) -> bytes | None:
    """Give what the coordinator may have: the whole capsule where the site's settings say so, else nothing."""
    return encode(capsule) if config.release_capsules else None


def capsule_words(capsule: Capsule) -> str:
    """Say a capsule in lines."""
    around = capsule.environment
    gpu = "a GPU" if around.gpu else "no GPU"
    room = f"at least {around.memory_gb} GB of memory and {around.disk_gb} GB of disk free"
    where = f" in round {capsule.round}" if capsule.round else ""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(around.versions.items()))
    lines = [
        f"{capsule.site}: {' from '.join(capsule.errors)}{where}{f' ({capsule.phase})' if capsule.phase else ''}",
        f"  rule: {capsule.rule}" if capsule.rule else "",
        f"  passed: {' > '.join(capsule.places)}" if capsule.places else "",
        f"  remedy: {capsule.remedy}",
        f"  on: Python {around.python}, {around.system} {around.machine}, {gpu}, {room}; {versions}",
        f"  capsule {capsule.id}",
    ]
    return "\n".join(line for line in lines if line)


def _advice(error: BaseException, errors: tuple[str, ...]) -> Advice:
    kinds: tuple[tuple[type[BaseException], Advice], ...] = (
        (Refused, "refusal"),
        (ConfigError, "settings"),
        (ModelError, "model"),
        (InputError, "data"),
        (WireError, "message"),
        (TryAgain, "later"),
        (MemoryError, "memory"),
        (ConnectionError, "network"),
        (TimeoutError, "network"),
        (OSError, "disk"),
    )
    if any(name.rpartition(".")[2] in ("OutOfMemoryError", "MemoryError") for name in errors):
        return "memory"
    return next((advice for kind, advice in kinds if isinstance(error, kind)), "unknown")


def _check_words(*texts: str) -> None:
    for text in texts:
        checked({"state": text})


def _free_memory() -> int:
    """Bytes that programs may still take; 0 where the system does not say.

    Source: proc(5), MemAvailable.
    """
    try:
        found = re.search(r"^MemAvailable: +([0-9]+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def _floor(size_gb: int) -> int:
    """Round down to a power of two below 2**20."""
    return 1 << min(size_gb.bit_length() - 1, 19) if size_gb > 0 else 0
