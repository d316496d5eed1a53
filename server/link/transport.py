"""The coordinator's connection to its sites: what Flower calls a SuperLink, inside the coordinator's process.

One public port, mutual TLS, Flower's Fleet API and nothing else. Flower's own SuperLink is not started: it serves its
control and runtime APIs without authentication, binds a reply to no caller, and hands a message over once, so that a
broken connection loses it. What a site speaks is Flower's protocol nevertheless.

Covers: a site is the transport key that it was enrolled with, from the TLS handshake to the name that the coordinator
sees; see `gate`, `listener`, `postbox` and `fleet` for what each keeps out. Nothing but the public port is opened, and
nothing of Flower that reports home is ever called.
Does not cover: a site's own machine, and the network's availability.

Everything that waits lies in memory. A coordinator that was killed asks again, in a fresh run of Flower; a site's
answers to the old one are refused.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from partsong.common.errors import ConfigError
from partsong.common.identity.envelope import CoordinatorEnvelope
from partsong.common.identity.keys import Signer
from partsong.server.app import GridExchange
from partsong.server.link import fleet
from partsong.server.link.gate import NOT_ENROLLED, Gate, Limits, Refusal
from partsong.server.link.listener import Listener, TlsFiles
from partsong.server.link.postbox import Postbox
from partsong.server.link.room import Room

KEY_BYTES, _KEY_START = 91, bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
"""A transport key: SubjectPublicKeyInfo in DER (RFC 5480) of an uncompressed point of P-256."""
_TOLD_AGAIN_S = 60.0
"""Refusals of one kind of one peer are told once in this time: a peer cannot fill the log with them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listen:
    """Where the public port is, and as whom."""

    host: str
    port: int
    """0: any free one."""
    certificate: Path
    key: Path
    client_authority: Path
    max_message_bytes: int
    """Largest answer of a site."""
    max_waiting_bytes: int
    """Answers of all sites together, while they arrive and until they are read."""
    limits: Limits = field(default_factory=Limits)
    absent_after_s: float = 180.0
    """A site that was not heard of for so long is not waited for."""


@dataclass(slots=True)
class _Desk:
    """What is known of one site."""

    site: str
    node: int
    box: Postbox
    clock: Callable[[], float]
    heard_s: float | None = None
    """When it was last heard of; None: never."""
    patience_s: float = 0.0
    """How long that counts; 0 after a farewell."""
    mail: asyncio.Event = field(default_factory=asyncio.Event)

    def seen(self, *, patience_s: float | None) -> None:
        """Note a sign of life, or a farewell."""
        self.heard_s, self.patience_s = self.clock(), (patience_s or 0.0)

    def silent_for(self, seconds: float) -> bool:
        """Whether the site was not heard of for so long."""
        return self.heard_s is None or self.clock() - self.heard_s >= seconds


class _Bell:
    """Rings when something has arrived, so that nobody has to look for it every few milliseconds."""

    def __init__(self) -> None:
        self._changed, self._rings = threading.Condition(), 0

    def ring(self) -> None:
        """Wake whoever waits."""
        with self._changed:
            self._rings += 1
            self._changed.notify_all()

    def listener(self) -> Callable[[float], object]:
        """Give a wait for the next ring, at most so many seconds; one that rang since the last wait ends it at once."""
        heard = self._rings

        def wait(seconds: float) -> None:
            nonlocal heard
            with self._changed:
                self._changed.wait_for(lambda: self._rings != heard, seconds)
                heard = self._rings

        return wait


class EmbeddedSuperlink:
    """Holds the port open and keeps every site's box."""

    def __init__(
        self,
        listen: Listen,
        sites: Mapping[str, bytes],
        *,
        watch: Callable[[str, str], None] = lambda _site, _code: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            listen: the public port.
            sites: for each enrolled site its transport key, SubjectPublicKeyInfo in DER.
            watch: told the site (empty for a key that is not enrolled) and the short name of a refusal, once a minute
                for each pair of them.
            clock: seconds, never going back.
        """
        self._listen, self._watch, self._clock = listen, watch, clock
        self._gate = Gate(body_bytes=fleet.BODY_BYTES, limits=listen.limits, clock=clock)
        self._listener = Listener(self, limits=listen.limits)
        self._desks: dict[bytes, _Desk] = {}
        self._room = Room(most_bytes=listen.max_waiting_bytes, lease_s=listen.limits.lease_s, clock=clock)
        self._bell = _Bell()
        self._lock = threading.Lock()
        self._told_s: dict[tuple[str, str], float] = {}
        self._since_s = clock()
        self.replace_sites(sites)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        """Stop."""
        self.stop()

    @property
    def port(self) -> int:
        """Number of the open port."""
        return self._listener.port

    def start(self) -> None:
        """Open the port.

        Raises:
            ConfigError: a certificate or key is missing or wrong.
            TryAgain: the port is in use.
        """
        self.reload_certificates()
        self._listener.start(host=self._listen.host, port=self._listen.port)
        self._since_s = self._clock()

    def stop(self) -> None:
        """Close the port and every connection."""
        self._listener.stop()

    def reload_certificates(self) -> None:
        """Read certificate, key and authority again; open connections go on, new ones use them.

        Raises:
            ConfigError: a file is wrong; the old ones stay in use.
        """
        listen = self._listen
        self._listener.use(
            TlsFiles(certificate=listen.certificate, key=listen.key, client_authority=listen.client_authority)
        )

    def replace_sites(self, sites: Mapping[str, bytes]) -> None:
        """Serve these sites from now on and no others. A site that stays keeps its mail.

        Raises:
            ConfigError: a key is not one, or two sites have the same; the sites stay as they were.
        """
        if any(len(key) != KEY_BYTES or not key.startswith(_KEY_START) for key in sites.values()):
            raise ConfigError("transport keys", found="a key of another kind", expected="keys of P-256, as in RFC 5480")
        if len(set(sites.values())) < len(sites):
            raise ConfigError("transport keys", found="one key for two sites", expected="a key for each site")
        with self._lock:
            old = self._desks
            self._desks = {
                key: old[key] if key in old and old[key].site == site else self._desk(site, key)
                for site, key in sites.items()
            }
            for key, desk in old.items():
                if self._desks.get(key) is not desk:
                    desk.box.close()
        self._gate.replace_sites(sites)

    def connected(self) -> tuple[str, ...]:
        """Give the ids of the sites that can be reached now, sorted."""
        return tuple(sorted(d.site for d in self._all() if not d.silent_for(d.patience_s)))

    def exchange(self, *, run: str, signer: Signer, identity_keys: Mapping[str, bytes]) -> GridExchange:
        """Begin a run.

        Args:
            run: its name in the plan.
            signer: the coordinator's identity key of the charter.
            identity_keys: for each site its identity key of the charter.
        """
        grid = fleet.FleetGrid(
            secrets.randbits(62) | 1,
            boxes=lambda: {d.node: d.box for d in self._all()},
            online=lambda: [d.node for d in self._all() if not d.silent_for(d.patience_s)],
            gone=self._is_gone,
            posted=self._posted,
            clock=self._clock,
        )
        envelope = CoordinatorEnvelope(run=run, signer=signer, identity_keys=identity_keys)
        return GridExchange(grid, site_at=self._site_at, envelope=envelope, pause=self._bell.listener())

    def admit(self, key: bytes, *, path: str, content_length: int | None) -> int | Refusal:
        """See `Gate.admit`."""
        found = self._gate.admit(key, path=path, content_length=content_length)
        if isinstance(found, Refusal):
            self._tell(self._gate.site_of(key) or "", found)
        return found

    async def answer(self, key: bytes, *, path: str, body: bytes) -> bytes | Refusal:
        """Answer a request of the site with this transport key; one that asks for mail may wait for it."""
        desk = self._desks.get(key)
        if desk is None:  # taken off the list since it was admitted
            return NOT_ENROLLED
        found = await asyncio.to_thread(fleet.answer, desk, path=path, body=body)
        if path == fleet.PULL and found == fleet.NO_MAIL:
            await self._mail(desk)
            found = await asyncio.to_thread(fleet.answer, desk, path=path, body=body)
        if path in fleet.PUSHES:
            self._bell.ring()
        if isinstance(found, Refusal):
            self._tell(desk.site, found)
        return found

    def _tell(self, site: str, refusal: Refusal) -> None:
        now_s, told = self._clock(), (site, refusal.code)
        with self._lock:
            before_s = self._told_s.get(told)
            if before_s is not None and now_s - before_s < _TOLD_AGAIN_S:
                return
            self._told_s[told] = now_s
        self._watch(site, refusal.code)

    async def _mail(self, desk: _Desk) -> None:
        desk.mail.clear()
        if desk.box.next() is None:
            try:
                async with asyncio.timeout(self._listen.limits.hold_s):
                    await desk.mail.wait()
            except TimeoutError:
                return

    def _desk(self, site: str, key: bytes) -> _Desk:
        box = Postbox(max_message_bytes=self._listen.max_message_bytes, room=self._room, clock=self._clock)
        return _Desk(site=site, node=fleet.node_of(key), box=box, clock=self._clock)

    def _all(self) -> list[_Desk]:
        with self._lock:
            return list(self._desks.values())

    def _site_at(self, node: int) -> str | None:
        return next((d.site for d in self._all() if d.node == node), None)

    def _is_gone(self, node: int) -> bool:
        absent_s = self._listen.absent_after_s
        since_start_s = self._clock() - self._since_s
        return since_start_s > absent_s and any(d.node == node and d.silent_for(absent_s) for d in self._all())

    def _posted(self, node: int) -> None:
        for desk in self._all():
            if desk.node == node:
                self._listener.call(desk.mail.set)
