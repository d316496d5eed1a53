"""The coordinator's directory: where each of its files lies.

coordinator.yaml   consortium, names and port
identity.json      its signing key, under a passphrase
tls/               its authority (or a request to the organisation's own), key and certificate
invited/           invitations that were not answered yet
enrolled/          what each site asked for and got: identity key, certificate
charters/          every charter that all of its sites have signed, by version; the newest counts
draft.json         the next version, while signatures are collected
jobs/NAME/         a job that lies ready to be begun from the dashboard
runs/NAME/         a run: plan, checkpoints, sums, and in the end the adapter
control/           socket of the daemon, and the key of its dashboard
log/               JSON lines
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CoordinatorHome:
    """Paths of a coordinator's directory. Makes none of them."""

    path: Path

    @property
    def config(self) -> Path:
        """`CoordinatorConfig` as YAML."""
        return self.path / "coordinator.yaml"

    @property
    def identity(self) -> Path:
        """Signing key as `partsong.common.identity.keys.lock` writes it."""
        return self.path / "identity.json"

    @property
    def tls(self) -> Path:
        """Folder of `ca.key` (under the passphrase), `ca.crt`, `server.key`, `server.crt` and `server-ca.crt`."""
        return self.path / "tls"

    @property
    def invited(self) -> Path:
        """Folder of `SITE.json`."""
        return self.path / "invited"

    @property
    def enrolled(self) -> Path:
        """Folder of `SITE.json`."""
        return self.path / "enrolled"

    @property
    def charters(self) -> Path:
        """Folder of `VERSION.json`."""
        return self.path / "charters"

    @property
    def draft(self) -> Path:
        """The next charter, while signatures are collected."""
        return self.path / "draft.json"

    @property
    def jobs(self) -> Path:
        """Folder with one folder for each job that lies ready."""
        return self.path / "jobs"

    @property
    def runs(self) -> Path:
        """Folder with one folder for each run."""
        return self.path / "runs"

    @property
    def socket(self) -> Path:
        """Unix socket of the running daemon; its folder is the owner's alone."""
        return self.path / "control" / "daemon.sock"

    @property
    def log(self) -> Path:
        """Folder of the daemon's log."""
        return self.path / "log"
