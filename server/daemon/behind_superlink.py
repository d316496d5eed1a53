"""Carries one job out inside a stock ServerApp, over Flower's own Grid.

Covers: signatures, secure sum, checkpoints and reports are those of the coordinator's own daemon; which node is which
site is configured, and a node that is given another site's name cannot answer in it: its answers are not signed with
that site's key. A run that was broken off is taken up again by the next `flwr run`.
Does not cover: what stock Flower loses; see docs/flower.md.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partsong.common.control.socket_file import claimed
from partsong.common.errors import ConfigError, InputError, PartsongError
from partsong.common.identity.envelope import CoordinatorEnvelope
from partsong.common.identity.keys import Signer
from partsong.server.app import GridExchange
from partsong.server.daemon.carry import Pace
from partsong.server.daemon.daemon import CoordinatorDaemon
from partsong.server.daemon.deployed_run import DeployedRun, all_runs, find_run
from partsong.server.exchange import Exchange
from partsong.server.membership.home import CoordinatorHome
from partsong.server.membership.opened import newest_charter, open_identity

_NODE = re.compile(r"([0-9]{1,20})=(\S+)")


class RunFailed(PartsongError):
    """The run ended without an adapter."""


class GridLink:
    """What carries messages, on a Grid that Flower has given us."""

    def __init__(self, grid: Any, nodes: Mapping[int, str]) -> None:
        """Use a Grid.

        Args:
            grid: `flwr.serverapp.Grid`, which only `partsong.server.app` knows.
            nodes: which site each node is; a node that is not named is sent nothing.
        """
        self._grid, self._nodes = grid, dict(nodes)

    def connected(self) -> tuple[str, ...]:
        """Ids of the sites that can be reached now."""
        there = GridExchange(self._grid).addresses()
        return tuple(sorted({self._nodes[node] for node in there if node in self._nodes}))

    def exchange(self, *, run: str, signer: Signer, identity_keys: Mapping[str, bytes]) -> Exchange:
        """Begin to talk about a run."""
        envelope = CoordinatorEnvelope(run=run, signer=signer, identity_keys=identity_keys)
        return GridExchange(self._grid, site_at=self._nodes.get, envelope=envelope)


def read_nodes(text: str) -> dict[int, str]:
    """Read which node is which site, such as `123=lyon 456=porto`.

    Raises:
        ConfigError: it says something else, or names a node or a site twice.
    """
    pairs = [_NODE.fullmatch(part) for part in text.split()]
    found = {int(pair[1]): pair[2] for pair in pairs if pair is not None}
    if not pairs or len(found) != len(pairs) or len(set(found.values())) != len(pairs):
        raise ConfigError(
            "nodes",
            found="something else",
            expected="each node once, as NODE=SITE with spaces between",
            remedy="`flwr supernode list` shows the nodes",
        )
    return found


def carry_job_out(
    folder: Path, *, passphrase: bytes, job: Path, link: GridLink, pace: Pace | None = None
) -> DeployedRun:
    """Carry a job to its adapter, or the run of the directory that was broken off.

    Args:
        folder: the coordinator's directory; no daemon runs on it.
        passphrase: of its key.
        job: what `partsong coordinator run STUDY --out FOLDER` has written.
        link: to the sites.
        pace: how long to wait for what.
    Raises:
        RunFailed: it ended without an adapter, or stopped.
        InputError: directory, charter or job are not what they should be.
        TryAgain: a daemon runs on this directory.
    """
    home = CoordinatorHome(folder)
    signer, charter = open_identity(home, passphrase), newest_charter(home)
    with claimed(home.socket), contextlib.ExitStack() as stack:
        daemon = CoordinatorDaemon(home, link, signer=signer, charter=lambda: charter, pace=pace)
        stack.callback(daemon.close)
        daemon.take_up()
        waiting = next((run for run in all_runs(home.runs) if run.told().state == "waiting"), None)
        run = waiting or daemon.submit(job)
        daemon.step("canaries" if run.is_canary else "runs")
    told = find_run(home.runs, run.name).told()
    if told.state != "finished":
        raise RunFailed(f"run {run.name}: {told.state}, {told.reason}")
    return run


def require_absolute(text: object, *, key: str) -> Path:
    """Read a path of Flower's run configuration.

    Raises:
        InputError: it is none, or depends on where Flower starts the process.
    """
    path = Path(text) if isinstance(text, str) else Path()
    if not path.is_absolute():
        raise InputError(key, found="no absolute path", expected="one")
    return path
