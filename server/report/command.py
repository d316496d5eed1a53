"""`partsong report`: what it reads, and what it writes where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from partsong.common.errors import ConfigError, DataError
from partsong.common.files import make_folder, write_bytes
from partsong.common.identity.charter import read as read_charter
from partsong.server.report.audit import AuditFacts, read_audit
from partsong.server.report.beside import Beside, read_answer, read_benefit
from partsong.server.report.compose import page_of
from partsong.server.report.drafts import drafts_of
from partsong.server.report.render import to_html, to_json, to_markdown
from partsong.server.report.signed import FACTS, SignedFacts, read_facts

Format = Literal["text", "html", "md", "json"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """Files that are to stand beside a report."""

    audit: Path | None = None
    """That `partsong audit` wrote about the same settings."""
    answers: tuple[Path, ...] = ()
    """Of evaluations of this adapter and of surveys: `answer.json`, or the directory of the run."""
    compared: tuple[str, ...] = ()
    """`SITE=FILE`, what `partsong site compare --json` prints."""


NOTHING = Given()


def report(run: Path, *, form: Format, given: Given = NOTHING) -> str:
    """Write a report of a run.

    Args:
        run: its directory, or a copy of its `facts.json` alone.
        form: how it is written.
        given: what is to stand beside it; not beside text.
    Raises:
        DataError: no finished run, facts that were changed after they were signed, or a given file that is damaged.
        ConfigError: something beside text, or of other settings, another adapter or other sites.
        Refused: the audit is over private records.
    """
    if form == "text":
        if given != NOTHING:
            key = "--audit" if given.audit else "--answer" if given.answers else "--compared"
            raise ConfigError(key, found="beside text", expected="--format html, md or json")
        return _text(run)
    signed = read_run(run)
    beside = _beside(signed, given)
    if form == "json":
        return to_json(signed, beside=beside)
    page = page_of(signed, beside=beside)
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


def _beside(signed: SignedFacts, given: Given) -> Beside:
    benefits = tuple(read_benefit(pair, signed.facts) for pair in given.compared)
    if len({one.site for one in benefits}) != len(benefits):
        raise ConfigError("--compared", found="a site twice", expected="each site once")
    return Beside(
        audit=None if given.audit is None else _audit(signed, given.audit),
        answers=tuple(read_answer(file, signed.facts) for file in given.answers),
        benefits=benefits,
    )


def _audit(signed: SignedFacts, file: Path) -> AuditFacts:
    facts = signed.facts
    return read_audit(file, facts.privacy, steps=facts.planned_steps)


def _text(run: Path) -> str:
    file = run / "report.txt"
    if not file.is_file():
        raise DataError(str(run), found="no report.txt in it", expected="the directory of a finished run")
    return file.read_text("utf-8")
