"""Requests to the coordinator over HTTPS, as the transport key's holder.

Covers: outbound connections only; mutual TLS 1.3, where the coordinator's certificate must be of the given authority
and name the host; a site's own proxy or the environment's; no redirect is followed, nothing is decompressed and no
more is read than asked for, nor for longer than a request may take: who sends a byte a minute is cut off; each request
carries the site's signature over the time, which is how the coordinator's transport knows which site speaks.
Does not cover: who wrote what is carried (the parcels' own signatures do), and traffic analysis.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import datetime as dt
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from partsong.common.errors import InputError, PartsongError, TryAgain, WireError

_PROTOBUF = "application/protobuf"
_CONNECT_S, _IO_S = 10.0, 60.0
_REQUEST_S = 300.0
"""For a whole request: 8 MiB, the largest part of a message, need 0.3 Mbit/s."""
_PASSING = {408, 425, 429}
"""Client errors that mean: later."""
_LONGEST_PAUSE_S = 30.0
_NOT_ENROLLED = "not_enrolled"
_CODE = re.compile(rb'"code": ?"?([a-z0-9_]{1,32})')
_MOST_OF_AN_ERROR = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientTls:
    """PEM files of a connection. They are read again when a connection is made anew, so renewal needs no restart."""

    certificate: Path
    """The site's, for TLS clients."""
    key: Path
    """Its private key, on NIST P-256."""
    authority: Path
    """Whose certificates the coordinator may show: what enrolment brought, or the site's `ca_bundle`."""


class Unreachable(TryAgain):
    """The coordinator did not answer, or said that it cannot now; the same request may be repeated."""

    def __init__(self, text: str, *, after_s: float = 0.0) -> None:
        super().__init__(text)
        self.after_s = after_s
        """How long to wait at least, as the coordinator has asked for, within bounds."""


class Declined(PartsongError):
    """The coordinator answered and will not do this."""

    def __init__(self, status: int, *, code: str = "") -> None:
        super().__init__(f"coordinator: found HTTP status {status} {code}, expected 200")
        self.status, self.code = status, code

    @property
    def is_stranger(self) -> bool:
        """Whether it does not know this site (any more), so that no message is at fault."""
        return self.status == httpx.codes.UNAUTHORIZED or self.code == _NOT_ENROLLED


class Channel:
    """One thread's connection to the coordinator; made when needed and after each failure made anew."""

    def __init__(
        self,
        *,
        address: str,
        tls: ClientTls,
        proxy: str | None,
        clock: Callable[[], float],
        request_s: float = _REQUEST_S,
    ) -> None:
        """Read key and certificates; nothing is sent yet.

        Args:
            address: host:port.
            tls: of this site.
            proxy: `http://host:port` of a proxy; None: HTTPS_PROXY and NO_PROXY of the environment.
            clock: seconds since 1970.
            request_s: longest that a request may take, from its first byte to the last of its answer, in real time.
        Raises:
            InputError: the files cannot be used.
        """
        self._base, self._tls, self._proxy, self._clock = f"https://{address}", tls, proxy, clock
        self._key = _load_key(tls.key)
        self.public_key = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        try:
            _tls_context(tls)
        except OSError as err:
            raise InputError(
                str(tls.certificate.parent),
                found=f"no usable TLS files ({err})",
                expected="PEM files that fit together",
            ) from err
        self._client: httpx.Client | None = None
        self._request_s = request_s
        self._socket: socket.socket | None = None

    def twin(self) -> Channel:
        """Give another connection of the same site, for another thread."""
        twin = copy.copy(self)
        twin._client, twin._socket = None, None  # noqa: SLF001 - its own class
        return twin

    def post(self, path: str, body: bytes, *, most_bytes: int) -> bytes:
        """Send a request and give the answer's body.

        Args:
            path: such as `/v1/fleet/pull-messages`.
            body: of the request.
            most_bytes: of the answer.
        Raises:
            Unreachable: no answer, or 5xx, 408, 425, 429; it is unknown whether the request arrived.
            Declined: any other status but 200.
            WireError: the answer is longer than `most_bytes`; the rest of it was not read.
        """
        try:
            with (
                self._cut_off_in_time(),
                self._open().stream(
                    "POST",
                    self._base + path,
                    content=body,
                    headers=self._headers(),
                    extensions={"trace": self._traced},
                ) as response,
            ):
                if response.status_code in _PASSING or response.is_server_error:
                    raise Unreachable(
                        f"coordinator: HTTP status {response.status_code}", after_s=_asked_pause_s(response)
                    )
                if response.status_code != httpx.codes.OK:
                    raise Declined(response.status_code, code=_code(response))
                return _body(response, most_bytes=most_bytes)
        except (httpx.TransportError, OSError) as err:
            self.close()
            raise Unreachable(f"coordinator: {type(err).__name__}: {str(err)[:200]}") from err

    def cut(self) -> None:
        """End the connection under the request that another thread makes; that request then fails as unanswered."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection; a later request makes a new one."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _open(self) -> httpx.Client:
        if self._client is None:
            self._client = httpx.Client(
                verify=_tls_context(self._tls),
                proxy=self._proxy,
                trust_env=self._proxy is None,
                timeout=httpx.Timeout(_IO_S, connect=_CONNECT_S),
            )
        return self._client

    @contextlib.contextmanager
    def _cut_off_in_time(self) -> Iterator[None]:
        """End the connection under a request that takes too long: httpx bounds each wait, not their sum."""
        timer = threading.Timer(self._request_s, self.cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _traced(self, event: str, info: Mapping[str, Any]) -> None:
        """Note the socket of a new connection."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")

    def _headers(self) -> dict[str, str]:
        """Sign the time, as Flower's node authentication wants it."""
        now = dt.datetime.fromtimestamp(self._clock(), dt.UTC).isoformat()
        return {
            "content-type": _PROTOBUF,
            "accept": _PROTOBUF,
            "accept-encoding": "identity",
            "flwr-public-key": base64.b64encode(self.public_key).decode(),
            "flwr-timestamp": now,
            "flwr-signature": base64.b64encode(self._key.sign(now.encode(), ec.ECDSA(hashes.SHA256()))).decode(),
        }


def _asked_pause_s(response: httpx.Response) -> float:
    """Read Retry-After, in seconds (RFC 9110 section 10.2.3); a coordinator may not send a site away for long."""
    asked = response.headers.get("retry-after", "")
    return min(float(asked), _LONGEST_PAUSE_S) if asked.isascii() and asked.isdecimal() else 0.0


def _code(response: httpx.Response) -> str:
    """Read the short name of a refusal, if there is one."""
    try:
        found = _CODE.search(_body(response, most_bytes=_MOST_OF_AN_ERROR))
    except WireError:
        return ""
    return found[1].decode() if found else ""


def _body(response: httpx.Response, *, most_bytes: int) -> bytes:
    body = bytearray()
    for piece in response.iter_raw():
        body += piece
        if len(body) > most_bytes:
            raise WireError(
                f"coordinator's answer: longer than {most_bytes} bytes; it was dropped", rule="message.size"
            )
    return bytes(body)


def _tls_context(tls: ClientTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks host names and wants a certificate
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # earlier versions show the site's certificate to the network
    context.load_verify_locations(cafile=tls.authority)
    context.load_cert_chain(tls.certificate, tls.key)
    return context


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as err:
        raise InputError(str(path), found="no private key that opens", expected="a P-256 key as PEM") from err
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InputError(str(path), found="a key of another kind", expected="a P-256 key as PEM")
    return key
