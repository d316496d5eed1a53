"""A vault on disk: one encrypted file for each record.

Covers: a record is replaced as a whole and is on the medium when `write` returns; a file that was changed, swapped
with another record's or truncated is refused; without the key the files show their number and sizes only; a folder
of another format is refused by name.
Does not cover: an old copy of the whole folder put back in place of the new one. No file can tell that; the ledger's
anchors and the other sites' refusals can, and PROTOCOL.md section 3 says never to restore a vault. Overwritten data
may linger on a medium that moves blocks, such as an SSD; the round's keys in it are under the vault's key.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from partsong.client.home.private_files import write_private
from partsong.common.derive import digest
from partsong.common.errors import InputError, TryAgain
from partsong.common.files import sync, sync_folder
from partsong.common.secure_sum.shamir import Entropy

_NONCE_BYTES = 12
_SUFFIX, _HALF_WRITTEN = ".sealed", ".new"
FORMAT, FORMAT_FILE = b"partsong vault 1\n", ".format"
"""Written into every folder. One that lacks it was made before formats had names, and is of the first."""


class VaultError(InputError):
    """A record of the vault cannot be read; nothing of the protocol goes on."""


class FileVault:
    """Records as files of one folder, which no other process uses."""

    def __init__(self, folder: Path, *, key: bytes, entropy: Entropy) -> None:
        """Use a folder that exists.

        Args:
            folder: readable by the site's user alone.
            key: 32 secret bytes, for this folder only.
            entropy: uniform bytes, in production `os.urandom`.
        Raises:
            VaultError: the folder is of another format; nothing was read or changed.
            TryAgain: the medium is full.
        """
        _require_format(folder)
        self._folder, self._cipher, self._entropy = folder, AESGCM(key), entropy
        for leftover in folder.glob(f"*{_HALF_WRITTEN}"):
            leftover.unlink()

    def read(self, name: str) -> bytes | None:
        """Give the record, or None.

        Raises:
            VaultError: the file was changed, belongs to another record or is under another key.
        """
        path = self._path(name)
        if not path.exists():
            return None
        data = path.read_bytes()
        try:
            return self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _label(name))
        except (InvalidTag, ValueError) as err:
            raise VaultError(
                str(path), found="a record that does not open", expected="one written here under this key"
            ) from err

    def write(self, name: str, data: bytes) -> None:
        """Replace the record; it is durable when this returns.

        Raises:
            TryAgain: the medium is full or fails; there is the old record or, whole, the new one.
        """
        path = self._path(name)
        nonce = self._entropy(_NONCE_BYTES)
        half = path.with_suffix(_HALF_WRITTEN)
        try:
            with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(nonce)
                file.write(self._cipher.encrypt(nonce, data, _label(name)))
                file.flush()
                sync(file.fileno())
            half.replace(path)
            sync_folder(self._folder)
        except OSError as err:
            with contextlib.suppress(OSError):
                half.unlink()
            raise TryAgain(f"{path}: could not be written ({err.strerror}); no record is half there") from err

    def erase(self, name: str) -> None:
        """Remove the record."""
        self._path(name).unlink(missing_ok=True)
        sync_folder(self._folder)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name.replace(' ', '-')}{_SUFFIX}"


def _require_format(folder: Path) -> None:
    file = folder / FORMAT_FILE
    try:
        found = file.read_bytes()
    except FileNotFoundError:
        write_private(file, FORMAT)
        return
    if found != FORMAT:
        raise VaultError(
            str(file),
            found="a vault of another format",
            expected=FORMAT.decode().strip(),
            remedy="use the version of partsong that wrote it; never put an older vault in its place",
        )


def _label(name: str) -> bytes:
    return digest("vault record", name.encode())
