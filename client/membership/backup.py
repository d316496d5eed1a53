"""What of a site's directory may be copied, in one file.

Covers: vault, its key, ledger, its head, inbox, outbox, plans and unfinished work are in no backup and are taken from
none. They remember: an old vault would mask twice under the same keys, an old ledger would spend the same budget twice.
What the ledger had spent by then goes along as `spent.json`, and the new ledger begins with it.
Does not cover: what was spent since. A newer export takes that in; without one, the operator has to lower the policy's
budgets.
"""

from __future__ import annotations

from pathlib import Path

from partsong.client.home.layout import SiteHome
from partsong.client.home.ledger import write_spent
from partsong.client.home.lock import held
from partsong.client.home.opened import read_config
from partsong.common import backup
from partsong.common.backup import Contents

NAMES = (
    "site.yaml",
    "spent.json",
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
        Refused: the ledger does not add up; nothing was written.
    """
    name = read_config(home).name
    with held(home.lock):
        write_spent(home)
        return backup.back_up(home.path, out, names=NAMES, side="site", name=name, now_ms=now_ms)


def restore(archive: Path, home: SiteHome) -> Contents:
    """Make a site's directory; see `partsong.common.backup.restore`."""
    return backup.restore(archive, home.path, side="site", allows=lambda path: path.split("/")[0] in NAMES)
