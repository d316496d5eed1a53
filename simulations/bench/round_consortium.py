"""A consortium on this machine for measuring: directories as the ceremony makes them, a process for every site.

The passphrase stands in a file beside them, and fingerprints are compared by nobody: nothing in here holds records.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from partsong.client.home.layout import SiteHome
from partsong.client.home.opened import open_identity as open_site_identity
from partsong.client.membership import charter_pins
from partsong.client.membership import onboarding as at_site
from partsong.common.deployment import CoordinatorConfig
from partsong.common.files import write_bytes
from partsong.common.identity import letters
from partsong.common.identity.keys import Signer
from partsong.common.identity.letters import Cosignature, Reply, Request
from partsong.common.private_files import write_private
from partsong.server.membership import charter_desk
from partsong.server.membership import onboarding as at_coordinator
from partsong.server.membership.home import CoordinatorHome
from partsong.server.membership.opened import open_identity

_HOST = "127.0.0.1"
_POLICY = "adapter: {max_bytes_out: 100000000000}\n"
_RECORDS = at_site.Records(kind="text", records=1, units=None, fingerprint="f" * 64)
_SECRET_BYTES = 24
_END_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Consortium:
    """Everyone's directory below one folder."""

    folder: Path
    names: tuple[str, ...]
    """Of the sites."""
    port: int
    """The coordinator's; free when it was chosen."""

    @property
    def home(self) -> CoordinatorHome:
        """The coordinator's directory."""
        return CoordinatorHome(self.folder / "coordinator")

    @property
    def passphrase_file(self) -> Path:
        """Opens every key of the consortium."""
        return self.folder / "passphrase"

    def site(self, name: str) -> SiteHome:
        """A site's directory."""
        return SiteHome(self.folder / name)


def make_consortium(folder: Path, *, sites: int) -> Consortium:
    """Make a consortium whose first charter is in force everywhere.

    Args:
        folder: new or empty.
        sites: how many.
    """
    names = tuple(f"site{number:02}" for number in range(sites))
    made = Consortium(folder=folder, names=names, port=free_port())
    passphrase, now = secrets.token_hex(_SECRET_BYTES).encode(), datetime.now(UTC).replace(microsecond=0)
    write_private(made.passphrase_file, passphrase)
    write_bytes(folder / "records.jsonl", b'{"prompt": "a", "completion": "b"}\n')
    config = CoordinatorConfig(consortium="bench", host=_HOST, port=made.port, names=("localhost", _HOST))
    at_coordinator.init(made.home, config, suite="A", passphrase=passphrase, own_ca=False, now=now)
    signer = open_identity(made.home, passphrase)
    for name in names:
        _join(made, name, signer, passphrase=passphrase, now=now)
    _agree(made, signer, passphrase=passphrase)
    return made


@contextlib.contextmanager
def at_work(made: Consortium) -> Iterator[list[int]]:
    """Run `partsong site up` for every site; gives the numbers of the processes, in order of the sites.

    Raises:
        RuntimeError: a daemon did not come up.
    """
    with contextlib.ExitStack() as stack:
        daemons = [stack.enter_context(_daemon(made, name)) for name in made.names]
        for name, daemon in zip(made.names, daemons, strict=True):
            if daemon.stderr is None or not daemon.stderr.readline().startswith("up: "):
                raise RuntimeError(f"{name}: its daemon did not come up")
        yield [daemon.pid for daemon in daemons]


def free_port() -> int:
    """Give a port of this machine that nothing listens on now."""
    with socket.create_server((_HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def _join(made: Consortium, name: str, signer: Signer, *, passphrase: bytes, now: datetime) -> None:
    """Take a site in, up to its certificate."""
    invitation = made.folder / f"{name}.invitation.json"
    write_bytes(invitation, at_coordinator.invite(made.home, signer, name, now=now))
    settings = (
        f"name: {name}\ncoordinator: {_HOST}:{made.port}\nmodel: {{source: none}}\n"
        f"data: {{path: {made.folder / 'records.jsonl'}}}\n"
    )
    asked = at_site.init(
        made.site(name),
        at_site.read_invitation(invitation, now=now),
        site_yaml=settings,
        policy=_POLICY,
        records=_RECORDS,
        passphrase=passphrase,
    )
    request = letters.parse(Request, asked, place=name)
    reply = at_coordinator.enrol(made.home, signer, request, passphrase=passphrase, now=now)
    at_site.take_reply(made.site(name), letters.parse(Reply, reply, place=name), now=now, place=name)


def _agree(made: Consortium, signer: Signer, *, passphrase: bytes) -> None:
    """Let every site sign the usual floors, and pin the charter."""
    draft = made.folder / "draft.json"
    write_bytes(draft, charter_desk.draft(made.home, signer, wanted=charter_desk.Wanted()))
    for name in made.names:
        home = made.site(name)
        signed = charter_pins.cosign(home, charter_pins.review(home, draft), open_site_identity(home, passphrase))
        charter_desk.collect(made.home, letters.parse(Cosignature, signed, place=name), place=name)
    charter = charter_desk.publish(made.home)
    for name in made.names:
        charter_pins.pin(made.site(name), charter)


@contextlib.contextmanager
def _daemon(made: Consortium, name: str) -> Iterator[subprocess.Popen[str]]:
    where = ("--dir", str(made.site(name).path), "--passphrase-file", str(made.passphrase_file))
    with ended(partsong("site", "up", *where)) as daemon:
        yield daemon


def partsong(*words: str) -> Sequence[str]:
    """Spell a command of this very installation."""
    return [sys.executable, "-P", "-m", "partsong", *words]


@contextlib.contextmanager
def ended(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a command in the background for the time of a block; its errors can be read."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
