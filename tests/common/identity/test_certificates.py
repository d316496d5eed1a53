"""Certificates say what they are for, and are taken for nothing else."""

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from partsong.common.identity import tls
from partsong.common.identity.certificates import check_authority, check_issued, facts, spki, transport_key_of
from partsong.common.identity.tls import TlsError

NOW = datetime(2027, 3, 1, 12, tzinfo=UTC)
AUTHORITY_KEY, AUTHORITY = tls.make_authority("oncology", now=NOW)
KEY = tls.make_transport_key()
NAMES = ("coordinator.example.org", "10.0.0.7", "::1")


def server(**change: Any) -> bytes:
    """A server's certificate."""
    usual: dict[str, Any] = {"names": NAMES, "authority": AUTHORITY, "authority_key": AUTHORITY_KEY, "now": NOW}
    return tls.issue_server(tls.public_key_of(KEY), **usual | change)


def site(name: str = "lyon", **change: Any) -> bytes:
    """A site's certificate."""
    usual: dict[str, Any] = {"site": name, "authority": AUTHORITY, "authority_key": AUTHORITY_KEY, "now": NOW}
    return tls.issue_site(tls.public_key_of(KEY), **usual | change)


def check(certificate: bytes, **change: Any) -> None:
    """Check a server's certificate."""
    usual: dict[str, Any] = {"key_pem": KEY, "authority": AUTHORITY, "usage": "server", "names": NAMES, "now": NOW}
    check_issued(certificate, **usual | change)


def test_what_the_authority_issues_is_accepted_for_a_year() -> None:
    """From a day before, for clocks that are behind, to the end of the year; not a moment longer."""
    for now in (NOW - timedelta(hours=23), NOW, NOW + timedelta(days=364)):
        check(server(), now=now)
        check(site(), usage="site", names=["lyon"], now=now)
    for now in (NOW - timedelta(days=2), NOW + timedelta(days=366)):
        with pytest.raises(TlsError, match="valid at"):
            check(server(), now=now)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key_pem": tls.make_transport_key()}, "of another key"),
        ({"authority": tls.make_authority("oncology", now=NOW)[1]}, "does not lead to the authority"),
        ({"usage": "site", "names": ["lyon"]}, "for another purpose"),
        ({"names": [*NAMES, "other.example.org"]}, "expected .*other"),
        ({"key_pem": b"nothing"}, "no private key"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_reason(change: dict[str, Any], words: str) -> None:
    """Key, chain, purpose, names."""
    with pytest.raises(TlsError, match=words):
        check(server(), **change)


def test_a_site_is_one_site() -> None:
    """Neither another's certificate nor a server's opens the door for it."""
    for bad in (site("porto"), server(), server(names=["lyon"])):
        with pytest.raises(TlsError):
            check(bad, usage="site", names=["lyon"])


def test_the_authority_cannot_make_another() -> None:
    """Path length 0: a chain through an authority that it signed is refused."""
    parent = load_pem_private_key(_as_pem(AUTHORITY_KEY), password=None)
    below = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "below")])
    root = x509.load_pem_x509_certificate(AUTHORITY)
    middle = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(root.subject)
        .public_key(below.public_key())
        .serial_number(5)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(tls._key_usage(issues=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(below.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), critical=False)
        .sign(parent, SHA256())
        .public_bytes(Encoding.PEM)
    )
    key = below.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    leaf = server(authority=middle, authority_key=key)
    check(leaf, authority=middle)

    with pytest.raises(TlsError, match="does not lead"):
        check(leaf + middle)


def test_a_renewed_authority_vouches_for_what_it_issued_before() -> None:
    """The key is the same, so nobody needs a new certificate at once."""
    later = NOW + timedelta(days=300)
    renewed = tls.renew_authority(AUTHORITY_KEY, "oncology", now=later)

    check(server(), authority=renewed, now=later)
    check_authority(renewed, now=later + timedelta(days=3600), place="ca")
    with pytest.raises(TlsError):
        check_authority(AUTHORITY, now=later + timedelta(days=3600), place="ca")


def test_a_request_is_for_one_name_and_signed_by_its_key() -> None:
    """A changed byte, another site's name and another curve are refused."""
    pem = tls.request_site(KEY, site="lyon")
    assert spki(tls.read_site_request(pem, site="lyon")) == transport_key_of(site())
    request = x509.load_pem_x509_csr(pem)
    der = bytearray(request.public_bytes(Encoding.DER))
    der[-1] ^= 1
    broken = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    other = ec.generate_private_key(ec.SECP384R1())
    foreign = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(request.subject)
        .add_extension(request.extensions[0].value, critical=False)
        .sign(other, SHA256())
        .public_bytes(Encoding.PEM)
    )

    for bad, name in (
        (pem, "porto"),
        (broken, "lyon"),
        (foreign, "lyon"),
        (b"", "lyon"),
        (tls.request_server(KEY, names=["lyon"]), "lyon"),
    ):
        with pytest.raises(TlsError, match="certificate request"):
            tls.read_site_request(bad, site=name)


@pytest.mark.parametrize(
    "name", ["", "*.example.org", "host:7443", "a/b", "b\u00fccher.example", "x" * 254, "two words"]
)
def test_what_is_no_host_name_gets_no_certificate(name: str) -> None:
    """No wildcards, ports, paths or characters beyond ASCII."""
    with pytest.raises(TlsError, match="host names"):
        server(names=["localhost", name])


def test_facts_for_doctor() -> None:
    """Whose, by whom, for which names, how long."""
    found = facts(server(), now=NOW)

    assert found.names == NAMES
    assert (found.subject, found.issuer) == ("CN=coordinator.example.org", "CN=partsong oncology")
    assert found.days_left == 365
    assert facts(server(), now=NOW + timedelta(days=365, seconds=1)).days_left == -1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_another_implementation_agrees(tmp_path: Path) -> None:
    """OpenSSL verifies the chain, name and purpose, and refuses the wrong purpose."""
    files = {"ca": AUTHORITY, "server": server(), "site": site()}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    def verify(name: str, *options: str) -> int:
        at = str(int(NOW.timestamp()))
        command = ["openssl", "verify", "-x509_strict", "-attime", at, "-CAfile", "ca", *options, name]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode

    assert verify("server", "-purpose", "sslserver", "-verify_hostname", NAMES[0]) == 0
    assert verify("server", "-purpose", "sslserver", "-verify_ip", NAMES[1]) == 0
    assert verify("site", "-purpose", "sslclient") == 0
    assert verify("site", "-purpose", "sslserver") != 0
    assert verify("server", "-purpose", "sslclient") != 0


def _as_pem(der: bytes) -> bytes:
    return load_der_private_key(der, password=None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
