"""What a handshake says about interception, TLS version, certificates and clocks."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from partsong.common.doctor.finding import Seen, fail, ok, warn
from partsong.common.doctor.handshake import Handshake

SOON = timedelta(days=30)
"""A certificate that ends sooner is warned about: renewing takes people at two organisations."""
AHEAD_S, BEHIND_S = 5.0, 300.0
"""A site's requests carry a signed time. Flower refuses one more than 5 s in its own future or 305 s in its past."""
_FORBIDDEN = "403"
_RESOLUTION_S = 1.0
"""Of a Date header, which is cut to whole seconds: this much may look ahead and not be."""


def check_interception(seen: Handshake, authority: Path) -> Seen:
    """Say whether the coordinator's own certificate came through, and if not, whose came instead."""
    if seen.distrust is None:
        return ok("the certificate is of the authority that enrolment brought")
    whose = seen.leaf.issuer.rfc4514_string() or "an authority without a name"
    if not _issued_by(seen.leaf, x509.load_pem_x509_certificates(authority.read_bytes())):
        return fail(
            f"the certificate shown is of {whose}",
            cause="something on the way opens the encryption (a proxy with TLS inspection), or this is not the "
            "coordinator",
            remedy="have this address left out of TLS inspection: what opens a connection cannot show this site's "
            "certificate, so no setting here helps; only where the coordinator's own certificate is of another "
            "authority than enrolment brought, name its PEM file as `ca_bundle` in site.yaml",
        )
    return fail(
        f"the right authority, but {seen.distrust}",
        cause="name or time of the coordinator's certificate do not fit",
        remedy="compare `coordinator` in site.yaml with `names` in coordinator.yaml, and this machine's clock; the "
        "coordinator renews with `partsong coordinator renew`",
    )


def check_version(seen: Handshake) -> Seen:
    """Say which version of TLS was spoken."""
    if seen.version == "TLSv1.3":
        return ok("TLS 1.3")
    return fail(
        seen.version or "unknown",
        cause="a site speaks TLS 1.3 only, because earlier versions show its certificate to the network; the "
        "coordinator speaks it too, so something between them does not",
        remedy="ask the network team what holds this connection at an older version",
    )


def check_accepted(seen: Handshake) -> Seen:
    """Say whether the coordinator took this site's certificate, and serves this site."""
    if seen.answer is None:
        return fail(
            "the coordinator cut the connection after the handshake",
            cause="it does not take this site's certificate: not of its authority, expired, or revoked",
            remedy="`partsong site renew`, `partsong coordinator enrol` there, and `partsong site join` its reply",
        )
    if _FORBIDDEN in seen.answer.split():
        return fail(
            f"the coordinator answers, and serves this site nothing ({seen.answer})",
            cause="no charter in force there lists this site with the key of this certificate",
            remedy="finish the charter (`partsong coordinator charter collect`), or enrol again with this certificate",
        )
    return ok(f"the coordinator answers ({seen.answer.strip()})")


def check_clock(seen: Handshake) -> Seen:
    """Compare this machine's clock with the coordinator's, by the Date header of its answer."""
    if seen.their_time is None:
        return warn(
            "the coordinator's answer has no date",
            cause="only the certificate's times could be compared, and they fit",
            remedy="compare this machine's clock with a time server",
        )
    ahead_s = (seen.our_time - seen.their_time).total_seconds()
    found = f"this clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the coordinator's"
    how = {
        "cause": f"requests carry a signed time; {AHEAD_S:.0f} s ahead or {BEHIND_S:.0f} s behind they are refused",
        "remedy": "switch time synchronisation on (`timedatectl set-ntp true`) on whichever of the two is wrong",
    }
    if ahead_s > AHEAD_S + _RESOLUTION_S or ahead_s < -BEHIND_S:
        return fail(found, **how)
    is_drifting = ahead_s > AHEAD_S / 2 + _RESOLUTION_S or ahead_s < -BEHIND_S / 10
    return warn(found, **how) if is_drifting else ok(found)


def check_presented(seen: Handshake, *, now: datetime) -> Seen:
    """Judge the times of the certificate that the coordinator showed."""
    return judge_times(seen.leaf, whose="the coordinator's certificate", now=now, renew="the coordinator renews it")


def check_own_certificate(*, certificate: Path, key: Path, authority: Path, now: datetime, renew: str) -> Seen:
    """Judge a certificate of ours: it fits its key, is signed by the authority beside it, and is not about to end.

    Args:
        certificate: PEM file; the first in it counts, others are on the way to the authority.
        key: its private key, in PEM without a passphrase.
        authority: PEM file of authorities.
        now: in UTC.
        renew: what to do about a certificate that ends.
    """
    try:
        leaf, *between = x509.load_pem_x509_certificates(certificate.read_bytes())
        roots = x509.load_pem_x509_certificates(authority.read_bytes())
    except (OSError, ValueError):
        return fail(
            f"{certificate.name} or {authority.name} cannot be read",
            cause="a file is missing or damaged",
            remedy="enrol again, or put the files back from the backup",
        )
    if (wrong := _key_problem(leaf, key)) is not None:
        return wrong
    if not _issued_by(leaf, [*roots, *between]):
        return fail(
            f"{certificate.name} is of {leaf.issuer.rfc4514_string()}, not of {authority.name}",
            cause="certificate and authority come from two enrolments",
            remedy="enrol again with the certificate and the authority that came together",
        )
    return judge_times(leaf, whose=certificate.name, now=now, renew=renew)


def judge_times(leaf: x509.Certificate, *, whose: str, now: datetime, renew: str) -> Seen:
    """Say how long a certificate is still good."""
    start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now < start:
        return fail(
            f"{whose} begins at {start:%Y-%m-%d %H:%M} UTC, and this clock says {now:%Y-%m-%d %H:%M}",
            cause="this machine's clock is slow, or that of whoever signed it was fast",
            remedy="set the clock right; if it is, wait until then",
        )
    days = (end - now).days
    if now > end:
        return fail(f"{whose} ended on {end:%Y-%m-%d}", cause="nothing with it is accepted any more", remedy=renew)
    if end - now < SOON:
        return warn(f"{whose} ends in {days} days", cause=f"it ends on {end:%Y-%m-%d}", remedy=renew)
    return ok(f"{whose} is good for {days} days")


def _key_problem(leaf: x509.Certificate, key: Path) -> Seen | None:
    try:
        loaded = load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        return fail(
            f"{key.name} cannot be opened",
            cause="it is missing, damaged, under a passphrase, or not this user's to read",
            remedy="put it back from the backup with mode 0600, or enrol again",
        )
    if loaded.public_key() != leaf.public_key():
        return fail(
            f"{key.name} is not the key of the certificate beside it",
            cause="key and certificate come from two enrolments",
            remedy="enrol again; keep the two that came together",
        )
    return None


def _issued_by(leaf: x509.Certificate, authorities: list[x509.Certificate]) -> bool:
    for authority in authorities:
        try:
            leaf.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False
