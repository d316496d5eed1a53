"""Where a passphrase comes from: a file, systemd's credentials, or the terminal.

Covers: it never stands in an argument or in an environment variable, which other users and child processes can read;
a file that others may read is refused by name.
Does not cover: a passphrase that can be guessed; only its length is checked, when it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from partsong.common.errors import InputError
from partsong.common.private_files import require_private

FILE_VARIABLE = "PARTSONG_PASSPHRASE_FILE"
CREDENTIAL = "partsong-passphrase"
"""Name that systemd's LoadCredential= gives it."""
SHORTEST_NEW = 12
_LONGEST = 4096

Ask = Callable[[str], str]
"""Shows a prompt and gives what was typed, which is not shown."""


def find_passphrase(*, file: Path | None, environment: Mapping[str, str], ask: Ask | None) -> bytes:
    """Find the passphrase of a key that exists.

    The first of these that is there: `file`, the file named by PARTSONG_PASSPHRASE_FILE, the credential
    `partsong-passphrase` of systemd, `ask`.

    Args:
        file: named on the command line; the line end of its last line does not count.
        environment: of the process, for names of files alone.
        ask: None where there is no terminal.
    Raises:
        InputError: none of them is there, or the file cannot be read, is empty or open to others.
    """
    found = _from_files(file, environment)
    if found is not None:
        return found
    if ask is None:
        raise InputError(
            "passphrase",
            found="no file that holds it and no terminal to ask at",
            expected="one of them",
            remedy=f"name a file with --passphrase-file or {FILE_VARIABLE}",
        )
    return _checked(ask("passphrase: ").encode(), place="passphrase")


def new_passphrase(*, file: Path | None, environment: Mapping[str, str], ask: Ask | None) -> bytes:
    """Find the passphrase of a key that is about to be made; on a terminal it is typed twice.

    Raises:
        InputError: as `find_passphrase`; or it has fewer than 12 bytes, or was not typed the same way twice. No key
            was made.
    """
    found = find_passphrase(file=file, environment=environment, ask=ask)
    if len(found) < SHORTEST_NEW:
        raise InputError("passphrase", found=f"{len(found)} bytes", expected=f"at least {SHORTEST_NEW}")
    if ask is not None and _from_files(file, environment) is None and ask("again: ").encode() != found:
        raise InputError("passphrase", found="two that differ", expected="the same one twice")
    return found


def _from_files(file: Path | None, environment: Mapping[str, str]) -> bytes | None:
    named = file or (Path(environment[FILE_VARIABLE]) if environment.get(FILE_VARIABLE) else None)
    if named is not None:
        return _read(named, private=True)
    folder = environment.get("CREDENTIALS_DIRECTORY")
    credential = Path(folder) / CREDENTIAL if folder else None
    if credential is None or not credential.is_file():
        return None
    # systemd grants its service the file by an access list, which shows as a right of the group.
    return _read(credential, private=False)


def _read(file: Path, *, private: bool) -> bytes:
    try:
        if private:
            require_private(file)
        with file.open("rb") as opened:
            data = opened.read(_LONGEST + 1)
    except OSError as err:
        raise InputError(
            str(file), found=f"no file that can be read ({err.strerror})", expected="the passphrase"
        ) from err
    return _checked(data.removesuffix(b"\n").removesuffix(b"\r"), place=str(file))


def _checked(passphrase: bytes, *, place: str) -> bytes:
    if not 0 < len(passphrase) <= _LONGEST:
        found = "nothing" if not passphrase else f"more than {_LONGEST} bytes"
        raise InputError(place, found=found, expected=f"a passphrase of 1 to {_LONGEST} bytes")
    return passphrase
