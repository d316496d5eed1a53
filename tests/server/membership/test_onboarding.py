"""The coordinator's directory, invitations and enrolment."""

import os
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ceremony import NOW, PASSPHRASE, SITES

from partsong.client.membership import onboarding as at_site
from partsong.common.deployment import CoordinatorConfig
from partsong.common.errors import InputError
from partsong.common.identity import letters
from partsong.common.identity.certificates import check_issued, facts
from partsong.common.identity.keys import KeyFileError, fingerprint
from partsong.common.identity.letters import Invitation, LetterError, Request
from partsong.common.identity.tls import TlsError, issue_server, make_authority, public_key_of
from partsong.common.identity.wrapped_secret import unwrap
from partsong.server.membership import charter_desk, onboarding
from partsong.server.membership.home import CoordinatorHome
from partsong.server.membership.opened import all_enrolled, open_coordinator

CONFIG = CoordinatorConfig(consortium="oncology", names=("coordinator.example.org", "10.0.0.7"))


def test_a_coordinator_opens_with_settings_charter_and_the_keys_that_may_connect(ceremony: Any) -> None:
    """What the daemon needs, in one call; without the passphrase nothing."""
    opened = open_coordinator(ceremony.home, PASSPHRASE)

    assert opened.config.names == ("localhost", "127.0.0.1")
    assert opened.charter is not None
    assert opened.charter.charter.version == 1
    assert opened.signer.public_key == ceremony.coordinator.public_key
    assert set(opened.sites) == set(SITES)
    assert len(set(opened.sites.values())) == len(SITES)
    with pytest.raises(KeyFileError, match="passphrase"):
        open_coordinator(ceremony.home, b"another horse battery")


def test_every_file_is_its_owners_alone(ceremony: Any) -> None:
    """Folders 0700, files 0600, the public ones as well."""
    for path in [ceremony.home.path, *ceremony.home.path.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_copy_of_the_directory_is_the_coordinator_on_another_machine(ceremony: Any, tmp_path: Path) -> None:
    """Hand-over: the same keys, the same charter, the same sites."""
    other = ceremony.copy(tmp_path / "other").home

    before, after = open_coordinator(ceremony.home, PASSPHRASE), open_coordinator(other, PASSPHRASE)

    assert after.sites == before.sites
    assert after.charter == before.charter
    assert after.signer.public_key == before.signer.public_key


def test_init_is_done_once(ceremony: Any) -> None:
    """A second call would lose the keys, so it is refused and changes nothing."""
    before = {p: p.read_bytes() for p in ceremony.home.path.rglob("*") if p.is_file()}

    with pytest.raises(InputError, match="a coordinator's directory already"):
        onboarding.init(ceremony.home, CONFIG, suite="A", passphrase=PASSPHRASE, own_ca=False, now=NOW)

    assert {p: p.read_bytes() for p in ceremony.home.path.rglob("*") if p.is_file()} == before


def test_the_organisations_authority_signs_the_server_and_nothing_else_is_taken(tmp_path: Path) -> None:
    """Another key, name, purpose, chain or time is refused by name; the right one is put in place."""
    home = CoordinatorHome(tmp_path / "c")
    onboarding.init(home, CONFIG, suite="A", passphrase=PASSPHRASE, own_ca=True, now=NOW)
    authority_key, authority = make_authority("the hospital", now=NOW)
    _, stranger = make_authority("a stranger", now=NOW)
    key = public_key_of((home.tls / "server.key").read_bytes())
    issue: dict[str, Any] = {"authority": authority, "authority_key": authority_key, "now": NOW}
    right = issue_server(key, names=CONFIG.names, **issue)
    fewer = issue_server(key, names=CONFIG.names[:1], **issue)
    assert (home.tls / "server.csr").exists()
    with pytest.raises(InputError, match=r"no server\.crt in it"):
        open_coordinator(home, PASSPHRASE)

    for certificate, roots, now, words in (
        (fewer, authority, NOW, "the names"),
        (right, stranger, NOW, "chain that does not lead"),
        (right, authority, NOW + timedelta(days=400), "renew it"),
        (right, right, NOW, "cannot issue"),
        (b"nothing", authority, NOW, "no certificates"),
    ):
        with pytest.raises(TlsError, match=words):
            onboarding.import_server(home, certificate, roots, now=now)
        assert not (home.tls / "server.crt").exists()
    onboarding.import_server(home, right, authority, now=NOW)

    assert open_coordinator(home, PASSPHRASE).tls.certificate.read_bytes() == right
    with pytest.raises(InputError, match="organisation's authority"):
        onboarding.renew_server(home, PASSPHRASE, now=NOW)


def test_renewing_the_server_touches_no_other_file(ceremony: Any) -> None:
    """A later end and, if asked for, other names; every key stays."""
    before = {p: p.read_bytes() for p in ceremony.home.path.rglob("*") if p.is_file()}
    later = NOW + timedelta(days=300)

    onboarding.renew_server(ceremony.home, PASSPHRASE, now=later)

    after = {p: p.read_bytes() for p in ceremony.home.path.rglob("*") if p.is_file()}
    assert [p.name for p in after if after[p] != before.get(p)] == ["server.crt"]
    tls = ceremony.home.tls
    assert facts((tls / "server.crt").read_bytes(), now=later).days_left == 365
    check_issued(
        (tls / "server.crt").read_bytes(),
        key_pem=(tls / "server.key").read_bytes(),
        authority=(tls / "ca.crt").read_bytes(),
        usage="server",
        names=["localhost", "127.0.0.1"],
        now=later + timedelta(days=300),
    )


def test_the_authoritys_key_needs_the_passphrase(ceremony: Any) -> None:
    """On the disk it is wrapped: a thief of the running daemon's files issues no certificate."""
    data = (ceremony.home.tls / "ca.key").read_bytes()

    assert b"PRIVATE KEY" not in data
    with pytest.raises(KeyFileError):
        unwrap(data, kind="authority", owner=ceremony.coordinator.public_key, passphrase=b"guess")


def test_the_same_request_gives_the_same_certificate(ceremony: Any) -> None:
    """A reply that was lost can be made again; the site is not enrolled twice."""
    request = letters.read_letter(Request, ceremony.site("lyon").enrolment / "request.json")
    before = ceremony.enrol(request)

    assert onboarding.require_heard(ceremony.home, {Path("r"): request}, [], now=NOW) == ()
    assert ceremony.enrol(request).certificate == before.certificate


def test_an_invitation_is_good_for_two_weeks(ceremony: Any, tmp_path: Path) -> None:
    """Neither side takes it after that."""
    request = ceremony.ask("zagreb")
    late = NOW + timedelta(days=15)

    with pytest.raises(LetterError, match="an invitation that expired"):
        onboarding.check_request(ceremony.home, request, now=late, place="zagreb.request.json")
    with pytest.raises(LetterError, match="expired"):
        at_site.read_invitation(ceremony.folder / "zagreb.invite.json", now=late)


def test_fingerprints_that_were_heard_have_to_be_those_of_the_requests(ceremony: Any) -> None:
    """All of them, and no more; without any, a person has to say so for each new key."""
    request = ceremony.ask("zagreb")
    own = fingerprint(bytes.fromhex(request.key))
    asked = {Path("zagreb.request.json"): request}

    assert onboarding.require_heard(ceremony.home, asked, [own.upper().replace(" ", "")], now=NOW) == ()
    assert onboarding.require_heard(ceremony.home, asked, [], now=NOW) == (request,)
    with pytest.raises(InputError, match="no word of a person"):
        onboarding.require_word(request, word=False)
    other = fingerprint(ceremony.coordinator.public_key)
    with pytest.raises(LetterError, match=r"expected a fingerprint that was given; ask the site again"):
        onboarding.require_heard(ceremony.home, asked, [other], now=NOW)
    with pytest.raises(LetterError, match="fits no request"):
        onboarding.require_heard(ceremony.home, asked, [own, other], now=NOW)
    assert onboarding.require_heard(ceremony.home, asked, [f"zagreb={own}"], now=NOW) == ()
    with pytest.raises(LetterError, match="expected a fingerprint that was given"):
        onboarding.require_heard(ceremony.home, asked, [f"zagreb={other}"], now=NOW)
    with pytest.raises(InputError, match=r"found one of 'zagrib'.*did you mean zagreb="):
        onboarding.require_heard(ceremony.home, asked, [f"zagrib={own}"], now=NOW)


def test_a_key_serves_one_site(ceremony: Any, tmp_path: Path) -> None:
    """An organisation that sends one key under two names is told so."""
    data = onboarding.invite(ceremony.home, ceremony.coordinator, "zagreb", now=NOW)
    invitation = letters.parse(Invitation, data, place="invitation")
    lyon = letters.read_letter(Request, ceremony.site("lyon").enrolment / "request.json")
    site_key = (ceremony.site("lyon").tls / "site.key").read_bytes()
    again = at_site.ask(invitation, ceremony.signers["lyon"], site_key, answers=letters.letter_hash(invitation))

    assert again.key == lyon.key
    with pytest.raises(LetterError, match="found a key of lyon"):
        onboarding.check_request(ceremony.home, again, now=NOW, place="zagreb.request.json")


def test_a_removed_site_cannot_connect_and_the_others_keep_everything(joining: Any) -> None:
    """From that moment, before the next charter is signed; no file of another site changes."""
    before = {e.site: e for e in all_enrolled(joining.home)}

    charter_desk.remove(joining.home, "turku")

    after = {e.site: e for e in all_enrolled(joining.home)}
    assert after == {site: entry for site, entry in before.items() if site != "turku"}
    assert set(open_coordinator(joining.home, PASSPHRASE).sites) == {"lyon", "porto"}
    with pytest.raises(InputError, match="found turku, expected a site that is enrolled"):
        charter_desk.remove(joining.home, "turku")


@pytest.mark.parametrize("site", ["../lyon", "/etc/passwd", "Lyon", "", "a" * 64, "ly/on", "lyon\n", "."])
def test_an_id_that_could_be_a_path_is_refused_before_anything_is_written(ceremony: Any, site: str) -> None:
    """In commands and in files alike."""
    files = sorted(ceremony.folder.rglob("*"))

    with pytest.raises(InputError, match="1 to 63 lower-case letters"):
        onboarding.invite(ceremony.home, ceremony.coordinator, site, now=NOW)
    with pytest.raises(InputError, match="1 to 63 lower-case letters"):
        charter_desk.remove(ceremony.home, site)

    assert sorted(ceremony.folder.rglob("*")) == files


def test_init_that_was_killed_starts_anew(tmp_path: Path) -> None:
    """Without settings there is no coordinator: what is left of the first try is made again."""
    home = CoordinatorHome(tmp_path / "c")
    onboarding.init(home, CONFIG, suite="F", passphrase=PASSPHRASE, own_ca=True, now=NOW)
    home.config.unlink()
    (home.tls / f".{home.identity.name}.part").write_bytes(os.urandom(8))
    with pytest.raises(InputError, match=r"no coordinator\.yaml in it"):
        open_coordinator(home, PASSPHRASE)

    onboarding.init(home, CONFIG, suite="A", passphrase=PASSPHRASE, own_ca=False, now=NOW)

    assert len(open_coordinator(home, PASSPHRASE).signer.public_key) == 32
    assert not (home.tls / "server.csr").exists()
