"""Identity and charter: the key opens, and everybody signed a list that it stands on."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

from partsong.common.doctor.finding import Seen, fail, ok, skipped, warn
from partsong.common.identity import charter as charters
from partsong.common.identity.charter import Charter
from partsong.common.identity.keys import fingerprint, public_key_of_file, unlock


def check_identity(file: Path, *, passphrase: Callable[[], bytes] | None) -> Seen:
    """Open the identity key.

    Args:
        file: as `keys.lock` writes it.
        passphrase: gives it; None: nobody is there to ask, and the file is looked at without opening it.
    """
    if not file.is_file():
        return fail(
            f"no {file.name}",
            cause="without its identity key this directory can sign nothing",
            remedy="put it back from the backup, or make a new one with `init` and a new charter version",
        )
    public = public_key_of_file(file.read_bytes())
    if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return fail(
            f"{file.name} can be read by others (mode {stat.S_IMODE(file.stat().st_mode):o})",
            cause="guessing the passphrase needs nothing but a copy",
            remedy=f"chmod 600 {file.name}; if others had access, replace the key in a new charter version",
        )
    if passphrase is None:
        return skipped(f"no passphrase given; the file is that of {fingerprint(public)}")
    unlock(file.read_bytes(), passphrase=passphrase())
    return ok(f"opens; fingerprint {fingerprint(public)}")


def check_charter(folder: Path, *, member: str | None, identity: Path) -> Seen:
    """Read every charter that was pinned: signed by all, each after the one before, this identity in the newest.

    Args:
        folder: of `VERSION.json`.
        member: id of the site; None: the identity is the coordinator's.
        identity: the key file.
    """
    files = sorted(folder.glob("*.json"), key=lambda file: int(file.stem) if file.stem.isdigit() else 0)
    if not files:
        return fail(
            "no charter",
            cause="nobody has agreed yet who belongs to the consortium",
            remedy="`partsong coordinator charter draft`, all signatures, `collect`, then `partsong site join` at each",
        )
    newest = _chain(files)
    key = public_key_of_file(identity.read_bytes())
    listed = newest.coordinator_key if member is None else newest.site_key(newest.number_of(member))
    if key != listed:
        return fail(
            f"version {newest.version} lists another key for {member or 'the coordinator'}",
            cause=f"the key here has the fingerprint {fingerprint(key)}, the listed one {fingerprint(listed)}",
            remedy="put the listed key back from the backup, or agree on a new version with this one",
        )
    found = f"version {newest.version} of {newest.consortium}, {len(newest.sites)} sites, hash {newest.hash.hex()}"
    if not files[-1].stem.isdigit() or int(files[-1].stem) != newest.version:
        return warn(found, cause=f"the file is called {files[-1].name}", remedy="name it after its version")
    return ok(found)


def _chain(files: list[Path]) -> Charter:
    newest = charters.read(files[0].read_bytes()).charter
    for file in files[1:]:
        newest = charters.read_successor(file.read_bytes(), pinned=newest).charter
    return newest
