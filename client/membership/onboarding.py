"""A site's half of enrolment: keys that are born here, rules that are closed, and the certificate that comes back.

Covers: no secret leaves the directory; a directory is complete when `site.yaml` is in it, and not before; a reply is
taken only for what this site asked, from the coordinator that invited it, and if certificate, key, name, chain, time
and purpose fit together.
Does not cover: whether the invitation is the coordinator's. People compare its fingerprint before they co-sign.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from partsong.client.data.table import read_table
from partsong.client.home.layout import SiteHome
from partsong.client.home.lock import held
from partsong.client.home.opened import open_identity, read_config
from partsong.client.rules.policy_file import parse_policy
from partsong.common.build import canonical_json
from partsong.common.deployment import SiteConfig
from partsong.common.errors import DataError, InputError
from partsong.common.files import sync_folder
from partsong.common.identity import letters, tls
from partsong.common.identity.certificates import check_authority, check_issued, spki, transport_key_of
from partsong.common.identity.keys import Signer, lock, make_identity
from partsong.common.identity.letters import Invitation, LetterError, Reply, Request
from partsong.common.identity.wrapped_secret import wrap
from partsong.common.private_files import make_private_folder, write_private

HEAD = "# This site's settings; docs/configuration.md lists every key and its default.\n"
_VAULT_KEY_BYTES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Records:
    """What was found when the records were read once. Holds counts, so it stays at the site."""

    kind: str
    records: int
    units: int | None
    """Different values of `data.unit_field`; None where none is named."""
    fingerprint: str
    """SHA-256 of what would be learned from."""


def register(config: SiteConfig) -> Records:
    """Read the records once: every row is checked, and nothing of them is kept but a fingerprint.

    Raises:
        DataError: names source, row and field, and never quotes a record.
    """
    if config.data.path is None:
        raise DataError("data.path", found="nothing", expected="a file or folder with records")
    table = read_table(Path(config.data.path), config.data)
    units = None if table.units is None else len(set(table.units))
    return Records(kind=table.kind, records=len(table), units=units, fingerprint=table.fingerprint())


def read_invitation(path: Path, *, now: datetime) -> Invitation:
    """Read an invitation and check that it is whole, still open, and brings a usable authority.

    Raises:
        LetterError: it is not; nothing was made.
    """
    invitation = letters.read_letter(Invitation, path)
    letters.check_seal(invitation, key=bytes.fromhex(invitation.coordinator), whose="coordinator")
    if invitation.expires_s < now.timestamp():
        raise LetterError(str(path), found="an invitation that expired", expected="one within 14 days of its making")
    check_authority(invitation.authority.encode(), now=now, place=str(path))
    return invitation


def require_new(home: SiteHome) -> None:
    """Accept a directory that is not a site's yet.

    Raises:
        InputError: it is; nothing was changed.
    """
    if home.config.exists():
        raise InputError(
            str(home.path),
            found="a site's directory already",
            expected="a new one",
            remedy=f"its request is {home.enrolment / 'request.json'}; to leave the consortium, `partsong site leave`",
        )


def init(
    home: SiteHome,
    invitation: Invitation,
    *,
    site_yaml: str,
    policy: str,
    records: Records,
    passphrase: bytes,
) -> bytes:
    """Make a site's keys, its rules and its request.

    Guarantees:
        - the settings are written last; killed before, the same call starts anew, and nothing has left the machine;
        - a ledger, approvals and a policy that are there already, of a consortium that was left, stay as they are.
    Args:
        home: of a directory that is new, empty, left by a call that was killed, or left by `leave`.
        invitation: as `read_invitation` gave it.
        site_yaml: the settings as they are to stand in the file.
        policy: the rules as they are to stand in the file; not written where there are some.
        records: what `register` found.
        passphrase: for the identity and the vault's key.
    Returns:
        the request, for the coordinator; it is kept in `enrolment/` as well.
    Raises:
        InputError: the directory is a site's already; nothing was changed.
    """
    require_new(home)
    parse_policy(policy)
    _make_folders(home)
    identity, vault_key = make_identity(invitation.suite, os.urandom), os.urandom(_VAULT_KEY_BYTES)
    transport_key = tls.make_transport_key()
    request = ask(invitation, identity, transport_key, answers=letters.letter_hash(invitation))
    write_private(home.identity, lock(identity, passphrase=passphrase, entropy=os.urandom))
    wrapped = wrap(vault_key, kind="vault", owner=identity.public_key, passphrase=passphrase, entropy=os.urandom)
    write_private(home.vault_key, wrapped)
    write_private(home.tls / "site.key", transport_key)
    write_private(home.enrolment / "invitation.json", letters.to_bytes(invitation))
    write_private(home.enrolment / "request.json", letters.to_bytes(request))
    write_private(home.enrolment / "records.json", canonical_json(records))
    if not home.policy.exists():
        write_private(home.policy, policy.encode())
    write_private(home.config, site_yaml.encode())
    return letters.to_bytes(request)


def ask(invitation: Invitation, signer: Signer, transport_key: bytes, *, answers: str) -> Request:
    """Make a site's request.

    Args:
        invitation: of the consortium.
        signer: the identity key.
        transport_key: PEM of the key that the certificate is to be for.
        answers: hash of the invitation; to renew, of the request that was answered last.
    """
    request = Request(
        consortium=invitation.consortium,
        site=invitation.site,
        invitation=answers,
        key=signer.public_key.hex(),
        certificate_request=tls.request_site(transport_key, site=invitation.site).decode(),
    )
    return letters.seal_letter(request, signer)


def renew(home: SiteHome, passphrase: bytes, *, new_key: bool, invitation: Invitation | None = None) -> bytes:
    """Ask for a new certificate. The one in use stays until the reply is taken.

    Args:
        home: of an enrolled site.
        passphrase: of the identity key, which stays the same.
        new_key: whether the transport key is to be replaced too.
        invitation: of a coordinator that has a new key or is another machine; None asks the one before.
    Returns:
        the request, for the coordinator.
    Raises:
        InputError: the invitation is for another site or consortium, or the directory is no site's.
    """
    known = letters.read_letter(Invitation, home.enrolment / "invitation.json")
    if invitation is not None and (invitation.consortium, invitation.site, invitation.suite) != (
        known.consortium,
        known.site,
        known.suite,
    ):
        raise LetterError(
            "invitation", found="one for another site or consortium", expected=f"{known.site} of {known.consortium}"
        )
    key = tls.make_transport_key() if new_key else (home.tls / "site.key").read_bytes()
    answered = letters.read_letter(Request, home.enrolment / "request.json")
    answers = letters.letter_hash(invitation or answered)
    request = ask(invitation or known, open_identity(home, passphrase), key, answers=answers)
    if new_key:
        write_private(home.tls / "next.key", key)
    if invitation is not None:
        write_private(home.enrolment / "invitation.json", letters.to_bytes(invitation))
    write_private(home.enrolment / "asked.json", letters.to_bytes(request))
    return letters.to_bytes(request)


def take_reply(home: SiteHome, reply: Reply, *, now: datetime, place: str) -> None:
    """Put a certificate in place, after everything about it was checked.

    Guarantees: killed in between, the same call finishes.
    Args:
        home: of the site that asked.
        reply: from the coordinator.
        now: with its time zone.
        place: name of the file, for error texts.
    Raises:
        LetterError: it answers another request, or another coordinator or consortium sent it.
        TlsError: the certificate or the authority does not fit. Nothing was replaced in either case.
    """
    invitation = letters.read_letter(Invitation, home.enrolment / "invitation.json")
    if (reply.consortium, reply.site) != (invitation.consortium, invitation.site):
        expected = f"one to {invitation.site} of {invitation.consortium}"
        raise LetterError(place, found="a reply to another site or consortium", expected=expected)
    letters.check_seal(reply, key=bytes.fromhex(invitation.coordinator), whose="coordinator")
    asked = _request_answered(home, reply, place=place)
    certificate, authority, issuer = reply.certificate.encode(), reply.authority.encode(), reply.issuer.encode()
    check_authority(authority, now=now, place=place)
    check_authority(issuer, now=now, place=place)
    key = _fitting_key(home, certificate)
    check_issued(
        certificate,
        key_pem=key.read_bytes(),
        authority=issuer,
        usage="site",
        names=(reply.site,),
        now=now,
        place=place,
    )
    write_private(home.tls / "ca.crt", authority)
    if key.name != "site.key":
        key.replace(home.tls / "site.key")
    write_private(home.tls / "site.crt", certificate)
    if asked.name != "request.json":
        asked.replace(home.enrolment / "request.json")


def new_vault(home: SiteHome, passphrase: bytes) -> None:
    """Give a site that lost its vault an empty one. It sits out until the next set-up; its budget stays spent.

    Raises:
        KeyFileError: the identity does not open; nothing was changed.
        InputError: there is a vault with its key; what it remembers must not be thrown away.
        TryAgain: a daemon works on the directory; nothing was changed.
    """
    with held(home.lock):
        _make_vault(home, passphrase)


def _make_vault(home: SiteHome, passphrase: bytes) -> None:
    owner = open_identity(home, passphrase).public_key
    if home.vault_key.exists() and home.vault.is_dir():
        raise InputError(
            str(home.vault_key),
            found="a vault and its key",
            expected="neither, or one of them",
            remedy="keep it; if its key is damaged, move vault.key out of the directory first",
        )
    shutil.rmtree(home.vault, ignore_errors=True)
    make_private_folder(home.vault)
    key = os.urandom(_VAULT_KEY_BYTES)
    write_private(home.vault_key, wrap(key, kind="vault", owner=owner, passphrase=passphrase, entropy=os.urandom))


def leave(home: SiteHome) -> tuple[str, ...]:
    """Leave the consortium: erase what could speak or connect for this site.

    What was spent stays spent: ledger, rules, decisions and adapters stay, and the charters beside them as
    `charters.left-N`. Which charter was worked under last is forgotten: another consortium's first one is none that was
    rolled back, and none before lists the key that the site will have then. The settings go last, so that a call that
    was killed can be made again.

    Returns:
        names of what was erased.
    Raises:
        InputError: the directory is no site's.
        TryAgain: a daemon works on it, and has the keys in its memory; nothing was erased.
    """
    read_config(home)
    with held(home.lock):
        return _erase_membership(home)


def _erase_membership(home: SiteHome) -> tuple[str, ...]:
    folders = (home.vault, home.tls, home.enrolment, home.inbox, home.outbox, home.plans)
    files = (home.identity, home.vault_key, home.seen, home.config)
    erased = [path.name for path in (*folders, *files) if path.exists()]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    if home.charters.is_dir():
        number = 1 + len(list(home.path.glob("charters.left-*")))
        home.charters.replace(home.path / f"charters.left-{number}")
    for file in files:
        file.unlink(missing_ok=True)
    sync_folder(home.path)
    return tuple(erased)


def _make_folders(home: SiteHome) -> None:
    for folder in (home.path, home.tls, home.enrolment, home.charters, home.vault):
        make_private_folder(folder)


def _request_answered(home: SiteHome, reply: Reply, *, place: str) -> Path:
    for name in ("request.json", "asked.json"):
        file = home.enrolment / name
        if file.exists() and letters.letter_hash(letters.read_letter(Request, file)) == reply.request:
            return file
    raise LetterError(place, found="a reply to another request", expected="one to what this site asked last")


def _fitting_key(home: SiteHome, certificate: bytes) -> Path:
    """Find the key that a certificate is for: the one in use, or the one that is to take its place."""
    wanted = transport_key_of(certificate)
    after = home.tls / "next.key"
    if after.exists() and spki(tls.public_key_of(after.read_bytes())) == wanted:
        return after
    return home.tls / "site.key"
