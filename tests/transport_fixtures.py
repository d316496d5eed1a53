"""A throw-away certificate authority, certificates of it, and a public port on loopback."""

import datetime as dt
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from fleet_site import FleetSite

from partsong.client.app import make_remote_app
from partsong.client.secure_sum.door import Answer
from partsong.common.identity.envelope import SiteEnvelope
from partsong.common.identity.keys import Identity
from partsong.server.link.transport import EmbeddedSuperlink, Listen

DAY = dt.timedelta(days=1)


def transport_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public half as the coordinator lists it."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class Held:
    """A key with its certificate, in files."""

    key: ec.EllipticCurvePrivateKey
    certificate_file: Path
    key_file: Path

    @property
    def public(self) -> bytes:
        return transport_key(self.key)


class Authority:
    """Signs certificates for a day."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder, self.name = folder, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.crt"
        certificate = self._sign(self.name, self.key, x509.BasicConstraints(ca=True, path_length=0), None)
        self.file.write_bytes(certificate.public_bytes(Encoding.PEM))

    def hold(self, name: str, *, server: bool = False, key: ec.EllipticCurvePrivateKey | None = None) -> Held:
        """Make a certificate for localhost, or for a site."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        certificate = self._sign(subject, key, x509.BasicConstraints(ca=False, path_length=None), usage)
        held = Held(key, self.folder / f"{name}.crt", self.folder / f"{name}.key")
        held.certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
        held.key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return held

    def trust(self, held: Held | None) -> ssl.SSLContext:
        """What a site connects with; None: it shows no certificate."""
        context = ssl.create_default_context(cafile=str(self.file))
        if held is not None:
            context.load_cert_chain(held.certificate_file, held.key_file)
        return context

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, basic: x509.BasicConstraints, usage: Any
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder(
                self.name, subject, key.public_key(), x509.random_serial_number(), now - DAY, now + DAY
            )
            .add_extension(basic, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if usage is None:
            signs = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(signs, critical=True)
        else:
            names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, SHA256())


@dataclass(frozen=True)
class Port:
    """An open public port with the sites that it knows."""

    superlink: EmbeddedSuperlink
    authority: Authority
    server: Held
    sites: Mapping[str, Held]
    identities: Mapping[str, Identity]
    coordinator: Identity
    refusals: list[tuple[str, str]]
    errors: list[Exception]
    """What the sites' apps met."""
    stack: ExitStack

    @property
    def address(self) -> str:
        return f"localhost:{self.superlink.port}"

    def exchange(self, run: str = "run-1") -> Any:
        """Begin a run."""
        keys = {site: identity.public_key for site, identity in self.identities.items()}
        return self.superlink.exchange(run=run, signer=self.coordinator, identity_keys=keys)

    def trust(self, site: str) -> ssl.SSLContext:
        """What this site connects with."""
        return self.authority.trust(self.sites[site])

    def connect(self, site: str) -> FleetSite:
        """Connect as this site, with Flower's own client, and say that it is there."""
        return self.stranger(self.trust(site)).activate()

    def stranger(self, trust: ssl.SSLContext) -> FleetSite:
        """Connect with these certificates."""
        return self.stack.enter_context(FleetSite(self.address, trust))

    def nodes(self, exchange: Any) -> dict[str, int]:
        """Address of each site that is there."""
        return {exchange.site_at(node): node for node in exchange.addresses()}

    def app(self, site: str, **changes: Any) -> Any:
        """The app of a site that turns around what it gets and signs as itself."""
        values = {"site": site, "signer": self.identities[site], "coordinator": self.coordinator.public_key}
        return make_remote_app(lambda _: Echo(), on_error=self.errors.append, envelope=SiteEnvelope(**values | changes))


class Echo:
    """Stands where a site stands and turns around what it gets."""

    def handle(self, header: bytes, *, vector: bytes, note: bytes) -> Answer:
        return Answer(header=b"answer to " + header, vector=vector[::-1], note=note)


def make_port(folder: Path, *names: str, clock: Any = None, **changes: Any) -> Port:
    """Prepare a port for these sites; `with port.superlink:` opens it. Settings of `Listen` may be given."""
    authority = Authority(folder)
    server, sites = authority.hold("server", server=True), {name: authority.hold(name) for name in names}
    settings: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 0,
        "certificate": server.certificate_file,
        "key": server.key_file,
        "client_authority": authority.file,
        "max_message_bytes": 32 << 20,
        "max_waiting_bytes": 1 << 30,
    }
    refusals: list[tuple[str, str]] = []
    superlink = EmbeddedSuperlink(
        Listen(**settings | changes),
        {name: held.public for name, held in sites.items()},
        watch=lambda site, code: refusals.append((site, code)),
        **({} if clock is None else {"clock": clock}),
    )
    identities = {name: Identity.generate(os.urandom) for name in names}
    return Port(
        superlink, authority, server, sites, identities, Identity.generate(os.urandom), refusals, [], ExitStack()
    )


@contextmanager
def opened_ports(folder: Path) -> Iterator[Callable[..., Port]]:
    """Give `make_port` for ports that are open; at the end ports and connections are closed."""
    with ExitStack() as stack:

        def make(*names: str, **changes: Any) -> Port:
            (home := folder / f"port-{len(list(folder.iterdir()))}").mkdir()
            port = make_port(home, *names, **changes)
            stack.enter_context(port.superlink)
            stack.enter_context(port.stack)
            return port

        yield make
