"""`partsong report`: what it reads, and what it writes where."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from partsong.common.errors import ConfigError, DataError
from partsong.common.files import make_folder, write_bytes
from partsong.common.identity.charter import read as read_charter
from partsong.server.report.audit import AuditFacts, read_audit
from partsong.server.report.compose import page_of
from partsong.server.report.drafts import drafts_of
from partsong.server.report.render import to_html, to_json, to_markdown
from partsong.server.report.signed import FACTS, SignedFacts, read_facts

Format = Literal["text", "html", "md", "json"]


def report(run: Path, *, form: Format, audit: Path | None) -> str:
    """Write a report of a run.

    Args:
        run: its directory, or a copy of its `facts.json` alone.
        form: how it is written.
        audit: file that `partsong audit` wrote about the same settings; not beside text.
    Raises:
        DataError: no finished run, or facts that were changed after they were signed.
        ConfigError: an audit beside text, or of other settings.
        Refused: the audit is over private records.
    """
    if form == "text":
        if audit is not None:
            raise ConfigError("--audit", found="beside text", expected="--format html, md or json")
        return _text(run)
    signed = read_run(run)
    found = None if audit is None else _audit(signed, audit)
    if form == "json":
        return to_json(signed, audit=found)
    page = page_of(signed, audit=found)
    return to_html(page) if form == "html" else to_markdown(page)


def write_drafts(run: Path, folder: Path) -> tuple[Path, ...]:
    """Write drafts of what a hospital has to answer, filled from facts, gaps marked as gaps.

    Returns:
        the files.
    Raises:
        ConfigError: `folder` exists; nothing was written.
        DataError: as `report`.
    """
    found = drafts_of(read_run(run).facts)
    if folder.exists():
        raise ConfigError("--drafts", found=f"{folder}, which exists", expected="a new folder")
    make_folder(folder)
    for name, text in found.items():
        write_bytes(folder / name, text.encode())
    return tuple(folder / name for name in found)


def write_new(file: Path, text: str) -> None:
    """Write a report to a file.

    Raises:
        ConfigError: it exists; nothing was overwritten.
        TryAgain: the disk is full; there is no file.
    """
    if file.exists():
        raise ConfigError("--out", found=f"{file}, which exists", expected="a new file")
    write_bytes(file, text.encode())


def read_run(run: Path) -> SignedFacts:
    """Read the signed facts of a run and, where its charter is there, check that it names who signed.

    Raises:
        DataError: no finished run, or facts that were changed.
    """
    file = run / FACTS if run.is_dir() else run
    if not file.is_file():
        raise DataError(
            str(run),
            found=f"no {FACTS} in it",
            expected="the directory of a finished run",
            remedy="finish it: `partsong simulate --resume RUN`, or `partsong coordinator resume RUN`",
        )
    signed = read_facts(file)
    charter = file.with_name("charter.json")
    if charter.is_file():
        _require_charter(signed, read_charter(charter.read_bytes()).charter.hash.hex())
    return signed


def _require_charter(signed: SignedFacts, sha256: str) -> None:
    named = signed.facts.charter
    if named is None or named.sha256 != sha256:
        raise DataError(FACTS, found="facts under another charter", expected=f"the charter beside it, sha256 {sha256}")


def _audit(signed: SignedFacts, file: Path) -> AuditFacts:
    facts = signed.facts
    return read_audit(file, facts.privacy, steps=facts.planned_steps)


def _text(run: Path) -> str:
    file = run / "report.txt"
    if not file.is_file():
        raise DataError(str(run), found="no report.txt in it", expected="the directory of a finished run")
    return file.read_text("utf-8")
