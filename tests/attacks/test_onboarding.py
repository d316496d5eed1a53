"""Who carries the letters, or runs the coordinator, tries to get in while a consortium is made."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from ceremony import NOW, PASSPHRASE, SITES

from partsong.client.home.opened import newest_charter
from partsong.client.membership import charter_pins
from partsong.client.membership import onboarding as at_site
from partsong.common.deployment import CoordinatorConfig
from partsong.common.errors import InputError
from partsong.common.identity import letters
from partsong.common.identity.charter import CharterError, SignedCharter, sign_as_coordinator, sign_as_site
from partsong.common.identity.keys import Identity, fingerprint
from partsong.common.identity.letters import Cosignature, Draft, Invitation, LetterError, Request
from partsong.common.identity.tls import make_transport_key
from partsong.server.membership import charter_desk, onboarding
from partsong.server.membership.home import CoordinatorHome
from partsong.server.membership.opened import open_coordinator, open_identity

MALLORY = Identity(b"\x66" * 32)


def heard(ceremony: Any, request: Request, text: str) -> None:
    """The operator enters a request with what the site said over the telephone."""
    onboarding.require_heard(ceremony.home, {Path("zagreb.request.json"): request}, [text], now=NOW)


def test_a_coordinator_alone_makes_no_charter_that_a_site_pins(ceremony: Any) -> None:
    """Not without the sites, not with keys of its own in their place, not with old signatures."""
    home = ceremony.site("lyon")
    first = newest_charter(home)
    assert first is not None
    wider = dataclasses.replace(first.charter, version=2, previous=first.charter.hash.hex(), revoked=("ab" * 32,))
    puppets = {name: Identity(bytes([number + 1]) * 32) for number, name in enumerate(SITES)}
    owned = dataclasses.replace(
        wider,
        sites=tuple(dataclasses.replace(s, key=puppets[s.id].public_key.hex()) for s in wider.sites),
        revoked=tuple(sorted(s.key for s in first.charter.sites)),
    )

    def signed(charter: Any, signatures: dict[str, str]) -> bytes:
        own = sign_as_coordinator(charter, ceremony.coordinator)
        return SignedCharter(charter=charter, coordinator_signature=own, site_signatures=signatures).to_bytes()

    own_signatures = {name: sign_as_site(owned, site_id=name, signer=key) for name, key in puppets.items()}
    for data in (signed(wider, {}), signed(wider, dict(first.site_signatures)), signed(owned, own_signatures)):
        with pytest.raises(CharterError):
            charter_pins.pin(home, data)
        assert newest_charter(home) == first
    honest = signed(wider, {n: sign_as_site(wider, site_id=n, signer=ceremony.signers[n]) for n in SITES})
    assert charter_pins.pin(home, honest).charter == wider


def test_a_key_put_in_between_site_and_coordinator_has_another_fingerprint(ceremony: Any) -> None:
    """The carrier answers the invitation with a key of his own; the site's word over the telephone gives him away."""
    right = ceremony.ask("zagreb")
    invitation = letters.read_letter(Invitation, ceremony.folder / "zagreb.invite.json")
    forged = at_site.ask(invitation, MALLORY, make_transport_key(), answers=letters.letter_hash(invitation))
    said = fingerprint(bytes.fromhex(right.key))

    with pytest.raises(LetterError, match="somebody may have put a key of his own in between"):
        heard(ceremony, forged, said)
    heard(ceremony, right, said)
    with pytest.raises(LetterError, match="no valid signature of the site"):
        heard(ceremony, dataclasses.replace(right, certificate_request=forged.certificate_request), said)


def test_a_key_that_the_coordinator_swaps_before_the_charter_is_noticed_by_its_owner(ceremony: Any) -> None:
    """And by the others, who compare the fingerprint with what the site says."""
    request = ceremony.ask("zagreb")
    ceremony.enrol(request)
    draft = letters.read_letter(Draft, ceremony.draft()).charter
    sites = tuple(dataclasses.replace(s, key=MALLORY.public_key.hex()) if s.id == "zagreb" else s for s in draft.sites)
    swapped = dataclasses.replace(draft, sites=sites)
    file = ceremony.folder / "swapped.json"
    signature = sign_as_coordinator(swapped, ceremony.coordinator)
    file.write_bytes(letters.to_bytes(Draft(charter=swapped, signature=signature)))

    with pytest.raises(CharterError, match="another key for this site"):
        charter_pins.review(ceremony.site("zagreb"), file)
    review = charter_pins.review(ceremony.site("lyon"), file)
    with pytest.raises(InputError, match="do not sign"):
        charter_pins.require_heard(review, [f"zagreb={fingerprint(bytes.fromhex(request.key))}"])


def test_a_request_serves_one_consortium_and_one_invitation(ceremony: Any, tmp_path: Path) -> None:
    """Replayed at another coordinator, under another name or after a newer invitation it is refused."""
    request = ceremony.ask("zagreb")
    said = fingerprint(bytes.fromhex(request.key))
    other = CoordinatorHome(tmp_path / "cardiology")
    config = CoordinatorConfig(consortium="cardiology")
    onboarding.init(other, config, suite="A", passphrase=PASSPHRASE, own_ca=True, now=NOW)

    with pytest.raises(LetterError, match="a request to another consortium"):
        onboarding.require_heard(other, {Path("r"): request}, [said], now=NOW)
    renamed = letters.seal_letter(dataclasses.replace(request, site="gent"), ceremony.signers["zagreb"])
    with pytest.raises(InputError, match="another name"):
        heard(ceremony, renamed, said)
    heard(ceremony, request, said)
    onboarding.invite(ceremony.home, ceremony.coordinator, "zagreb", now=NOW)
    with pytest.raises(LetterError, match="an answer to no invitation that is open"):
        heard(ceremony, request, said)


def test_a_cosignature_is_for_one_draft(joining: Any) -> None:
    """What a site signed for strict floors does not count for lower ones."""
    strict = joining.sign("lyon", joining.draft(minimum_cohort=4))
    lower = letters.read_letter(Draft, joining.draft(minimum_cohort=3)).charter
    moved = Cosignature(consortium=strict.consortium, site="lyon", charter=lower.hash.hex(), signature=strict.signature)

    for bad in (strict, moved):
        with pytest.raises(InputError, match=r"another draft|no valid signature of site lyon"):
            charter_desk.collect(joining.home, bad, place="lyon.cosigned.json")


def test_lowered_floors_are_shown_to_whoever_is_to_sign(joining: Any) -> None:
    """As a difference that says that it protects less; raised ones do not say so."""
    strict = joining.agree(joining.draft(minimum_cohort=4), (*SITES, "zagreb"))
    for name in (*SITES, "zagreb"):
        charter_pins.pin(joining.site(name), strict)

    lowered = charter_pins.review(joining.site("lyon"), joining.draft(minimum_cohort=3))
    raised = charter_pins.review(joining.site("lyon"), joining.draft(corrupt_tolerance=1))

    assert lowered.differences == ("minimum_cohort 4 -> 3 (LOWER: protects less)",)
    assert lowered.new == frozenset()
    assert raised.differences == ("corrupt_tolerance 0 -> 1",)


def test_who_holds_the_authority_gets_a_certificate_and_no_seat(ceremony: Any) -> None:
    """Only enrolled keys of listed sites are served, whatever the authority signed."""
    before = open_coordinator(ceremony.home, PASSPHRASE).sites
    request = ceremony.ask("mallory")

    ceremony.enrol(request)

    assert open_coordinator(ceremony.home, PASSPHRASE).sites == before
    assert open_identity(ceremony.home, PASSPHRASE).public_key == ceremony.coordinator.public_key


@pytest.mark.parametrize("path", ["../../evil", "/tmp/evil", "evil/../../x", ".."])
def test_a_path_as_a_sites_name_is_refused_in_every_letter(ceremony: Any, path: str) -> None:
    """Before anything is named after it."""
    invitation = letters.read_letter(Invitation, ceremony.folder / "lyon.invite.json")
    request = letters.read_letter(Request, ceremony.site("lyon").enrolment / "request.json")
    for letter in (invitation, request):
        data = letters.to_bytes(letter).replace(b'"site":"lyon"', f'"site":"{path}"'.encode())
        with pytest.raises(LetterError, match="1 to 63 lower-case letters"):
            letters.parse(type(letter), data, place="f")
