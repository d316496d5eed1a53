"""A coordinator's directory, read: settings, keys, the newest charter, and who may connect.

Covers: a charter counts only with all signatures and with this coordinator's key; a site may connect with the one
transport key of its certificate, and only while the newest charter lists the identity that was enrolled with it.
Does not cover: who reads the directory; its files are for their owner alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from partsong.common.build import build
from partsong.common.deployment import CoordinatorConfig
from partsong.common.errors import ConfigError, DataError, InputError
from partsong.common.identity import charter as charters
from partsong.common.identity import letters
from partsong.common.identity.certificates import transport_key_of
from partsong.common.identity.charter import CharterError, SignedCharter
from partsong.common.identity.keys import KeyFileError, Signer, public_key_of_file, unlock
from partsong.common.strict_yaml import read_yaml
from partsong.server.membership.home import CoordinatorHome

_VERSION = re.compile(r"([1-9][0-9]{0,8})\.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class CoordinatorTls:
    """PEM files of the public port."""

    certificate: Path
    key: Path
    client_authority: Path
    """Whose certificates sites may show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Enrolled:
    """What a site asked for and got: `enrolled/SITE.json`."""

    format: Literal["partsong-enrolled"] = "partsong-enrolled"
    version: Literal[1] = 1
    site: str
    key: str
    """Identity key in lower-case hex."""
    request: str
    """Hash of the request that was answered last."""
    certificate: str
    """PEM."""

    def __post_init__(self) -> None:
        letters.check_site_id(self.site)


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedCoordinator:
    """What the daemon starts with."""

    config: CoordinatorConfig
    signer: Signer
    charter: SignedCharter | None
    """The newest; None before the first was published."""
    tls: CoordinatorTls
    sites: Mapping[str, bytes]
    """Public transport key (SubjectPublicKeyInfo, DER) of each site that may connect, by id."""


def open_coordinator(home: CoordinatorHome, passphrase: bytes) -> OpenedCoordinator:
    """Read a whole directory.

    Raises:
        InputError: it is no coordinator's, a file is missing or damaged, or the passphrase does not open its key.
    """
    charter = newest_charter(home)
    return OpenedCoordinator(
        config=read_config(home),
        signer=open_identity(home, passphrase),
        charter=charter,
        tls=tls_files(home),
        sites=allowed_sites(home, charter),
    )


def read_config(home: CoordinatorHome) -> CoordinatorConfig:
    """Read `coordinator.yaml`.

    Raises:
        InputError: there is none, or it says what no settings can say.
    """
    if not home.config.is_file():
        raise InputError(
            str(home.path),
            found="no coordinator.yaml in it",
            expected="the directory of a coordinator",
            remedy="name it with --dir, or make it with `partsong coordinator init`",
        )
    return read_yaml(CoordinatorConfig, home.config, what="coordinator's settings")


def open_identity(home: CoordinatorHome, passphrase: bytes) -> Signer:
    """Open the signing key.

    Raises:
        KeyFileError: it is missing or damaged, or the passphrase is another one.
    """
    return unlock(_identity_file(home), passphrase=passphrase)


def identity_key(home: CoordinatorHome) -> bytes:
    """Give the public half of the signing key without the passphrase.

    Raises:
        KeyFileError: the file is missing or damaged.
    """
    return public_key_of_file(_identity_file(home))


def newest_charter(home: CoordinatorHome) -> SignedCharter | None:
    """Read the newest charter that was published; None before the first.

    Raises:
        CharterError: it is damaged, or of a coordinator with another key than this directory's.
        KeyFileError: this directory's key cannot be read.
    """
    versions = [int(found[1]) for found in map(_VERSION.fullmatch, _names(home.charters)) if found]
    if not versions:
        return None
    newest = home.charters / f"{max(versions)}.json"
    signed = charters.read(newest.read_bytes())
    if signed.charter.coordinator_key != identity_key(home):
        raise CharterError(
            str(newest),
            found="a charter of a coordinator with another key",
            expected="one that this directory's key has signed",
            remedy="put back identity.json and charters/ of one directory; after a new key: "
            "`partsong coordinator charter draft --after FILE`",
        )
    return signed


def enrolled(home: CoordinatorHome, site: str) -> Enrolled | None:
    """Read what a site was enrolled with, or None.

    Raises:
        DataError: the file is damaged or about another site.
    """
    file = home.enrolled / f"{site}.json"
    if not file.exists():
        return None
    try:
        found = build(Enrolled, json.loads(file.read_bytes()), where=file.name)
    except (ValueError, ConfigError) as err:
        raise DataError(str(file), found="another format", expected="what enrolment wrote") from err
    if found.site != site:
        raise DataError(str(file), found="another site", expected=site)
    return found


def all_enrolled(home: CoordinatorHome) -> tuple[Enrolled, ...]:
    """List the sites that are enrolled, by id."""
    names = sorted(name.removesuffix(".json") for name in _names(home.enrolled) if name.endswith(".json"))
    found = (enrolled(home, name) for name in names if not name.startswith("."))
    return tuple(entry for entry in found if entry is not None)


def allowed_sites(home: CoordinatorHome, charter: SignedCharter | None) -> dict[str, bytes]:
    """Give the transport keys that may connect: of sites whose enrolled identity the charter lists."""
    listed = {} if charter is None else {site.id: site.key for site in charter.charter.sites}
    return {
        entry.site: transport_key_of(entry.certificate.encode())
        for entry in all_enrolled(home)
        if listed.get(entry.site) == entry.key
    }


def tls_files(home: CoordinatorHome) -> CoordinatorTls:
    """Name the files of the public port.

    Raises:
        InputError: the server has no certificate yet.
    """
    _require_certificate(home)
    return CoordinatorTls(
        certificate=home.tls / "server.crt", key=home.tls / "server.key", client_authority=home.tls / "ca.crt"
    )


def server_authority(home: CoordinatorHome) -> bytes:
    """Give the PEM of the authorities that vouch for the server.

    Raises:
        InputError: the server has no certificate yet.
    """
    _require_certificate(home)
    return (home.tls / "server-ca.crt").read_bytes()


def address(config: CoordinatorConfig) -> str:
    """Give host:port as sites use it."""
    name = config.names[0]
    return f"[{name}]:{config.port}" if ":" in name else f"{name}:{config.port}"


def _require_certificate(home: CoordinatorHome) -> None:
    if not (home.tls / "server.crt").is_file():
        raise InputError(
            str(home.tls),
            found="no server.crt in it",
            expected="what the organisation's authority issued for server.csr",
            remedy="`partsong coordinator import CERTIFICATE --authority FILE`",
        )


def _identity_file(home: CoordinatorHome) -> bytes:
    try:
        return home.identity.read_bytes()
    except OSError as err:
        raise KeyFileError(str(home.identity), found="no file that can be read", expected="the signing key") from err


def _names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()] if folder.is_dir() else []
