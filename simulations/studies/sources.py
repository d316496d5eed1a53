"""The files that a study reads: where they come from, and the only bytes that are accepted.

Covers: a study's table is of the data that it names. A file of other bytes is refused before anything is read from it.
Does not cover: whether the data are what their publishers say.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from partsong.common.errors import DataError
from partsong.common.files import sha256_file


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file of a public dataset."""

    path: str
    """Below the data directory."""
    sha256: str
    origin: str
    """Repository and commit, for people."""
    licence: str


def locate(data_dir: Path, sources: tuple[Source, ...]) -> tuple[Path, ...]:
    """Find a study's files and check every byte of them.

    Args:
        data_dir: folder that the paths are below.
        sources: what the study needs.
    Returns:
        their places, in the same order.
    Raises:
        DataError: a file is absent, or its bytes are others; the text says what is expected where. No record was read.
    """
    return tuple(_checked(data_dir / source.path, source) for source in sources)


def _checked(file: Path, source: Source) -> Path:
    if not file.is_file():
        raise DataError(
            str(file),
            found="nothing",
            expected=f"a file with SHA-256 {source.sha256}, from {source.origin}",
            remedy=f"put it at {source.path} below data_dir",
        )
    if (digest := sha256_file(file)) != source.sha256:
        raise DataError(
            str(file), found=f"SHA-256 {digest}", expected=f"{source.sha256}, from {source.origin}; no record was read"
        )
    return file
