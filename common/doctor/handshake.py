"""One TLS connection to the coordinator, and what could be seen of it: who answered, in which version, at what time.

Covers: where the certificate is not of the pinned authority, a second connection reads it without trusting it;
nothing but the handshake is sent on that one, and no certificate of ours.
Does not cover: whether the key in a certificate belongs to the coordinator. The pinned authority says so.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from cryptography import x509

from partsong.common.doctor.route import TIMEOUT_S, Route, open_socket, read_head


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """What a site shows, and whose certificates it believes."""

    authority: Path
    """PEM file of the authorities that may have signed the coordinator's certificate."""
    certificate: Path | None = None
    """The site's own, in PEM."""
    key: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Handshake:
    """What answered at the coordinator's address."""

    leaf: x509.Certificate
    version: str
    """As OpenSSL names it, such as `TLSv1.3`; empty where the certificate was not trusted."""
    distrust: str | None
    """Why OpenSSL does not trust the certificate; None: it does."""
    answer: str | None
    """First line of the HTTP answer; None: the connection was cut instead, as it is for a certificate of ours that is
    not accepted."""
    their_time: datetime | None
    """Date header of the answer."""
    our_time: datetime
    """This machine's clock when the answer came."""


def meet(
    route: Route,
    ours: Credentials,
    *,
    server_name: str | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    timeout_s: float = TIMEOUT_S,
) -> Handshake:
    """Connect as the site's daemon does, post nothing to `/`, and report what was seen.

    Args:
        route: the way there.
        ours: the pinned authority, and the site's certificate.
        server_name: that the certificate has to be for; None: the route's host.
        now: this machine's clock, in UTC.
        timeout_s: for each of the at most two connections.
    Raises:
        OSError: no TLS with what answers there (`ssl.SSLError` is one).
        ProxyAnswer: the proxy does not pass it on.
    """
    context = ssl.create_default_context(cafile=str(ours.authority))
    if ours.certificate is not None and ours.key is not None:
        context.load_cert_chain(ours.certificate, ours.key)
    try:
        return _trusted(route, context, name=server_name or route.host, now=now, timeout_s=timeout_s)
    except ssl.SSLCertVerificationError as err:
        leaf = _leaf_without_trust(route, timeout_s=timeout_s)
        return Handshake(
            leaf=leaf, version="", distrust=err.verify_message, answer=None, their_time=None, our_time=now()
        )


def _trusted(
    route: Route, context: ssl.SSLContext, *, name: str, now: Callable[[], datetime], timeout_s: float
) -> Handshake:
    with (
        open_socket(route, timeout_s=timeout_s) as raw,
        context.wrap_socket(raw, server_hostname=name) as connection,
    ):
        leaf = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")
        version = connection.version() or ""
        try:
            request = f"POST / HTTP/1.1\r\nHost: {name}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            connection.sendall(request.encode("ascii"))
            head = read_head(connection)
        except (ssl.SSLError, ConnectionError):
            head = b""  # TLS 1.3 tells only now that it does not take our certificate
        lines = head.decode("latin-1").split("\r\n")
        return Handshake(
            leaf=leaf,
            version=version,
            distrust=None,
            answer=lines[0] or None,
            their_time=_date(lines[1:]),
            our_time=now(),
        )


def _leaf_without_trust(route: Route, *, timeout_s: float) -> x509.Certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # to say whose it is; nothing is sent on this connection
    with (
        open_socket(route, timeout_s=timeout_s) as raw,
        context.wrap_socket(raw, server_hostname=route.host) as connection,
    ):
        return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")


def _date(lines: list[str]) -> datetime | None:
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip().lower() == "date":
            try:
                return parsedate_to_datetime(value.strip())
            except ValueError:
                return None
    return None
