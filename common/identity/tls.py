"""Keys and certificates of the connection: who may connect at all, before any message is read.

Covers: a small authority of the consortium's own, or a request to the organisation's; certificates that say what they
are for: one server, or one site. What comes back from an authority is checked by `certificates`.
Does not cover: what a message says. Messages are signed by identity keys, which this module does not know: who holds an
authority's key can connect, and can neither speak for a site nor read a sealed update.

A transport key is one NIST P-256 key, PKCS#8 without a passphrase, mode 0600, so that a daemon can start unattended.
The authority's key is not needed by a daemon and is kept under the passphrase, see `wrapped_secret`.

Source: RFC 5280 for certificates and paths, RFC 2986 for requests, RFC 9525 for names of servers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from partsong.common.errors import InputError

AUTHORITY_DAYS, SERVER_DAYS, SITE_DAYS = 3650, 365, 365
"""Ten years; and a year, because renewing takes a person with the passphrase."""
BACKDATED = timedelta(days=1)
"""A site's clock may be behind the authority's by this much."""
SITE_URI = "partsong:site:"

Usage = Literal["server", "site"]
PURPOSES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "site": ExtendedKeyUsageOID.CLIENT_AUTH}


class TlsError(InputError):
    """A key, request or certificate of the connection that is not what it has to be; nothing was replaced."""


def make_transport_key() -> bytes:
    """Make a P-256 key from the operating system's randomness: PKCS#8 in PEM, without a passphrase."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_authority(name: str, *, now: datetime) -> tuple[bytes, bytes]:
    """Make an authority that may issue leaves and no further authority.

    Args:
        name: of the consortium.
        now: with its time zone.
    Returns:
        its P-384 key in DER (PKCS#8), to be wrapped; its certificate in PEM.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    return (
        key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        _authority_certificate(key, name, now=now),
    )


def renew_authority(key_der: bytes, name: str, *, now: datetime) -> bytes:
    """Make a new certificate for an authority that exists; what it issued stays valid under both."""
    return _authority_certificate(_authority_key(key_der), name, now=now)


def issue_server(
    public_key: ec.EllipticCurvePublicKey,
    *,
    names: Sequence[str],
    authority: bytes,
    authority_key: bytes,
    now: datetime,
) -> bytes:
    """Issue the coordinator's certificate for these host names and addresses, for a year. PEM."""
    return _issue(
        public_key,
        subject=names[0],
        names=[server_name(name) for name in names],
        usage="server",
        days=SERVER_DAYS,
        authority=authority,
        authority_key=authority_key,
        now=now,
    )


def issue_site(
    public_key: ec.EllipticCurvePublicKey, *, site: str, authority: bytes, authority_key: bytes, now: datetime
) -> bytes:
    """Issue a site's certificate, for a year. PEM. Its name is the URI `partsong:site:ID`."""
    return _issue(
        public_key,
        subject=site,
        names=[x509.UniformResourceIdentifier(SITE_URI + site)],
        usage="site",
        days=SITE_DAYS,
        authority=authority,
        authority_key=authority_key,
        now=now,
    )


def request_server(key_pem: bytes, *, names: Sequence[str]) -> bytes:
    """Ask the organisation's own authority for a server certificate: a PKCS#10 request in PEM."""
    return _request(key_pem, subject=names[0], names=[server_name(name) for name in names])


def request_site(key_pem: bytes, *, site: str) -> bytes:
    """Ask the consortium's authority for a site's certificate: a PKCS#10 request in PEM."""
    return _request(key_pem, subject=site, names=[x509.UniformResourceIdentifier(SITE_URI + site)])


def read_site_request(pem: bytes, *, site: str) -> ec.EllipticCurvePublicKey:
    """Check a site's request: signed by its own key, P-256, for this site's name and no other.

    Raises:
        TlsError: it is not; nothing was issued.
    """
    expected = f"a request by a P-256 key for {SITE_URI}{site}"
    try:
        request = x509.load_pem_x509_csr(pem)
        key, valid = request.public_key(), request.is_signature_valid
        names = list(request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (ValueError, x509.ExtensionNotFound, InvalidSignature) as err:
        raise TlsError("certificate request", found="another format", expected=expected) from err
    if not valid or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TlsError("certificate request", found="another key or signature", expected=expected)
    if names != [x509.UniformResourceIdentifier(SITE_URI + site)]:
        raise TlsError("certificate request", found="another name", expected=expected)
    return key


def public_key_of(key_pem: bytes, *, place: str = "transport key") -> ec.EllipticCurvePublicKey:
    """Give the public half of a transport key.

    Raises:
        TlsError: the PEM holds no P-256 key without a passphrase.
    """
    return _transport_key(key_pem, place=place).public_key()


def server_name(name: str) -> x509.DNSName | x509.IPAddress:
    """Take a host name or an IP address.

    Raises:
        TlsError: it is neither; wildcards, ports and paths are not names.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not name or len(name) > 253 or not name.isascii() or set(name) & set("*/:@ \t\n"):
        raise TlsError("names", found=repr(name)[:80], expected="host names in ASCII or IP addresses")
    return x509.DNSName(name)


def utc_now() -> datetime:
    """Read the system's clock."""
    return datetime.now(UTC)


def _authority_certificate(key: ec.EllipticCurvePrivateKey, name: str, *, now: datetime) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"partsong {name}"[:64])])
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    built = (
        _dated(key.public_key(), subject=subject, issuer=subject, days=AUTHORITY_DAYS, now=now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(issues=True), critical=True)
        .add_extension(own, critical=False)
        .sign(key, SHA384())
    )
    return built.public_bytes(Encoding.PEM)


def _issue(
    public_key: ec.EllipticCurvePublicKey,
    *,
    subject: str,
    names: Sequence[x509.GeneralName],
    usage: Usage,
    days: int,
    authority: bytes,
    authority_key: bytes,
    now: datetime,
) -> bytes:
    issuer, signer = x509.load_pem_x509_certificate(authority), _authority_key(authority_key)
    if issuer.public_key() != signer.public_key():
        raise TlsError("authority", found="a key that is not of its certificate", expected="a matching pair")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject[:64])])
    authority_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    built = (
        _dated(public_key, subject=name, issuer=issuer.subject, days=days, now=now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(issues=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([PURPOSES[usage]]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id), critical=False)
        .sign(signer, SHA384())
    )
    return built.public_bytes(Encoding.PEM)


def _dated(
    public_key: ec.EllipticCurvePublicKey, *, subject: x509.Name, issuer: x509.Name, days: int, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _key_usage(*, issues: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not issues,
        key_cert_sign=issues,
        crl_sign=issues,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _request(key_pem: bytes, *, subject: str, names: Sequence[x509.GeneralName]) -> bytes:
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject[:64])]))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(_transport_key(key_pem, place="transport key"), SHA256())
        .public_bytes(Encoding.PEM)
    )


def _transport_key(pem: bytes, *, place: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as err:
        raise TlsError(place, found="no private key in PEM", expected="a P-256 key without a passphrase") from err
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TlsError(place, found="a key of another kind", expected="a P-256 key")
    return key


def _authority_key(der: bytes) -> ec.EllipticCurvePrivateKey:
    key = load_der_private_key(der, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TlsError("authority", found="a key of another kind", expected="a P-384 key")
    return key
