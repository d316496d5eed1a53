"""A site's directory: where each of its files lies.

site.yaml          what this site is and where its records are
policy.yaml        what it allows
identity.json      its identity key, under a passphrase
vault.key          key of `vault/`, wrapped by the identity's passphrase; never restored from a backup
enrolment/         the invitation, what was asked for, and the charter that was signed last
tls/               key and certificate of the connection, and the authority that the coordinator's must be of
charters/          every charter that was pinned, by version; the newest counts
vault/             what must not be used twice; never restored from a backup
ledger.sqlite      what was spent; never restored from a backup
spent.json         export of the ledger that a backup was made with; a lost ledger's claims are carried over from it
ledger-head.json   the newest commit of the ledger, so that an older one is noticed; never restored from a backup
approvals/         plans that were proposed, and what was decided about them
unfinished/        local rounds that broke off and updates that wait, encrypted; never restored from a backup
inbox/, outbox/    messages that arrived and answers that are on their way
plans/HASH/        journal and adapter copy of each plan
adapters/HASH/     adapters that arrived and were checked, by their plan; `current` points to the one in use
part.json          whether the site takes new work or pauses
seen.json          the newest charter that the daemon has worked under
daemon.lock        held by the running daemon
control/           socket of the daemon, and the key of its dashboard
supernode/         socket for a stock SuperNode's ClientApp, where `up --behind-supernode` runs
log/               JSON lines
capsules/          what is left of failures
node               what the coordinator's transport calls this site
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SiteHome:
    """Paths of a site's directory. Makes none of them."""

    path: Path

    @property
    def config(self) -> Path:
        """`SiteConfig` as YAML."""
        return self.path / "site.yaml"

    @property
    def policy(self) -> Path:
        """The site's rules."""
        return self.path / "policy.yaml"

    @property
    def identity(self) -> Path:
        """Identity key as `partsong.common.identity.keys.lock` writes it."""
        return self.path / "identity.json"

    @property
    def vault_key(self) -> Path:
        """Wrapped key of the vault."""
        return self.path / "vault.key"

    @property
    def enrolment(self) -> Path:
        """Folder of `invitation.json`, `request.json` and `cosigned`."""
        return self.path / "enrolment"

    @property
    def tls(self) -> Path:
        """Folder of `site.key`, `site.crt` and `ca.crt`."""
        return self.path / "tls"

    @property
    def charters(self) -> Path:
        """Folder of `VERSION.json`."""
        return self.path / "charters"

    @property
    def vault(self) -> Path:
        """Folder of the vault."""
        return self.path / "vault"

    @property
    def ledger(self) -> Path:
        """The privacy ledger."""
        return self.path / "ledger.sqlite"

    @property
    def spent(self) -> Path:
        """Export of a ledger: what a new one begins with."""
        return self.path / "spent.json"

    @property
    def ledger_head(self) -> Path:
        """The newest commit of the ledger."""
        return self.path / "ledger-head.json"

    @property
    def approvals(self) -> Path:
        """Folder of what was decided about plans."""
        return self.path / "approvals"

    @property
    def unfinished(self) -> Path:
        """Folder of local work that is not finished."""
        return self.path / "unfinished"

    @property
    def inbox(self) -> Path:
        """Folder of messages that were journaled before they were confirmed."""
        return self.path / "inbox"

    @property
    def outbox(self) -> Path:
        """Folder of answers that were journaled before their first byte was sent."""
        return self.path / "outbox"

    @property
    def plans(self) -> Path:
        """Folder with one folder for each plan, by its hash."""
        return self.path / "plans"

    @property
    def adapters(self) -> Path:
        """Folder with one folder for each plan whose adapter arrived."""
        return self.path / "adapters"

    @property
    def part(self) -> Path:
        """Whether the site takes new work."""
        return self.path / "part.json"

    @property
    def seen(self) -> Path:
        """The newest charter that the daemon has worked under."""
        return self.path / "seen.json"

    @property
    def lock(self) -> Path:
        """Held by the running daemon."""
        return self.path / "daemon.lock"

    @property
    def socket(self) -> Path:
        """Unix socket of the running daemon; its folder is the owner's alone."""
        return self.path / "control" / "daemon.sock"

    @property
    def supernode_socket(self) -> Path:
        """Unix socket that questions come by where a stock SuperNode fetches them."""
        return self.path / "supernode" / "site.sock"

    @property
    def log(self) -> Path:
        """Folder of the daemon's log."""
        return self.path / "log"

    @property
    def capsules(self) -> Path:
        """Folder of failure capsules."""
        return self.path / "capsules"

    @property
    def node(self) -> Path:
        """Written by the connection."""
        return self.path / "node"
