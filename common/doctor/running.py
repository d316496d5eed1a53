"""What the running daemon says of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from partsong.common.control.client import NoDaemon
from partsong.common.control.surfaces import Check
from partsong.common.doctor.finding import Seen, fail, ok, skipped, warn


class Standing(Protocol):
    """What is looked at of a daemon's status, at either side."""

    @property
    def version(self) -> str:
        """Of the package that it runs."""
        ...

    @property
    def state(self) -> str:
        """Such as `running` or `paused`."""
        ...

    @property
    def checks(self) -> Sequence[Check]:
        """What it has to be, to be ready."""
        ...


def check_daemon(ask: Callable[[], Standing], *, version: str) -> Seen:
    """Ask the daemon over its control socket whether it is ready.

    Args:
        ask: gives its status.
        version: of the package that is installed now.
    Raises:
        PartsongError: it does not answer as it should.
    """
    try:
        status = ask()
    except NoDaemon:
        return skipped("no daemon runs in this directory")
    if wrong := [check for check in status.checks if not check.ok]:
        return fail(
            f"{status.state}, not ready: {', '.join(check.name for check in wrong)}",
            cause="; ".join(f"{check.name}: {check.reason or 'no reason given'}" for check in wrong),
            remedy="see the finding of the same matter here, mend it, and look again: the daemon goes on by itself",
        )
    if status.version != version:
        return warn(
            f"{status.state}, as version {status.version}",
            cause=f"version {version} was installed after it started",
            remedy="restart it when no round is open",
        )
    return ok(f"{status.state}, and ready")
