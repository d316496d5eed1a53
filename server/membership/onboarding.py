"""The coordinator's half of making a consortium: its own keys, invitations, enrolment, certificates.

Covers: a site is enrolled only by an answer to the invitation that was issued to it, and under the fingerprint that a
person heard from it; a directory is complete when `coordinator.yaml` is in it, and not before.
Does not cover: the charter, see `charter_desk`; who may be trusted, which is for people to say.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from partsong.common.build import canonical_json
from partsong.common.deployment import CoordinatorConfig
from partsong.common.errors import InputError
from partsong.common.identity import letters, tls
from partsong.common.identity.certificates import check_authority, check_issued, spki, transport_key_of
from partsong.common.identity.heard import parse_heard, spoken_for
from partsong.common.identity.keys import Signer, fingerprint, lock, make_identity
from partsong.common.identity.letters import Invitation, LetterError, Reply, Request
from partsong.common.identity.suite import SuiteName, suite_of_key
from partsong.common.identity.wrapped_secret import unwrap, wrap
from partsong.common.private_files import make_private_folder, write_private
from partsong.common.strict_yaml import differences, to_yaml
from partsong.server.membership.home import CoordinatorHome
from partsong.server.membership.opened import (
    Enrolled,
    address,
    all_enrolled,
    enrolled,
    identity_key,
    read_config,
    server_authority,
)

INVITATION_DAYS = 14
_DAY_S = 86_400
_HEAD = "# The coordinator's settings; docs/configuration.md lists every key and its default.\n"


def init(
    home: CoordinatorHome,
    config: CoordinatorConfig,
    *,
    suite: SuiteName,
    passphrase: bytes,
    own_ca: bool,
    now: datetime,
) -> str:
    """Make a coordinator's keys and certificates.

    Guarantees: the settings are written last; killed before, the same call starts anew, and nothing has left the
        machine.
    Args:
        home: of a directory that is new, empty, or left by a call that was killed.
        config: its settings.
        suite: of its identity, and so of the consortium.
        passphrase: for the identity and the authority's key.
        own_ca: whether the server's certificate comes from the organisation's own authority; then `tls/server.csr`
            is for it, and `import_server` takes what it issued.
        now: with its time zone.
    Returns:
        the fingerprint of its identity key.
    Raises:
        InputError: the directory is a coordinator's already, or a name is none; nothing was written.
    """
    try:
        letters.check_consortium(config.consortium)
    except ValueError as err:
        raise InputError("--consortium", found=repr(config.consortium)[:60], expected=str(err)) from err
    if home.config.exists():
        raise InputError(
            str(home.path),
            found="a coordinator's directory already",
            expected="a new one",
            remedy="choose another --dir; to make this one anew, and lose its keys, remove it first",
        )
    for name in config.names:
        tls.server_name(name)
    _make_folders(home)
    identity = make_identity(suite, os.urandom)
    _write_tls(home, config, owner=identity.public_key, passphrase=passphrase, own_ca=own_ca, now=now)
    write_private(home.identity, lock(identity, passphrase=passphrase, entropy=os.urandom))
    write_private(home.config, (_HEAD + to_yaml(differences(config))).encode())
    return fingerprint(identity.public_key)


def import_server(home: CoordinatorHome, certificate: bytes, authority: bytes, *, now: datetime) -> None:
    """Put in place what the organisation's authority issued.

    Raises:
        TlsError: it does not fit the key, the names, the chain, the time or the purpose; nothing was replaced.
    """
    config = read_config(home)
    check_authority(authority, now=now, place="authority")
    key = (home.tls / "server.key").read_bytes()
    check_issued(certificate, key_pem=key, authority=authority, usage="server", names=config.names, now=now)
    write_private(home.tls / "server-ca.crt", authority)
    write_private(home.tls / "server.crt", certificate)


def renew_server(
    home: CoordinatorHome, passphrase: bytes, *, now: datetime, names: tuple[str, ...] | None = None
) -> None:
    """Issue the server a new certificate for its key; no other key or certificate is touched.

    Args:
        home: whose server's certificate is of its own authority.
        passphrase: of the authority's key.
        now: with its time zone.
        names: new names, which also become those of the settings; None keeps them.
    Raises:
        InputError: the certificate is of the organisation's authority, or the passphrase is another one.
    """
    config = read_config(home)
    authority = (home.tls / "ca.crt").read_bytes()
    if (home.tls / "server.csr").exists():
        raise InputError(
            str(home.tls / "server.crt"),
            found="a certificate of the organisation's authority",
            expected="one of the consortium's own",
            remedy="let the organisation sign tls/server.csr again, then `partsong coordinator import`",
        )
    config = config if names is None else replace(config, names=names)
    owner = identity_key(home)
    certificate = tls.issue_server(
        tls.public_key_of((home.tls / "server.key").read_bytes()),
        names=config.names,
        authority=authority,
        authority_key=_authority_key(home, owner=owner, passphrase=passphrase),
        now=now,
    )
    write_private(home.tls / "server.crt", certificate)
    if names is not None:
        write_private(home.config, (_HEAD + to_yaml(differences(config))).encode())


def require_site_id(site: str) -> None:
    """Refuse an id that could not stand in a charter.

    Raises:
        InputError: it could not; nothing was written.
    """
    try:
        letters.check_site_id(site)
    except ValueError as err:
        raise InputError("site", found=repr(site)[:80], expected=str(err)) from err


def invite(home: CoordinatorHome, signer: Signer, site: str, *, now: datetime) -> bytes:
    """Write an invitation for one site; an earlier one to the same site ends with it.

    Raises:
        InputError: the id could not stand in a charter, or the server has no certificate yet.
    """
    config = read_config(home)
    require_site_id(site)
    invitation = letters.seal_letter(
        Invitation(
            consortium=config.consortium,
            suite=suite_of_key(signer.public_key) or "A",
            site=site,
            address=address(config),
            coordinator=signer.public_key.hex(),
            authority=server_authority(home).decode(),
            nonce=os.urandom(32).hex(),
            expires_s=int(now.timestamp()) + INVITATION_DAYS * _DAY_S,
        ),
        signer,
    )
    data = letters.to_bytes(invitation)
    write_private(home.invited / f"{site}.json", data)
    return data


def check_request(home: CoordinatorHome, request: Request, *, now: datetime, place: str) -> Enrolled | None:
    """Check a request against what this coordinator issued; a fingerprint is confirmed elsewhere.

    Returns:
        what the site was enrolled with before; None for a new site.
    Raises:
        LetterError: of another consortium, not an answer to the newest invitation of this site, expired, changed, or
            the certificate is asked for another name.
    """
    config = read_config(home)
    known = enrolled(home, request.site)
    if request.consortium != config.consortium:
        raise LetterError(place, found="a request to another consortium", expected=f"one to {config.consortium}")
    letters.check_seal(request, key=bytes.fromhex(request.key), whose="site")
    transport_key = spki(tls.read_site_request(request.certificate_request.encode(), site=request.site))
    for other in all_enrolled(home):
        if other.site != request.site and (
            other.key == request.key or transport_key_of(other.certificate.encode()) == transport_key
        ):
            raise LetterError(place, found=f"a key of {other.site}", expected="keys of its own for each site")
    if known is not None and known.request == letters.letter_hash(request):
        return known
    file = home.invited / f"{request.site}.json"
    invitation = letters.read_letter(Invitation, file) if file.exists() else None
    if known is not None and (known.key, known.request) == (request.key, request.invitation):
        return known
    if invitation is None or letters.letter_hash(invitation) != request.invitation:
        raise LetterError(
            place,
            found="an answer to no invitation that is open",
            expected=f"one to the newest invitation of {request.site}",
            remedy=f"`partsong coordinator invite {request.site}` again, and let the site ask anew",
        )
    if invitation.expires_s < now.timestamp():
        raise LetterError(place, found="an answer to an invitation that expired", expected="one within 14 days")
    return known


def require_heard(
    home: CoordinatorHome, requests: Mapping[Path, Request], heard: Sequence[str], *, now: datetime
) -> tuple[Request, ...]:
    """Check requests, and compare the keys that are new with the fingerprints that were heard from the sites.

    Args:
        home: the coordinator's directory.
        requests: by file.
        heard: `SITE=FINGERPRINT` each, or the fingerprint alone.
        now: of the real clock.
    Returns:
        those with a new key when no fingerprint was given at all: a person has to say that they were compared.
    Raises:
        LetterError: as `check_request`; or a new key has none of these fingerprints, or one of them belongs to none of
            the keys. No site was enrolled.
    """
    if len({request.site for request in requests.values()}) != len(requests):
        raise LetterError("requests", found="two of one site", expected="one of each")
    keys = {request.site: fingerprint(bytes.fromhex(request.key)) for request in requests.values()}
    given = [parse_heard(text, known=keys) for text in heard]
    spoken, unheard = spoken_for(given, keys), []
    for file, request in requests.items():
        known = check_request(home, request, now=now, place=str(file))
        if request.site in spoken or (known is not None and known.key == request.key):
            continue
        if given:
            raise LetterError(
                str(file),
                found=f"a key of fingerprint {keys[request.site]}",
                expected="a fingerprint that was given",
                remedy="ask the site again over another channel; somebody may have put a key of his own in between",
            )
        unheard.append(request)
    if not all(spoken_for((one,), keys) for one in given):
        raise LetterError("--fingerprint", found="one that fits no request", expected="those of the sites' keys")
    return tuple(unheard)


def require_word(request: Request, word: bool) -> None:  # noqa: FBT001  # the answer of a person
    """Refuse to enrol a new key without a person's word.

    Raises:
        InputError: it was not given; the site is not enrolled.
    """
    if not word:
        raise InputError(
            f"request of {request.site}",
            found="no word of a person",
            expected="that its fingerprint was compared over another channel",
            remedy="give what the site said with --fingerprint",
        )


def enrol(
    home: CoordinatorHome,
    signer: Signer,
    request: Request,
    *,
    passphrase: bytes,
    now: datetime,
) -> bytes:
    """Issue a site's certificate, after its request and fingerprint were checked.

    The same request once more gives the same certificate.

    Returns:
        the reply for the site.
    """
    config, asked = read_config(home), letters.letter_hash(request)
    known = enrolled(home, request.site)
    if known is None or known.request != asked:
        certificate = tls.issue_site(
            tls.read_site_request(request.certificate_request.encode(), site=request.site),
            site=request.site,
            authority=(home.tls / "ca.crt").read_bytes(),
            authority_key=_authority_key(home, owner=signer.public_key, passphrase=passphrase),
            now=now,
        )
        known = Enrolled(site=request.site, key=request.key, request=asked, certificate=certificate.decode())
        write_private(home.enrolled / f"{request.site}.json", canonical_json(known))
        (home.invited / f"{request.site}.json").unlink(missing_ok=True)
    reply = Reply(
        consortium=config.consortium,
        site=request.site,
        request=asked,
        certificate=known.certificate,
        issuer=(home.tls / "ca.crt").read_text(encoding="ascii"),
        authority=server_authority(home).decode(),
    )
    return letters.to_bytes(letters.seal_letter(reply, signer))


def _make_folders(home: CoordinatorHome) -> None:
    for folder in (home.path, home.tls, home.invited, home.enrolled, home.charters, home.runs):
        make_private_folder(folder)


def _write_tls(
    home: CoordinatorHome, config: CoordinatorConfig, *, owner: bytes, passphrase: bytes, own_ca: bool, now: datetime
) -> None:
    for leftover in ("server.csr", "server.crt", "server-ca.crt"):
        (home.tls / leftover).unlink(missing_ok=True)
    authority_key, authority = tls.make_authority(config.consortium, now=now)
    server_key = tls.make_transport_key()
    wrapped = wrap(authority_key, kind="authority", owner=owner, passphrase=passphrase, entropy=os.urandom)
    write_private(home.tls / "ca.key", wrapped)
    write_private(home.tls / "ca.crt", authority)
    write_private(home.tls / "server.key", server_key)
    if own_ca:
        write_private(home.tls / "server.csr", tls.request_server(server_key, names=config.names))
        return
    certificate = tls.issue_server(
        tls.public_key_of(server_key), names=config.names, authority=authority, authority_key=authority_key, now=now
    )
    write_private(home.tls / "server.crt", certificate)
    write_private(home.tls / "server-ca.crt", authority)


def _authority_key(home: CoordinatorHome, *, owner: bytes, passphrase: bytes) -> bytes:
    return unwrap((home.tls / "ca.key").read_bytes(), kind="authority", owner=owner, passphrase=passphrase)
