"""The failure capsules that a daemon keeps: one file each, the newest hundred."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from partsong.common.capsule import MOST_BYTES, Capsule, decode, encode
from partsong.common.errors import DataError, InputError, WireError
from partsong.common.files import write_bytes

MOST_KEPT = 100
_NAME = re.compile(r"([0-9]{16})-([0-9a-f]{16})\.json")


class CapsuleShelf:
    """A folder of capsules; their names sort by time."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is made with the first capsule."""
        self._folder = folder

    def keep(self, capsule: Capsule) -> None:
        """Put a capsule away, whole or not at all; the oldest beyond `MOST_KEPT` go.

        Raises:
            TryAgain: the disk is full.
        """
        write_bytes(self._folder / f"{capsule.time_ms:016d}-{capsule.id}.json", encode(capsule))
        for old in self._files()[:-MOST_KEPT]:
            with contextlib.suppress(FileNotFoundError):
                old.unlink()

    def ids(self) -> tuple[str, ...]:
        """Give the ids of all capsules, the newest first."""
        return tuple(file.stem.partition("-")[2] for file in reversed(self._files()))

    def read(self, capsule_id: str) -> Capsule:
        """Give one capsule.

        Raises:
            InputError: there is none with this id, or more than one begins like it.
            DataError: its file is damaged.
        """
        found = [file for file in self._files() if capsule_id and file.stem.partition("-")[2].startswith(capsule_id)]
        if len(found) != 1:
            raise InputError("capsule", found=f"{len(found)} that begin so", expected="the id of one")
        return self._read(found[0])

    def of_run(self, run: str) -> tuple[Capsule, ...]:
        """Give the capsules of a run, the oldest first; a damaged file is left out.

        Args:
            run: as it stands in the capsule: `partsong.common.facts.word` of its name.
        """
        capsules = []
        for file in self._files():
            with contextlib.suppress(DataError, FileNotFoundError):
                capsules.append(self._read(file))
        return tuple(capsule for capsule in capsules if capsule.run == run)

    def _files(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(file for file in self._folder.iterdir() if _NAME.fullmatch(file.name))

    @staticmethod
    def _read(file: Path) -> Capsule:
        try:
            with file.open("rb") as source:
                return decode(source.read(MOST_BYTES + 1))
        except WireError as err:
            raise DataError(file.name, found="a damaged file", expected="a failure capsule") from err
