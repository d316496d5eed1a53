"""Real faults on loopback: authorities, TLS servers and proxies that do what hospitals' networks do."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


@dataclass
class Pair:
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path, name: str, *, days: float = 365) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._name = folder, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        basics = x509.BasicConstraints(ca=True, path_length=None)
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        built = _builder(self._name, self._name, self._key.public_key(), NOW - DAY, NOW + days * DAY)
        built = built.add_extension(basics, critical=True).add_extension(usage, critical=True)
        self.file = folder / f"{name}.crt"
        self.file.write_bytes(built.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, start: dt.timedelta = -DAY, end: dt.timedelta = 365 * DAY) -> Pair:
        """Sign a certificate for a name, `localhost` and 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName(
            [x509.DNSName(name), x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        built = _builder(subject, self._name, key.public_key(), NOW + start, NOW + end)
        signed = built.add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        pair.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair


def _builder(subject, issuer, key, start, end) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


@contextmanager
def serving(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """Give the port of a server that handles one connection after the other, until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))

    def loop() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                handle(connection)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


@contextmanager
def coordinator(
    pair: Pair,
    *,
    clients: Path | None = None,
    head: bytes = b"HTTP/1.1 404 Not Found",
    date: dt.datetime | str | None = "now",
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> Iterator[int]:
    """A TLS server; `clients` is the authority that its visitors' certificates must be of."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    context.maximum_version = newest
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED

    def handle(raw: socket.socket) -> None:
        lines = [head, b"content-length: 0"]
        if date is not None:
            told = date if isinstance(date, dt.datetime) else dt.datetime.now(dt.UTC)
            lines.append(f"date: {told:%a, %d %b %Y %H:%M:%S} GMT".encode())
        with context.wrap_socket(raw, server_side=True) as connection:
            if connection.recv(4096):
                connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n")

    with serving(handle) as port:
        yield port


@contextmanager
def proxy(answer: bytes = b"HTTP/1.1 200 OK", *, seen: list[bytes] | None = None) -> Iterator[int]:
    """A proxy that gives this answer to CONNECT, and passes bytes on if it is 200."""

    def handle(inside: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += inside.recv(1)
        if seen is not None:
            seen.append(head)
        inside.sendall(answer + b"\r\n\r\n")
        if b" 200" not in answer:
            return
        host, _, port = head.split()[1].decode().rpartition(":")
        with socket.create_connection((host, int(port)), timeout=5) as outside:
            there = threading.Thread(target=_pass_on, args=(inside, outside))
            there.start()
            _pass_on(outside, inside)
            there.join()

    with serving(handle) as port:
        yield port


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def closed_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
