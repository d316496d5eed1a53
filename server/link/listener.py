"""The coordinator's one public port: HTTP/1.1 over TLS with a client certificate, on a thread of its own.

Covers: no byte of HTTP is read from a peer without a certificate of the configured authority; every wait has an end;
connections are bounded, in total and for each address until a certificate was shown, for each key from then on; so is
what arrives on all of them; certificates are exchanged while it runs.
Does not cover: which certificates are sites' (`partsong.server.link.gate`).

h11 parses HTTP. A general web server is not used because it hides the certificate from what it serves and lets a peer
take its time over a header.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Protocol

import h11
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from partsong.common.errors import ConfigError, TryAgain
from partsong.server.link.bodies import Bodies, Grow
from partsong.server.link.gate import MALFORMED, TOO_LARGE, Limits, Refusal

_READ_BYTES = 1 << 18
_CIPHERS_OF_TLS_1_2 = "ECDHE+AESGCM:ECDHE+CHACHA20"
_STOP_WAIT_S = 5.0
_LINGER_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class TlsFiles:
    """PEM files of the port."""

    certificate: Path
    """The coordinator's, with what leads to its authority."""
    key: Path
    client_authority: Path
    """Who signs the sites' certificates."""

    def context(self) -> ssl.SSLContext:
        """Read the files.

        Raises:
            ConfigError: a file is missing or is not what it should be; nothing was opened.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS_OF_TLS_1_2)
        context.verify_mode = ssl.CERT_REQUIRED
        # Without tickets every connection shows its certificate anew.
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.num_tickets = 0
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.certificate, self.key)
            context.load_verify_locations(cafile=self.client_authority)
        except OSError as err:
            raise ConfigError(
                "TLS files of the coordinator",
                found="a file that is missing or does not fit the others",
                expected=f"{self.certificate.name}, {self.key.name} and {self.client_authority.name} in PEM",
            ) from err
        return context


class Service(Protocol):
    """What is served."""

    def admit(self, key: bytes, *, path: str, content_length: int | None) -> int | Refusal:
        """See `Gate.admit`."""
        ...

    async def answer(self, key: bytes, *, path: str, body: bytes) -> bytes | Refusal:
        """Answer a request that was admitted."""
        ...


class Listener:
    """Serves one port until it is stopped."""

    def __init__(self, service: Service, *, limits: Limits) -> None:
        """Prepare; nothing is opened yet."""
        self._service, self._limits = service, limits
        self._bodies = Bodies(most_bytes=limits.bodies_bytes)
        self._context: ssl.SSLContext | None = None
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ends = asyncio.Event()
        self._strangers: Counter[str] = Counter()
        """Connections whose peers have shown no certificate yet, by address."""
        self._known: Counter[bytes] = Counter()
        """The others, by key."""

    @property
    def port(self) -> int:
        """Number of the open port."""
        if self._socket is None:
            raise RuntimeError("the port is not open")
        return int(self._socket.getsockname()[1])

    def use(self, files: TlsFiles) -> None:
        """Show and check certificates of these files from the next connection on.

        Raises:
            ConfigError: a file is wrong; the certificates stay as they were.
        """
        self._context = files.context()

    def start(self, *, host: str, port: int) -> None:
        """Open the port.

        Raises:
            TryAgain: the port is in use.
        """
        try:
            self._socket = socket.create_server((host, port), family=_family(host), backlog=128)
        except OSError as err:
            raise TryAgain(f"port {port} of {host} cannot be opened: {err.strerror}") from err
        self._socket.setblocking(False)
        is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(is_up.set,), name="public-port", daemon=True)
        self._thread.start()
        is_up.wait()

    def stop(self) -> None:
        """Close the port and every connection."""
        if self._thread is None or self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._ends.set)
        self._thread.join(_STOP_WAIT_S)
        self._thread = None

    def call(self, act: Callable[[], object]) -> None:
        """Do something soon on the thread of the port; nothing once it is closed."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # closed in between
                self._loop.call_soon_threadsafe(act)

    def _run(self, is_up: Callable[[], object]) -> None:
        asyncio.run(self._main(is_up))

    async def _main(self, is_up: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_told)
        self._ends = asyncio.Event()
        accepting = asyncio.create_task(self._accept())
        is_up()
        await self._ends.wait()
        if self._socket is not None:
            self._socket.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(accepting, *others, return_exceptions=True)

    async def _accept(self) -> None:
        if self._socket is None or self._loop is None:
            raise AssertionError("accepting starts with the port open")
        serving: set[asyncio.Task[None]] = set()
        while True:
            try:
                peer, address = await self._loop.sock_accept(self._socket)
            except OSError:  # out of descriptors, or the peer has gone already
                await asyncio.sleep(0.05)
                continue
            if not self._has_room(address[0]):
                peer.close()
                continue
            self._strangers[address[0]] += 1
            task = asyncio.create_task(self._serve(peer, address[0]))
            serving.add(task)
            task.add_done_callback(serving.discard)

    def _has_room(self, address: str) -> bool:
        limits = self._limits
        total = self._strangers.total()
        return total < limits.connections and self._strangers[address] < limits.connections_of_address

    async def _serve(self, peer: socket.socket, address: str) -> None:
        """Serve one connection to its end, however it ends."""
        transport: asyncio.BaseTransport | None = None
        key: bytes | None = None
        try:
            # asyncio does this for the sockets of its own servers; without it each answer waits 40 ms for an ACK.
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(limit=_READ_BYTES)
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, peer, ssl=self._context, ssl_handshake_timeout=self._limits.handshake_s,
                ssl_shutdown_timeout=1.0,
            )  # fmt: skip
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            key = _peer_key(writer)
            if key is not None and self._met(key, address):
                await Conversation(reader, writer, key, self._service, limits=self._limits, bodies=self._bodies).run()
        except (OSError, asyncio.IncompleteReadError, TimeoutError, h11.RemoteProtocolError, h11.LocalProtocolError):
            pass
        finally:
            if key is None:
                self._strangers[address] -= 1
            else:
                self._known[key] -= 1
            self._strangers, self._known = +self._strangers, +self._known  # without whoever is not connected any more
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()
            else:
                peer.close()

    def _met(self, key: bytes, address: str) -> bool:
        """Count a connection under its key from now on; False: there are too many of that key."""
        self._strangers[address] -= 1
        self._known[key] += 1
        return self._known[key] <= self._limits.connections_of_site


class Conversation:
    """One connection: requests one after the other."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        key: bytes,
        service: Service,
        *,
        limits: Limits,
        bodies: Bodies,
    ) -> None:
        """Take over a connection of the peer that has proven to hold `key`."""
        self._reader, self._writer, self._key, self._service = reader, writer, key, service
        self._limits, self._bodies = limits, bodies
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.header_bytes)

    async def run(self) -> None:
        """Serve until either side closes.

        Raises:
            TimeoutError: the peer was too slow.
            h11.RemoteProtocolError: that is no HTTP/1.1.
        """
        wait_s = self._limits.header_s
        while True:
            async with asyncio.timeout(wait_s):
                await self._first_byte()
            async with asyncio.timeout(self._limits.header_s):
                request = await self._event()
            if not isinstance(request, h11.Request):
                return
            answer = await self._answered(request)
            async with asyncio.timeout(self._limits.body_s):
                await self._send(answer)
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                await self._linger()
                return
            self._http.start_next_cycle()
            wait_s = self._limits.idle_s

    async def _answered(self, request: h11.Request) -> bytes | Refusal:
        path = request.target.decode("ascii", "replace")
        if request.method != b"POST":
            return MALFORMED
        admitted = self._service.admit(self._key, path=path, content_length=_content_length(request))
        if isinstance(admitted, Refusal):
            return admitted
        async with asyncio.timeout(self._limits.body_s) as limit:
            with self._bodies.arriving(limit) as grow:
                body = await self._body(admitted, grow)
        return TOO_LARGE if body is None else await self._service.answer(self._key, path=path, body=body)

    async def _body(self, most: int, grow: Grow) -> bytes | None:
        """Read the body; None as soon as it is larger than `most`."""
        if self._http.they_are_waiting_for_100_continue:
            self._writer.write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        body = bytearray()
        while True:
            event = await self._event()
            if isinstance(event, h11.EndOfMessage):
                return bytes(body)
            if not isinstance(event, h11.Data) or len(body) + len(event.data) > most:
                return None
            body += event.data
            grow(len(event.data))

    async def _send(self, answer: bytes | Refusal) -> None:
        """Send an answer. After a refusal the connection is closed, unread input and all."""
        if isinstance(answer, Refusal):
            status, kind, body = answer.status, b"application/json", b'{"code": "%s"}' % answer.code.encode()
        else:
            status, kind, body = 200, b"application/protobuf", answer
        date = format_datetime(datetime.now(UTC), usegmt=True).encode()  # a site finds out by it that its clock is off
        headers = [(b"date", date), (b"content-type", kind), (b"content-length", b"%d" % len(body))]
        if self._http.their_state is not h11.DONE:
            headers.append((b"connection", b"close"))
        if isinstance(answer, Refusal) and answer.retry_after_s:
            headers.append((b"retry-after", b"%d" % answer.retry_after_s))
        events = (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
        self._writer.write(b"".join(self._http.send(event) or b"" for event in events))
        await self._writer.drain()

    async def _linger(self) -> None:
        """Take in a little of what is still coming: closing at once would reset the connection under our answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.linger_s):
                left = _LINGER_BYTES
                while left > 0 and (data := await self._reader.read(_READ_BYTES)):
                    left -= len(data)

    async def _first_byte(self) -> None:
        if not self._http.trailing_data[0] and (data := await self._reader.read(_READ_BYTES)) is not None:
            self._http.receive_data(data)

    async def _event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(_READ_BYTES))
        return event


def transport_key(certificate: x509.Certificate) -> bytes | None:
    """Give the key of a certificate as SubjectPublicKeyInfo in DER; None for a key that is not of P-256."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        return None
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _peer_key(writer: asyncio.StreamWriter) -> bytes | None:
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return None if der is None else transport_key(x509.load_der_x509_certificate(der))


def _content_length(request: h11.Request) -> int | None:
    found = [value for name, value in request.headers if name == b"content-length"]
    return int(found[0]) if found else None


def _told(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Let asyncio log what is an error of this side. A peer that breaks off is its own business."""
    if not isinstance(context.get("exception"), OSError):
        loop.default_exception_handler(context)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
