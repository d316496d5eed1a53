"""A site's ledger, opened; a new one begins with what a lost one had spent, as far as `spent.json` tells.

Covers: a directory that was restored from a backup, and one whose ledger was lost, do not get their budget back; also
where this ends anywhere in between, by `kill -9`.
Does not cover: what was spent after the export was written, see `partsong.client.budget.carried`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from partsong.client.budget.carried import MOST_BYTES, Past, read_export, require_newer
from partsong.client.budget.chain import Head
from partsong.client.budget.ledger import Ledger
from partsong.client.budget.ledger_export import to_json
from partsong.client.budget.remembered import RememberedHead
from partsong.client.home.layout import SiteHome
from partsong.client.home.lock import held
from partsong.common.errors import InputError, Refused
from partsong.common.private_files import write_private


def open_ledger(home: SiteHome, *, clock: Callable[[], float] = time.time) -> Ledger:
    """Open or make the ledger of a site. The caller closes it.

    Raises:
        DataError: `spent.json` is damaged.
        Refused: the ledger does not add up; or `ledger_begun`, see `Ledger.carry`.
    """
    ledger = Ledger(home.ledger, remembered=RememberedHead(home.ledger_head), clock=clock)
    try:
        if home.spent.exists() and not ledger.begun:
            ledger.carry(read_past(home.spent))
    except BaseException:
        ledger.close()
        raise
    return ledger


def read_past(file: Path) -> Past:
    """Read an export from a file.

    Raises:
        InputError: there is none, or it is too long.
        DataError: it is no export, or was changed.
        Refused: `ledger_damaged`.
    """
    try:
        if file.stat().st_size > MOST_BYTES:
            raise InputError(str(file), found="a file of over 256 MB", expected="an export of a ledger")
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(str(file), found="no text that can be read", expected="an export of a ledger") from err
    return read_export(text, place=str(file))


def write_spent(home: SiteHome) -> None:
    """Write `spent.json`, whole or not at all, where there is a ledger; a backup takes it along.

    Raises:
        Refused: the ledger does not add up.
        TryAgain: the disk is full.
    """
    if not home.ledger.exists():
        return
    with contextlib.closing(open_ledger(home)) as ledger:
        write_private(home.spent, to_json(ledger).encode())


def carry(home: SiteHome, export: Path, *, incomplete: bool) -> Past:
    """Begin the ledger of a site whose own is lost with what an export of it tells.

    Args:
        home: the directory, in which nobody works.
        export: as `partsong site ledger export` wrote it.
        incomplete: the operator knows that more was spent since, and has lowered the budgets by it.
    Raises:
        TryAgain: a daemon works on the directory; nothing was changed.
        Refused: `ledger_begun`: there is a ledger that has claims; `older_export`: another export is there and goes
            further; `spent_since`: the site remembers a commit that the export does not hold. Nothing was changed.
        DataError, InputError: the export cannot be used; nothing was changed.
    """
    past = read_past(export)
    with held(home.lock):
        _require_unworked(home)
        if home.spent.exists():
            require_newer(past, read_past(home.spent))
        if not incomplete:
            _require_complete(home, past)
        write_private(home.spent, export.read_bytes())
        home.ledger.unlink(missing_ok=True)
        home.ledger_head.unlink(missing_ok=True)
        open_ledger(home).close()
    return past


def _require_unworked(home: SiteHome) -> None:
    """Refuse to replace a ledger that knows more than what was carried into it."""
    if not home.ledger.exists():
        return
    with contextlib.closing(Ledger(home.ledger)) as ledger:
        if not ledger.begun or ledger.only_inherited:
            return
    raise Refused(
        "ledger_begun",
        reason="there is a ledger, and it has claims of its own",
        remedy="lower each holding's epsilon in policy.yaml by what the other ledger had spent",
    )


def _require_complete(home: SiteHome, past: Past) -> None:
    """Refuse an export that lacks a commit which this site remembers, be it of the lost ledger or of the one here."""
    known = RememberedHead(home.ledger_head).read()
    if known is None or past.holds(known) or (home.ledger.exists() and _holds(home, known)):
        return
    raise Refused(
        "spent_since",
        reason=f"this site remembers entry {known.number} of its ledger, the export ends at {past.head.number}",
        remedy="take a newer export; if there is none, lower each holding's epsilon by what may have been spent since, "
        "and add --incomplete",
    )


def _holds(home: SiteHome, head: Head) -> bool:
    with contextlib.closing(Ledger(home.ledger)) as ledger:
        return ledger.holds(head)
