"""What the coordinator's daemon answers to commands and dashboards; see `partsong.common.control.surfaces`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import partsong
from partsong.common.control.feed import Feed
from partsong.common.control.surfaces import Charter, Check, CoordinatorStatus, RunStatus
from partsong.common.identity.charter import SignedCharter
from partsong.server.daemon.carry import Link
from partsong.server.daemon.daemon import CoordinatorDaemon
from partsong.server.daemon.deployed_run import all_runs
from partsong.server.daemon.explain import status_of
from partsong.server.membership.home import CoordinatorHome


class CoordinatorControl:
    """Answers from any thread, without waiting for a run."""

    def __init__(
        self,
        daemon: CoordinatorDaemon,
        home: CoordinatorHome,
        link: Link,
        *,
        consortium: str,
        port: Callable[[], int],
        charter: Callable[[], SignedCharter | None],
    ) -> None:
        """Speak for `daemon`.

        Args:
            daemon: that carries runs out.
            home: its directory.
            link: that it talks over.
            consortium: name of the consortium.
            port: gives the public port; 0 while it is not open.
            charter: gives the newest charter; None: none yet.
        """
        self._daemon, self._home, self._link = daemon, home, link
        self._consortium, self._port, self._charter = consortium, port, charter
        self._since_ms = int(time.time() * 1000)

    @property
    def feed(self) -> Feed:
        """Where progress is told."""
        return self._daemon.feed

    def status(self) -> CoordinatorStatus:
        """Say where the daemon stands."""
        signed = self._charter()
        return CoordinatorStatus(
            consortium=self._consortium,
            version=partsong.__version__,
            state="stopping" if self._daemon.ending else "running",
            port=self._port(),
            since_ms=self._since_ms,
            charter=Charter(
                version=0 if signed is None else signed.charter.version,
                sha256="" if signed is None else signed.charter.hash.hex(),
            ),
            checks=self.readiness(),
            connected=tuple(sorted(self._link.connected())),
            members=() if signed is None else tuple(site.id for site in signed.charter.sites),
        )

    def readiness(self) -> tuple[Check, ...]:
        """Say what is missing before a run can begin."""
        listens, signed = self._port() > 0, self._charter() is not None
        return (
            Check(name="port", ok=listens, reason="" if listens else "the public port is not open"),
            Check(name="charter", ok=signed, reason="" if signed else "no charter that all sites have signed"),
        )

    def runs(self) -> tuple[RunStatus, ...]:
        """List every run, the newest last."""
        return tuple(map(status_of, all_runs(self._home.runs)))

    def run(self, job: Path) -> RunStatus:
        """Begin the job in a folder; see `CoordinatorDaemon.submit`."""
        return status_of(self._daemon.submit(job))

    def stop(self, run: str) -> RunStatus:
        """End a run after the round that is under way; see `CoordinatorDaemon.stop`."""
        return status_of(self._daemon.stop(run))

    def resume(self, run: str) -> RunStatus:
        """Go on with a run; see `CoordinatorDaemon.resume`."""
        return status_of(self._daemon.resume(run))
