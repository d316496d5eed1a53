"""What of a site's directory may be copied, in one file.

Covers: vault, its key, ledger, its head, inbox, outbox, plans and unfinished work are in no backup and are taken from
none. They remember: an old vault would mask twice under the same keys, an old ledger would spend the same budget twice.
Does not cover: what was spent since. A site that is restored has an empty ledger, so its policy's budgets have to be
lowered by what was spent before it works again.
"""

from __future__ import annotations

from pathlib import Path

from partsong.client.home.layout import SiteHome
from partsong.client.home.lock import held
from partsong.client.home.opened import read_config
from partsong.common import backup
from partsong.common.backup import Contents

NAMES = (
    "site.yaml",
    "policy.yaml",
    "identity.json",
    "enrolment",
    "tls",
    "charters",
    "seen.json",
    "approvals",
    "adapters",
)


def back_up(home: SiteHome, out: Path, *, now_ms: int) -> Contents:
    """Copy what may be copied; see `partsong.common.backup.back_up`.

    Raises:
        TryAgain: a daemon works on the directory; nothing was written.
    """
    name = read_config(home).name
    with held(home.lock):
        return backup.back_up(home.path, out, names=NAMES, side="site", name=name, now_ms=now_ms)


def restore(archive: Path, home: SiteHome) -> Contents:
    """Make a site's directory; see `partsong.common.backup.restore`."""
    return backup.restore(archive, home.path, side="site", allows=lambda path: path.split("/")[0] in NAMES)
