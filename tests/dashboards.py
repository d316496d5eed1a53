"""Dashboards of real daemons: the coordinator's and a site's, each at a free port of loopback."""

import contextlib
from collections.abc import Iterator
from typing import Any

from partsong.client.daemon.control import DaemonControl, Link
from partsong.client.dashboard import pages as site_pages
from partsong.common.dashboard.keys import Key
from partsong.common.dashboard.serving import serving_dashboard
from partsong.server.daemon.control import CoordinatorControl
from partsong.server.daemon.daemon import CoordinatorDaemon
from partsong.server.dashboard import pages as coordinator_pages
from partsong.server.dashboard.deeds import Office


@contextlib.contextmanager
def coordinator_dashboard(
    office: Any, daemon: CoordinatorDaemon | None = None, *, consortium: str = "trial"
) -> Iterator[Key]:
    """Serve an office's dashboard."""
    control = CoordinatorControl(
        daemon or office.daemon(), office.home, office.hospitals, consortium=consortium, port=lambda: 7443,
        charter=lambda: office.signed,
    )  # fmt: skip
    asked = Office(control=control, runs=office.home.runs, jobs=office.home.jobs, charter=lambda: office.signed)
    board = coordinator_pages.board_of(asked, consortium=consortium)
    office.home.socket.parent.mkdir(parents=True, exist_ok=True)
    with serving_dashboard(board, port=0, socket=office.home.socket) as key:
        assert key is not None
        yield key


def control_of(site: Any) -> tuple[DaemonControl, Link]:
    """Give what speaks for a site of a fleet, and its connection."""
    link = Link(site.feed)
    return DaemonControl(site.daemon, home=site.home, ledger=site.ledger, feed=site.feed, link=link), link


@contextlib.contextmanager
def site_dashboard(site: Any, *, name: str = "") -> Iterator[Key]:
    """Serve the dashboard of a site of a fleet."""
    sources = site_pages.Sources(
        control=control_of(site)[0], approvals=site.daemon.approvals, ledger=site.ledger, home=site.home,
        release_capsules=site.config.release_capsules,
    )  # fmt: skip
    site.home.socket.parent.mkdir(parents=True, exist_ok=True)
    board = site_pages.board_of(sources, site=name or site.name)
    with serving_dashboard(board, port=0, socket=site.home.socket) as key:
        assert key is not None
        yield key
