"""What a certificate says, and whether it fits: read by `doctor`, and before one is put in place.

Covers: a certificate that came from an authority, whosever it is, is checked against the key, every name, the chain,
the time and the purpose.
Does not cover: certificates that were taken back. Who may connect is a list of keys, see the charter.

Source: RFC 5280 section 6 through `cryptography.x509.verification`; RFC 9525 for names of servers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import verification

from partsong.common.identity.tls import PURPOSES, SITE_URI, TlsError, Usage, public_key_of, server_name

LARGEST_PEM_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificateFacts:
    """What `doctor` and people want to know of a certificate."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    days_left: int
    """Whole days until it ends; negative once it has."""
    sha256: str
    """Of the DER form, in hex."""


def check_issued(
    certificate: bytes,
    *,
    key_pem: bytes,
    authority: bytes,
    usage: Usage,
    names: Sequence[str],
    now: datetime,
    place: str = "certificate",
) -> None:
    """Accept a certificate that fits: to the key, to every name, to the authority, to the time and to the purpose.

    Args:
        certificate: PEM; the leaf first, then intermediates.
        key_pem: the private key it is for.
        authority: PEM of the roots to trust.
        usage: what it is for.
        names: host names and addresses of a server, or the one id of a site.
        now: with its time zone.
        place: file or field, for the error text.
    Raises:
        TlsError: says which of them it is; nothing was put in place.
    """
    leaf, rest = _chain(certificate, place=place)
    if leaf.public_key() != public_key_of(key_pem, place=place):
        raise TlsError(place, found="a certificate of another key", expected="one of the key in this directory")
    check_chain(leaf, rest, authority=authority, usage=usage, now=now, names=names, place=place)


def check_chain(
    leaf: x509.Certificate,
    rest: Sequence[x509.Certificate],
    *,
    authority: bytes,
    usage: Usage,
    names: Sequence[str],
    now: datetime,
    place: str,
) -> None:
    """Check what `check_issued` checks, but for the key.

    Raises:
        TlsError: as `check_issued`.
    """
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        raise TlsError(
            place,
            found=f"a certificate for {leaf.not_valid_before_utc:%Y-%m-%d} to {leaf.not_valid_after_utc:%Y-%m-%d}",
            expected=f"one that is valid at {now:%Y-%m-%d %H:%M} UTC",
            remedy="renew it, or set the clock",
        )
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value if _has_purpose(leaf) else ()
    if PURPOSES[usage] not in purposes:
        raise TlsError(place, found="a certificate for another purpose", expected=f"one for a {usage}")
    present, wanted = set(subject_names(leaf)), {SITE_URI + name if usage == "site" else name for name in names}
    if not wanted <= present or (usage == "site" and wanted != present):
        raise TlsError(
            place, found=f"the names {', '.join(sorted(present)) or 'none'}", expected=", ".join(sorted(wanted))
        )
    store = verification.Store(x509.load_pem_x509_certificates(authority))
    policy = verification.PolicyBuilder().store(store).time(now)
    try:
        if usage == "site":
            policy.build_client_verifier().verify(leaf, list(rest))
        else:
            policy.build_server_verifier(server_name(names[0])).verify(leaf, list(rest))
    except verification.VerificationError as err:
        raise TlsError(
            place, found="a chain that does not lead to the authority", expected="one that does", remedy=str(err)[:200]
        ) from err


def check_authority(pem: bytes, *, now: datetime, place: str) -> None:
    """Accept certificates of authorities: at least one, each allowed to issue and valid now.

    Raises:
        TlsError: it is not; nothing was put in place.
    """
    first, rest = _chain(pem, place=place)
    for certificate in (first, *rest):
        try:
            is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            is_authority = False
        if not is_authority or not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise TlsError(place, found="a certificate that cannot issue now", expected="authorities that are valid")


def transport_key_of(certificate: bytes) -> bytes:
    """Give the public key of a certificate, SubjectPublicKeyInfo in DER.

    Raises:
        TlsError: the PEM holds no certificate.
    """
    leaf, _ = _chain(certificate, place="certificate")
    return spki(leaf.public_key())


def spki(key: CertificatePublicKeyTypes) -> bytes:
    """Encode a public key as SubjectPublicKeyInfo in DER."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def facts(certificate: bytes, *, now: datetime, place: str = "certificate") -> CertificateFacts:
    """Say whose a certificate is, who issued it and until when it holds.

    Raises:
        TlsError: the PEM holds no certificate.
    """
    leaf, _ = _chain(certificate, place=place)
    return CertificateFacts(
        subject=leaf.subject.rfc4514_string(),
        issuer=leaf.issuer.rfc4514_string(),
        names=subject_names(leaf),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        days_left=(leaf.not_valid_after_utc - now) // timedelta(days=1),
        sha256=leaf.fingerprint(SHA256()).hex(),
    )


def subject_names(leaf: x509.Certificate) -> tuple[str, ...]:
    """List host names, addresses and URIs that a certificate is for."""
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in found)


def _chain(pem: bytes, *, place: str) -> tuple[x509.Certificate, list[x509.Certificate]]:
    expected = "certificates in PEM, at most 64 KiB"
    if len(pem) > LARGEST_PEM_BYTES:
        raise TlsError(place, found=f"{len(pem)} bytes", expected=expected)
    try:
        first, *rest = x509.load_pem_x509_certificates(pem)
    except ValueError as err:
        raise TlsError(place, found="no certificates", expected=expected) from err
    return first, rest


def _has_purpose(leaf: x509.Certificate) -> bool:
    return any(isinstance(extension.value, x509.ExtendedKeyUsage) for extension in leaf.extensions)
