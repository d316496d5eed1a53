"""The coordinator in the foreground: `partsong coordinator up`. systemd, a container or a person starts and ends it.

Covers: one daemon for each directory; a charter, enrolment or certificate that changes on the disk is taken up without
a restart; SIGTERM ends it within five seconds, whatever is under way.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from partsong.common.control.hosting import watched_from_outside
from partsong.common.control.server import coordinator_server
from partsong.common.dashboard.serving import serving_dashboard
from partsong.common.errors import PartsongError
from partsong.common.facts import word
from partsong.common.identity.charter import SignedCharter
from partsong.common.logs import EventLog, log_to_folder
from partsong.common.memory import return_freed_memory
from partsong.common.notify import notify, watchdog_interval_s
from partsong.server.daemon.carry import Pace
from partsong.server.daemon.control import CoordinatorControl
from partsong.server.daemon.daemon import CoordinatorDaemon
from partsong.server.dashboard.deeds import Office
from partsong.server.dashboard.pages import board_of
from partsong.server.link.transport import EmbeddedSuperlink, Listen
from partsong.server.membership.home import CoordinatorHome
from partsong.server.membership.opened import OpenedCoordinator, allowed_sites, newest_charter

_LOOK_S = 2.0
"""Between two looks at what may have changed on the disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watching:
    """Who is told, and when it ends."""

    stop: threading.Event
    environment: Mapping[str, str]
    """Of the process; says whether systemd listens."""
    ready: Callable[[int], None] = lambda _port: None
    """Told the public port once everything answers."""
    pace: Pace | None = None


def serve(home: CoordinatorHome, opened: OpenedCoordinator, watching: Watching) -> None:
    """Run the daemon until it is told to stop.

    Args:
        home: the coordinator's directory.
        opened: what it holds.
        watching: who is told, and when it ends.
    Raises:
        TryAgain: another daemon runs on this directory, or a port is in use.
        InputError: a certificate is wrong, a run's files are damaged, or the settings ask for an extra that is not
            installed.
    """
    return_freed_memory()
    log, disk = EventLog(consortium=word(opened.config.consortium)), _Disk(home, opened)
    link = EmbeddedSuperlink(
        listen_as(opened),
        dict(opened.sites),
        watch=lambda site, code: log.warning("refused", code=word(code), **({"site": word(site)} if site else {})),
    )
    daemon = CoordinatorDaemon(
        home, link, signer=opened.signer, charter=lambda: disk.charter, pace=watching.pace or Pace()
    )
    port = 0
    control = CoordinatorControl(
        daemon,
        home,
        link,
        consortium=opened.config.consortium,
        port=lambda: port,
        charter=lambda: disk.charter,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(log_to_folder(home.log))
        stack.enter_context(coordinator_server(home.socket, control))
        stack.enter_context(link)
        port = link.port
        stack.enter_context(
            watched_from_outside(
                control,
                health_port=opened.config.health_port,
                metrics=opened.config.metrics,
                trace_endpoint=opened.config.trace_endpoint,
            )
        )
        office = Office(control=control, runs=home.runs, jobs=home.jobs, charter=lambda: disk.charter)
        board = board_of(office, consortium=opened.config.consortium)
        stack.enter_context(serving_dashboard(board, port=opened.config.dashboard_port, socket=home.socket))
        daemon.start()
        stack.callback(daemon.close)
        log.info("ready", port=port, pid=os.getpid())
        notify("READY=1", environment=watching.environment)
        watching.ready(port)
        _watch(daemon, link, disk, watching, log)
        notify("STOPPING=1", environment=watching.environment)
        log.info("stopping")


class _Disk:
    """What may change on the disk while the daemon runs."""

    def __init__(self, home: CoordinatorHome, opened: OpenedCoordinator) -> None:
        self._home, self._sites = home, dict(opened.sites)
        self._tls = (opened.tls.certificate, opened.tls.key, opened.tls.client_authority)
        self._changed_ns = self._times()
        self.charter: SignedCharter | None = opened.charter

    def look(self, link: EmbeddedSuperlink) -> None:
        """Take up a new charter, newly enrolled sites and renewed certificates.

        Raises:
            PartsongError: what is new is wrong; the old is kept.
        """
        charter = newest_charter(self._home)
        sites = allowed_sites(self._home, charter)
        if sites != self._sites:
            link.replace_sites(sites)
            self._sites = sites
        self.charter = charter
        if (times := self._times()) != self._changed_ns:
            link.reload_certificates()
            self._changed_ns = times

    def _times(self) -> tuple[int, ...]:
        return tuple(_modified_ns(file) for file in self._tls)


def _modified_ns(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


def listen_as(opened: OpenedCoordinator) -> Listen:
    """Describe the public port of a coordinator."""
    return Listen(
        host=opened.config.host,
        port=opened.config.port,
        certificate=opened.tls.certificate,
        key=opened.tls.key,
        client_authority=opened.tls.client_authority,
        max_message_bytes=opened.config.max_message_mb << 20,
        max_waiting_bytes=opened.config.max_waiting_mb << 20,
    )


def _watch(daemon: CoordinatorDaemon, link: EmbeddedSuperlink, disk: _Disk, watching: Watching, log: EventLog) -> None:
    """Look at the disk now and then, and tell systemd that all is well, until the end."""
    interval_s = watchdog_interval_s(watching.environment, pid=os.getpid())
    while not watching.stop.wait(min(_LOOK_S, interval_s or _LOOK_S)):
        try:
            disk.look(link)
        except PartsongError as err:
            log.failure("change_not_taken_up", err)
        if interval_s is not None and daemon.alive:
            notify("WATCHDOG=1", environment=watching.environment)
