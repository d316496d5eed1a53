"""A site's directory, read: settings, keys, the charter that was pinned, rules, and the connection.

Covers: a charter counts only with all signatures and if it lists this site with this key; of several the newest.
Does not cover: who reads the directory; its files are for their owner alone.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from partsong.client.home.layout import SiteHome
from partsong.client.rules.policy import Policy
from partsong.client.rules.policy_file import read_policy
from partsong.client.secure_sum.file_vault import FileVault
from partsong.common.deployment import SiteConfig
from partsong.common.errors import InputError
from partsong.common.identity import charter as charters
from partsong.common.identity.charter import CharterError, SignedCharter
from partsong.common.identity.keys import KeyFileError, Signer, public_key_of_file, unlock
from partsong.common.identity.wrapped_secret import unwrap
from partsong.common.strict_yaml import read_yaml

_VERSION = re.compile(r"([1-9][0-9]{0,8})\.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteTls:
    """PEM files of the connection."""

    certificate: Path
    key: Path
    authority: Path
    """Whose certificates the coordinator may show: what enrolment brought, or the site's `ca_bundle`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedSite:
    """What the daemon starts with."""

    config: SiteConfig
    signer: Signer
    charter: SignedCharter | None
    """The newest that was pinned; None before the first."""
    policy: Policy
    vault: FileVault
    tls: SiteTls


def open_site(home: SiteHome, passphrase: bytes) -> OpenedSite:
    """Read a whole directory.

    Raises:
        InputError: it is no site's, the site has no certificate yet, a file is missing or damaged, or the passphrase
            does not open its key.
    """
    config = read_config(home)
    signer = open_identity(home, passphrase)
    return OpenedSite(
        config=config,
        signer=signer,
        charter=newest_charter(home),
        policy=read_policy(home.policy),
        vault=open_vault(home, owner=signer.public_key, passphrase=passphrase),
        tls=tls_files(home, config),
    )


def read_config(home: SiteHome) -> SiteConfig:
    """Read `site.yaml`.

    Raises:
        InputError: there is none, or it says what no settings can say.
    """
    if not home.config.is_file():
        raise InputError(
            str(home.path),
            found="no site.yaml in it",
            expected="the directory of a site",
            remedy="name it with --dir, or make it with `partsong site init`",
        )
    return read_yaml(SiteConfig, home.config, what="site's settings")


def open_identity(home: SiteHome, passphrase: bytes) -> Signer:
    """Open the identity key.

    Raises:
        KeyFileError: it is missing or damaged, or the passphrase is another one.
    """
    return unlock(_read(home.identity, what="the identity key"), passphrase=passphrase)


def identity_key(home: SiteHome) -> bytes:
    """Give the public half of the identity key without the passphrase.

    Raises:
        KeyFileError: the file is missing or damaged.
    """
    return public_key_of_file(_read(home.identity, what="the identity key"))


def open_vault(home: SiteHome, *, owner: bytes, passphrase: bytes) -> FileVault:
    """Open the vault.

    Raises:
        KeyFileError: its key is missing or damaged, belongs to another identity, or the passphrase is another one.
    """
    wrapped = _read(home.vault_key, what="the vault's key")
    key = unwrap(wrapped, kind="vault", owner=owner, passphrase=passphrase)
    return FileVault(home.vault, key=key, entropy=os.urandom)


def newest_charter(home: SiteHome) -> SignedCharter | None:
    """Read the newest charter that was pinned; None before the first.

    Raises:
        CharterError: it is damaged, or does not list this site with its key.
    """
    names = [file.name for file in home.charters.iterdir()] if home.charters.is_dir() else []
    versions = [int(found[1]) for found in map(_VERSION.fullmatch, names) if found]
    if not versions:
        return None
    file = home.charters / f"{max(versions)}.json"
    signed = charters.read(file.read_bytes())
    if signed.charter.version != max(versions):
        raise CharterError(str(file), found=f"version {signed.charter.version}", expected=f"version {max(versions)}")
    require_listed(home, signed.charter)
    return signed


def require_listed(home: SiteHome, charter: charters.Charter) -> None:
    """Accept a charter that lists this site with its own key.

    Raises:
        CharterError: it does not.
    """
    number = charter.number_of(read_config(home).name)
    if charter.site_key(number) != identity_key(home):
        raise CharterError("charter", found="another key for this site", expected="the key in identity.json")


def tls_files(home: SiteHome, config: SiteConfig) -> SiteTls:
    """Name the files of the connection.

    Raises:
        InputError: the site has no certificate yet.
    """
    if not (home.tls / "site.crt").is_file():
        raise InputError(
            str(home.tls),
            found="no site.crt in it",
            expected="what the coordinator's reply brings",
            remedy="`partsong site join REPLY`",
        )
    return SiteTls(
        certificate=home.tls / "site.crt",
        key=home.tls / "site.key",
        authority=home.tls / "ca.crt" if config.ca_bundle is None else Path(config.ca_bundle),
    )


def _read(file: Path, *, what: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as err:
        raise KeyFileError(str(file), found="no file that can be read", expected=what) from err
