"""A site in the foreground: `partsong site up`. systemd, a container or a person starts and ends it.

Covers: nothing is sent before the directory was unlocked and its charter found to hold; a question that was not
    answered when the daemon ended is answered by the next one; what fails is kept in a capsule, which leaves only where
    `release_capsules` says so.
Does not cover: a charter, policy or setting that changes meanwhile: /readyz says that a restart is due.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from partsong.client.budget.ledger import Ledger
from partsong.client.daemon.control import DaemonControl, Link
from partsong.client.daemon.daemon import SiteDaemon, Stopping
from partsong.client.daemon.failure_book import FailureBook
from partsong.client.daemon.releasing import releasing
from partsong.client.daemon.start import at_work
from partsong.client.dashboard.pages import Sources, board_of
from partsong.client.home import site_files
from partsong.client.home.layout import SiteHome
from partsong.client.home.opened import OpenedSite
from partsong.client.link.channel import Unreachable
from partsong.client.link.inbox import Inbox
from partsong.client.link.local_post import LocalPost
from partsong.client.link.outbox import Outbox
from partsong.client.link.questions import Handle, Told, signed
from partsong.client.link.transport import ClientTls, FleetConnection
from partsong.common.control.feed import Feed
from partsong.common.control.hosting import hosted, stopped_by_signals
from partsong.common.control.server import site_server
from partsong.common.dashboard.serving import serving_dashboard
from partsong.common.identity.envelope import SiteEnvelope
from partsong.common.logs import Level
from partsong.common.memory import return_freed_memory


def serve(
    home: SiteHome,
    opened: OpenedSite,
    *,
    environment: Mapping[str, str],
    log_folder: Path | None,
    level: Level = "info",
    ready: Callable[[], None],
    clock: Callable[[], float] = time.time,
    behind_supernode: bool = False,
) -> None:
    """Run the daemon until SIGTERM or SIGINT. Only in the main thread.

    Args:
        home: the site's directory.
        opened: what was unlocked of it.
        environment: of the process; only systemd's variables are looked at.
        log_folder: `home.log`; None: the log goes to stderr.
        level: the lowest that is logged.
        ready: called once the socket answers and signals are heeded.
        clock: seconds since 1970.
        behind_supernode: a stock SuperNode of this machine fetches the questions; nothing is sent from here.
    Raises:
        TryAgain: another daemon runs on this directory, a local port is taken, or the disk is full.
        Refused: `control_folder`, `ledger_missing`, or the charter does not hold.
        InputError: no charter was pinned, or the settings do not fit the directory.
    """
    return_freed_memory()
    config, feed = opened.config, Feed(clock=clock)
    link, failures = Link(feed), FailureBook(home.capsules, site=config.name, feed=feed, clock=clock)
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(at_work(home, opened, feed=feed, clock=clock))
        ledger = stack.enter_context(contextlib.closing(site_files.open_ledger(home.path)))
        control = DaemonControl(daemon, home=home, ledger=ledger, feed=feed, link=link, capsules=failures.newest)
        connection = _carrier(
            home,
            opened,
            listen=lambda told: _heard(told, link, failures),
            clock=clock,
            behind_supernode=behind_supernode,
        )
        envelope = SiteEnvelope(site=config.name, signer=opened.signer, coordinator=daemon.site.charter.coordinator_key)
        around = hosted(
            site_server(home.socket, control),
            control,
            log_folder=log_folder,
            level=level,
            health_port=config.health_port,
            metrics=config.metrics,
            trace_endpoint=config.trace_endpoint,
            environment=environment,
        )
        stack.enter_context(around)
        stack.enter_context(_dashboard(home, opened, control, daemon, ledger))
        stack.enter_context(stopped_by_signals(daemon.stop))
        ready()
        answer = releasing(daemon.answer, config=config, failures=failures, plans=home.plans)
        _work(connection, signed(envelope, answer), daemon.stop, failures)


def _dashboard(
    home: SiteHome, opened: OpenedSite, control: DaemonControl, daemon: SiteDaemon, ledger: Ledger
) -> AbstractContextManager[object]:
    """Serve the operator's dashboard, where the settings name a port."""
    sources = Sources(
        control=control,
        approvals=daemon.approvals,
        ledger=ledger,
        home=home,
        release_capsules=opened.config.release_capsules,
    )
    board = board_of(sources, site=opened.config.name)
    return serving_dashboard(board, port=opened.config.dashboard_port, socket=home.socket)


def _work(
    connection: FleetConnection | LocalPost, handle: Handle, stop: threading.Event, failures: FailureBook
) -> None:
    """Answer questions until the daemon is told to stop."""
    try:
        connection.run(handle, stop=stop)
    except Stopping:  # the question stays in the inbox
        return
    except Exception as err:
        failures.enter(err, phase="connection")
        raise


def _heard(told: Told, link: Link, failures: FailureBook) -> None:
    """Take what the connection tells. It comes from two threads. That nobody answers is no failure of this site."""
    link.heard(told)
    if told.error is not None and not isinstance(told.error, Unreachable):
        failures.enter(told.error, phase="answer" if told.what == "failed" else told.what)


def _carrier(
    home: SiteHome,
    opened: OpenedSite,
    *,
    listen: Callable[[Told], None],
    clock: Callable[[], float],
    behind_supernode: bool,
) -> FleetConnection | LocalPost:
    """Set up what brings questions here."""
    if behind_supernode:
        return LocalPost(home.supernode_socket, listen=listen)
    return FleetConnection(
        address=opened.config.coordinator,
        tls=ClientTls(certificate=opened.tls.certificate, key=opened.tls.key, authority=opened.tls.authority),
        proxy=opened.config.proxy,
        node_file=home.node,
        inbox=Inbox(home.inbox),
        outbox=Outbox(home.outbox, clock=clock),
        listen=listen,
        clock=clock,
    )
