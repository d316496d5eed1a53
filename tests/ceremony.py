"""A consortium made as people make it, but without a command line: keys, enrolment and charter of every party."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from partsong.client.home.layout import SiteHome
from partsong.client.home.opened import open_identity as open_site_identity
from partsong.client.membership import charter_pins
from partsong.client.membership import onboarding as at_site
from partsong.common.deployment import CoordinatorConfig
from partsong.common.identity import letters
from partsong.common.identity.keys import Signer
from partsong.common.identity.letters import Cosignature, Reply, Request
from partsong.server.membership import charter_desk
from partsong.server.membership import onboarding as at_coordinator
from partsong.server.membership.home import CoordinatorHome
from partsong.server.membership.opened import open_identity

NOW = datetime.now(UTC).replace(microsecond=0)
"""The commands look at the real clock."""
PASSPHRASE = b"correct horse battery"
SITES = ("lyon", "porto", "turku")
RECORDS = at_site.Records(kind="text", records=120, units=None, fingerprint="f" * 64)


@dataclass(frozen=True, kw_only=True)
class Ceremony:
    """Everyone's directory, and the keys that a passphrase would open."""

    folder: Path
    signers: dict[str, Signer]
    coordinator: Signer

    @property
    def home(self) -> CoordinatorHome:
        """The coordinator's directory."""
        return CoordinatorHome(self.folder / "coordinator")

    def site(self, name: str) -> SiteHome:
        """A site's directory."""
        return SiteHome(self.folder / name)

    def copy(self, folder: Path) -> Ceremony:
        """The same on other directories."""
        shutil.copytree(self.folder, folder)
        return Ceremony(folder=folder, signers=dict(self.signers), coordinator=self.coordinator)

    def ask(self, name: str, *, now: datetime = NOW) -> Request:
        """Invite a site and let it make its keys; gives its request."""
        file = self.folder / f"{name}.invite.json"
        file.write_bytes(at_coordinator.invite(self.home, self.coordinator, name, now=now))
        text = f"name: {name}\ncoordinator: localhost:7443\nmodel: {{source: /base}}\ndata: {{path: /records.jsonl}}\n"
        data = at_site.init(
            self.site(name),
            at_site.read_invitation(file, now=now),
            site_yaml=text,
            policy="",
            records=RECORDS,
            passphrase=PASSPHRASE,
        )
        self.signers[name] = open_site_identity(self.site(name), PASSPHRASE)
        return letters.parse(Request, data, place="request")

    def enrol(self, request: Request, *, now: datetime = NOW) -> Reply:
        """Issue a certificate; the fingerprint counts as compared."""
        data = at_coordinator.enrol(self.home, self.coordinator, request, passphrase=PASSPHRASE, now=now)
        return letters.parse(Reply, data, place="reply")

    def join(self, name: str, *, now: datetime = NOW) -> None:
        """Take a new site in, up to its certificate."""
        at_site.take_reply(self.site(name), self.enrol(self.ask(name, now=now), now=now), now=now, place="reply")

    def draft(self, **wanted: int | bool) -> Path:
        """Draft the next version; gives the file for the sites."""
        file = self.folder / "draft.json"
        file.write_bytes(charter_desk.draft(self.home, self.coordinator, wanted=charter_desk.Wanted(**wanted)))
        return file

    def sign(self, name: str, draft: Path) -> Cosignature:
        """Look at a draft and sign it."""
        home = self.site(name)
        data = charter_pins.cosign(home, charter_pins.review(home, draft), self.signers[name])
        return letters.parse(Cosignature, data, place="cosignature")

    def agree(self, draft: Path, names: tuple[str, ...]) -> bytes:
        """Let these sites sign, and publish; gives the charter."""
        for name in names:
            charter_desk.collect(self.home, self.sign(name, draft), place=name)
        return charter_desk.publish(self.home)


def found(folder: Path) -> Ceremony:
    """Make a consortium of three sites whose first charter is in force everywhere."""
    home = CoordinatorHome(folder / "coordinator")
    config = CoordinatorConfig(consortium="oncology", names=("localhost", "127.0.0.1"))
    at_coordinator.init(home, config, suite="A", passphrase=PASSPHRASE, own_ca=False, now=NOW)
    made = Ceremony(folder=folder, signers={}, coordinator=open_identity(home, PASSPHRASE))
    for name in SITES:
        made.join(name)
    charter = made.agree(made.draft(), SITES)
    for name in SITES:
        charter_pins.pin(made.site(name), charter)
    return made
