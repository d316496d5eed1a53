"""A site's directory: keys that are born in it, the certificate that comes back, and leaving."""

import dataclasses
import stat
from datetime import timedelta
from typing import Any

import pytest
from ceremony import NOW, PASSPHRASE, RECORDS

from partsong.client.budget.ledger import Ledger
from partsong.client.home.lock import held
from partsong.client.home.opened import open_site
from partsong.client.membership import onboarding
from partsong.client.rules.policy import Policy
from partsong.common.errors import InputError, TryAgain
from partsong.common.identity import letters
from partsong.common.identity.certificates import facts
from partsong.common.identity.keys import KeyFileError
from partsong.common.identity.letters import Invitation, LetterError, Reply, Request, seal_letter
from partsong.common.identity.tls import TlsError, make_authority
from partsong.server.membership import onboarding as at_coordinator
from partsong.server.membership.opened import enrolled


def files(home: Any) -> dict[str, bytes]:
    """Every file of a directory."""
    return {str(p.relative_to(home.path)): p.read_bytes() for p in home.path.rglob("*") if p.is_file()}


def test_a_site_opens_with_all_that_its_daemon_needs(ceremony: Any) -> None:
    """Settings, key, charter, rules that allow nothing, a vault that reads what it wrote, and the connection."""
    opened = open_site(ceremony.site("lyon"), PASSPHRASE)
    opened.vault.write("run", b"secret")

    again = open_site(ceremony.site("lyon"), PASSPHRASE)

    assert (again.config.name, again.config.coordinator) == ("lyon", "localhost:7443")
    assert again.policy == Policy()
    assert again.vault.read("run") == b"secret"
    assert again.charter is not None
    assert again.charter.charter.site_key(0) == again.signer.public_key
    assert again.tls.authority.read_bytes() == (ceremony.home.tls / "ca.crt").read_bytes()
    with pytest.raises(KeyFileError):
        open_site(ceremony.site("lyon"), b"another horse battery")


def test_every_file_is_its_owners_alone(ceremony: Any) -> None:
    """Folders 0700, files 0600."""
    for path in [ceremony.site("lyon").path, *ceremony.site("lyon").path.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_no_secret_is_in_what_leaves(ceremony: Any) -> None:
    """A request holds public keys only; the identity's secret is nowhere in the clear."""
    home, signer = ceremony.site("lyon"), ceremony.signers["lyon"]
    request = (home.enrolment / "request.json").read_bytes()
    secret = signer.secret_bytes()

    assert b"PRIVATE" not in request
    assert signer.public_key.hex().encode() in request
    for data in (request, *files(home).values()):
        assert secret not in data
        assert secret.hex().encode() not in data


def test_init_is_done_once(ceremony: Any) -> None:
    """It names the request that is there, and how to leave."""
    invitation = onboarding.read_invitation(ceremony.folder / "lyon.invite.json", now=NOW)
    before = files(ceremony.site("lyon"))

    with pytest.raises(InputError, match=r"a site's directory already.*request\.json; to leave"):
        onboarding.init(
            ceremony.site("lyon"), invitation, site_yaml="", policy="", records=RECORDS, passphrase=PASSPHRASE
        )

    assert files(ceremony.site("lyon")) == before


def test_a_reply_is_taken_only_for_what_was_asked(ceremony: Any) -> None:
    """Another site, consortium, request, coordinator, key, authority or time is refused; nothing is replaced."""
    reply = ceremony.enrol(ceremony.ask("zagreb"))
    home, coordinator = ceremony.site("zagreb"), ceremony.coordinator
    before = files(home)
    lyon = letters.read_letter(Request, ceremony.site("lyon").enrolment / "request.json")
    _, stranger = make_authority("a stranger", now=NOW)

    def change(**fields: str) -> Reply:
        return seal_letter(dataclasses.replace(reply, **fields), coordinator)

    for bad, error, words in (
        (ceremony.enrol(lyon), LetterError, "to another site or consortium"),
        (change(consortium="cardiology"), LetterError, "to another site or consortium"),
        (change(request="0" * 64), LetterError, "to another request"),
        (change(certificate=ceremony.enrol(lyon).certificate), TlsError, "of another key"),
        (change(issuer=stranger.decode()), TlsError, "does not lead to the authority"),
        (change(authority=reply.certificate), TlsError, "cannot issue"),
        (dataclasses.replace(reply, authority=stranger.decode()), LetterError, "no valid signature of the coordinator"),
        (seal_letter(reply, ceremony.signers["lyon"]), LetterError, "no valid signature of the coordinator"),
    ):
        with pytest.raises(error, match=words):
            onboarding.take_reply(home, bad, now=NOW, place="zagreb.reply.json")
        assert files(home) == before
    with pytest.raises(TlsError, match="cannot issue now"):
        onboarding.take_reply(home, reply, now=NOW + timedelta(days=4000), place="zagreb.reply.json")

    onboarding.take_reply(home, reply, now=NOW, place="zagreb.reply.json")

    assert (home.tls / "site.crt").read_bytes() == reply.certificate.encode()


@pytest.mark.parametrize("new_key", [False, True])
def test_a_renewed_certificate_touches_no_other_key(ceremony: Any, *, new_key: bool) -> None:
    """The coordinator knows the identity, so nobody compares again; the old certificate serves until then."""
    home, later = ceremony.site("lyon"), NOW + timedelta(days=350)
    before = files(home)
    data = onboarding.renew(home, PASSPHRASE, new_key=new_key)
    waiting = files(home)
    request = letters.parse(Request, data, place="request")
    assert at_coordinator.check_request(ceremony.home, request, now=later, place="r") == enrolled(ceremony.home, "lyon")

    onboarding.take_reply(home, ceremony.enrol(request, now=later), now=later, place="reply")

    after = files(home)
    assert {name: waiting[name] for name in before} == before
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"tls/site.crt", "enrolment/request.json"} | ({"tls/site.key"} if new_key else set())
    assert set(after) == set(before)
    assert facts(after["tls/site.crt"], now=later).days_left == 365


def test_a_renewal_that_was_killed_between_key_and_certificate_is_finished_by_the_same_reply(ceremony: Any) -> None:
    """The new key is in place, the old certificate still is: the reply once more brings them together."""
    home = ceremony.site("lyon")
    reply = ceremony.enrol(letters.parse(Request, onboarding.renew(home, PASSPHRASE, new_key=True), place="request"))
    (home.tls / "next.key").replace(home.tls / "site.key")

    onboarding.take_reply(home, reply, now=NOW, place="reply")
    onboarding.take_reply(home, reply, now=NOW, place="reply")

    assert (home.tls / "site.crt").read_bytes() == reply.certificate.encode()


def test_an_older_request_renews_nothing(ceremony: Any) -> None:
    """Who kept an old request, and the transport key it was for, gets no certificate for that key again."""
    old = letters.parse(Request, onboarding.renew(ceremony.site("lyon"), PASSPHRASE, new_key=True), place="request")
    ceremony.enrol(old)
    onboarding.take_reply(ceremony.site("lyon"), ceremony.enrol(old), now=NOW, place="reply")
    new = letters.parse(Request, onboarding.renew(ceremony.site("lyon"), PASSPHRASE, new_key=True), place="request")
    ceremony.enrol(new)

    with pytest.raises(LetterError, match="an answer to no invitation that is open"):
        at_coordinator.check_request(ceremony.home, old, now=NOW, place="old.request.json")


def test_an_invitation_that_was_changed_is_refused(ceremony: Any) -> None:
    """Another address, authority or expiry breaks its seal."""
    file = ceremony.folder / "zagreb.invite.json"
    ceremony.ask("zagreb")
    whole = letters.read_letter(Invitation, file)

    for change in ({"address": "evil.example.org:7443"}, {"expires_s": whole.expires_s + 1}, {"site": "lyon"}):
        file.write_bytes(letters.to_bytes(dataclasses.replace(whole, **change)))
        with pytest.raises(LetterError, match="no valid signature of the coordinator"):
            onboarding.read_invitation(file, now=NOW)


def test_init_that_was_killed_starts_anew_with_keys_of_its_own(ceremony: Any) -> None:
    """At every point before the settings are there; what a person wrote stays."""
    ceremony.ask("zagreb")
    home, invitation = ceremony.site("zagreb"), ceremony.folder / "zagreb.invite.json"
    whole = files(home)
    order = ["identity.json", "vault.key", "tls/site.key", "enrolment/request.json", "policy.yaml"]
    for last in range(len(order)):
        for name in [*order[last:], "site.yaml"]:
            (home.path / name).unlink(missing_ok=True)
        with pytest.raises(InputError, match=r"no site\.yaml in it"):
            open_site(home, PASSPHRASE)
        if last < len(order) - 1:
            continue

        onboarding.init(
            home,
            onboarding.read_invitation(invitation, now=NOW),
            site_yaml=whole["site.yaml"].decode(),
            policy="purposes: {train: {}}",
            records=RECORDS,
            passphrase=PASSPHRASE,
        )

    after = files(home)
    assert set(after) == set(whole)
    assert after["identity.json"] != whole["identity.json"]
    assert after["policy.yaml"] == b"purposes: {train: {}}"


def test_who_leaves_keeps_what_was_spent_and_loses_every_key(ceremony: Any) -> None:
    """The directory can become a site's again; the ledger that it finds is the one it left."""
    home = ceremony.site("turku")
    ledger = Ledger(home.ledger)
    head = ledger.head
    ledger.close()
    home.policy.write_text("purposes: {survey: {}}")

    home.seen.write_text("{}")

    erased = onboarding.leave(home)

    assert {"identity.json", "vault.key", "vault", "tls", "site.yaml", "seen.json"} <= set(erased)
    assert not home.seen.exists()
    left = sorted(p.name for p in home.path.iterdir())
    assert left == ["charters.left-1", "daemon.lock", "ledger.sqlite", "policy.yaml"]
    before = enrolled(ceremony.home, "turku")
    ceremony.join("turku")
    opened = open_site(home, PASSPHRASE)
    assert before is not None
    assert opened.signer.public_key.hex() != before.key
    assert opened.charter is None
    ledger = Ledger(home.ledger)
    assert ledger.head == head
    ledger.close()
    assert home.policy.read_text() == "purposes: {survey: {}}"


def test_a_lost_vault_is_replaced_by_an_empty_one_and_one_that_is_there_is_kept(ceremony: Any) -> None:
    """A backup holds neither vault nor key, so a restored site starts so."""
    home = ceremony.site("lyon")
    open_site(home, PASSPHRASE).vault.write("run", b"what was used up")
    with pytest.raises(InputError, match="a vault and its key"):
        onboarding.new_vault(home, PASSPHRASE)
    home.vault_key.unlink()
    with pytest.raises(KeyFileError, match=r"vault\.key: found no file"):
        open_site(home, PASSPHRASE)

    onboarding.new_vault(home, PASSPHRASE)

    assert open_site(home, PASSPHRASE).vault.read("run") is None


@pytest.mark.parametrize("command", [onboarding.leave, lambda home: onboarding.new_vault(home, PASSPHRASE)])
def test_nothing_is_taken_from_under_a_daemon(ceremony: Any, command: Any) -> None:
    """Its keys are in its memory: a site that has left would go on speaking, and write into what was erased."""
    home = ceremony.site("lyon")
    home.vault_key.unlink()
    before = files(home)

    with held(home.lock), pytest.raises(TryAgain, match="a daemon works on this directory"):
        command(home)

    assert files(home) == before | {"daemon.lock": b""}
    command(home)
