"""A consortium for a simulated run: everyone's keys, and the charter that all of them signed.

One process plays everybody, so one process holds all keys: nothing is secret from it. Each key lies where its owner's
disk would be, and is read back when a run is resumed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from partsong.client.secure_sum.file_vault import FileVault
from partsong.client.secure_sum.masked_door import Membership
from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError, DataError
from partsong.common.files import make_folder, sync, sync_folder, write_bytes
from partsong.common.identity.charter import (
    Charter,
    Member,
    SignedCharter,
    check_signatures,
    sign_as_coordinator,
    sign_as_site,
)
from partsong.common.identity.keys import Identity, fingerprint
from partsong.common.thresholds import Floors, default_tolerance, smallest_roster, smallest_sum
from partsong.server.secure_sum.masked_sums import Trust
from partsong.simulations.run_dir import RunDir

_SECRET_BYTES = 32


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Consortium:
    """What onboarding leaves everybody with."""

    trust: Trust
    members: dict[str, Membership]

    @property
    def coordinator(self) -> str:
        """Fingerprint of the coordinator's key."""
        return fingerprint(self.trust.charter.coordinator_key)


def floors_of(config: SimulationConfig, *, sites: int) -> Floors:
    """Give the floors of a charter of this many sites, and check that their sums can be opened.

    Raises:
        ConfigError: no sum over these sites keeps them.
    """
    secure = config.secure_sum
    honest, corrupt = secure.minimum_honest, secure.corrupt_tolerance
    floors = Floors(
        minimum_cohort=max(config.cohort.minimum, min(3, sites)),
        minimum_honest=min(3, sites) if honest is None else honest,
        corrupt_tolerance=(default_tolerance(sites) if sites > 2 else 0) if corrupt is None else corrupt,
    )
    if sites < 2 or smallest_sum(roster=sites, floors=floors) > sites:
        raise ConfigError(
            "secure_sum.mode",
            found=f"full with {sites} site{'' if sites == 1 else 's'}, of which {floors.corrupt_tolerance} may be "
            f"corrupt and {floors.minimum_honest} must be honest",
            expected="a sum that hides its summands",
            remedy="take more sites, or ask for secure_sum=off, which every output of the run will say",
        )
    return floors


def sum_floors(config: SimulationConfig, *, sites: int) -> Floors | None:
    """Give the floors of a run's sums; None where the plan's minimum is the only one.

    Raises:
        ConfigError: no sum keeps them, or none over a sample of the sites.
    """
    sample = min(sites, config.cohort.sample or sites)
    if config.secure_sum.mode == "off":
        return None
    if config.secure_sum.mode == "sum-only":
        return floors_of(config, sites=sample)
    floors = floors_of(config, sites=sites)
    if sample < sites and config.privacy.mode == "none":
        raise ConfigError(
            "cohort.sample",
            found=f"{sample} of {sites} sites without privacy",
            expected="privacy=dp: without noise no site seals for a roster that differs by few sites from the last one",
            remedy="ask all sites, or ask for secure_sum=sum-only, which every output of the run will say",
        )
    least = smallest_roster(floors, plan_minimum=config.cohort.minimum, members=sites)
    if sample < least:
        raise ConfigError("cohort.sample", found=str(sample), expected=f"at least {least}, or no sum can be opened")
    return floors


def found(names: tuple[str, ...], config: SimulationConfig, run: RunDir) -> Consortium:
    """Make everyone's keys and the charter, or read them back.

    Raises:
        ConfigError: the floors cannot be kept; nothing was written.
        DataError: the directory holds another charter than its keys give.
    """
    floors = floors_of(config, sites=len(names))
    if (weights := len(config.secure_sum.weights)) not in (0, len(names)):
        raise ConfigError(
            "secure_sum.weights", found=f"{weights} weights", expected=f"one for each of {len(names)} sites"
        )
    ids = sorted(names)
    coordinator = Identity(_secret(run.coordinator / "identity.key"))
    identities = {name: Identity(_secret(run.site_folder(name) / "identity.key")) for name in ids}
    charter = Charter(
        consortium="simulated",
        version=1,
        previous=None,
        suite="A",
        coordinator=coordinator.public_key.hex(),
        sites=tuple(Member(id=name, key=identities[name].public_key.hex()) for name in ids),
        minimum_cohort=floors.minimum_cohort,
        minimum_honest=floors.minimum_honest,
        corrupt_tolerance=floors.corrupt_tolerance,
        two_sites=len(ids) == 2,
        weights=config.secure_sum.weights,
    )
    _publish(charter, coordinator, identities, run.charter)
    members = {
        name: Membership(charter=charter, signer=identities[name], vault=_vault(run, name), floors=floors)
        for name in ids
    }
    return Consortium(trust=Trust(charter=charter, signer=coordinator), members=members)


def _publish(charter: Charter, coordinator: Identity, identities: dict[str, Identity], file: Path) -> None:
    signed = SignedCharter(
        charter=charter,
        coordinator_signature=sign_as_coordinator(charter, coordinator),
        site_signatures={n: sign_as_site(charter, site_id=n, signer=key) for n, key in identities.items()},
    )
    check_signatures(signed)
    if not file.exists():
        write_bytes(file, signed.to_bytes())
    elif file.read_bytes() != signed.to_bytes():
        raise DataError(
            str(file),
            found="another charter than the keys of this run give",
            expected="the one that was signed",
            remedy="restore the run directory, or start a new run",
        )


def _vault(run: RunDir, name: str) -> FileVault:
    folder = run.site_folder(name)
    make_folder(folder / "vault")
    return FileVault(folder / "vault", key=_secret(folder / "vault.key"), entropy=os.urandom)


def _secret(file: Path) -> bytes:
    """Read a key file that only its owner can read, or make one.

    Raises:
        DataError: not 32 bytes.
    """
    if not file.exists():
        make_folder(file.parent)
        half = file.with_suffix(".new")
        with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as new:
            new.write(os.urandom(_SECRET_BYTES))
            new.flush()
            sync(new.fileno())
        half.replace(file)
        sync_folder(file.parent)
    key = file.read_bytes()
    if len(key) != _SECRET_BYTES:
        raise DataError(str(file), found=f"{len(key)} bytes", expected=f"{_SECRET_BYTES}")
    return key
