"""The coordinator's half of the charter: drafts, signatures, versions."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from ceremony import NOW, PASSPHRASE, SITES, Ceremony

from partsong.client.membership import charter_pins
from partsong.client.membership import onboarding as at_site
from partsong.common.deployment import CoordinatorConfig
from partsong.common.identity import letters
from partsong.common.identity.charter import CharterError
from partsong.common.identity.letters import LetterError, Request
from partsong.server.membership import charter_desk, onboarding
from partsong.server.membership.home import CoordinatorHome
from partsong.server.membership.opened import newest_charter, open_coordinator, open_identity


def test_a_site_joins_and_no_other_key_is_made_again(ceremony: Any) -> None:
    """Version 2 lists the same keys and one more; nobody's certificate or identity file changed."""
    before = {p: p.read_bytes() for name in SITES for p in ceremony.site(name).path.rglob("*.*") if p.is_file()}
    first = newest_charter(ceremony.home)
    ceremony.join("zagreb")

    data = ceremony.agree(ceremony.draft(), (*SITES, "zagreb"))

    second = newest_charter(ceremony.home)
    assert first is not None
    assert second is not None
    assert second.to_bytes() == data
    assert second.charter.sites[:3] == first.charter.sites
    assert [site.id for site in second.charter.sites] == [*SITES, "zagreb"]
    assert second.charter.floors == first.charter.floors
    assert second.charter.revoked == ()
    changed = [p for p, was in before.items() if p.read_bytes() != was]
    assert changed == []
    assert set(open_coordinator(ceremony.home, PASSPHRASE).sites) == {*SITES, "zagreb"}


def test_nothing_is_published_before_everyone_signed(joining: Any) -> None:
    """Each signature once; of another draft, another site or another key none."""
    old = joining.sign("lyon", joining.draft())
    draft = joining.draft(minimum_cohort=4)
    lyon = joining.sign("lyon", draft)

    for bad, error, words in (
        (old, LetterError, "a signature of another draft"),
        (dataclasses.replace(lyon, consortium="cardiology"), LetterError, "a signature of another draft"),
        (dataclasses.replace(lyon, site="porto"), CharterError, "no valid signature of site porto"),
        (dataclasses.replace(lyon, site="gent"), CharterError, "no site gent"),
        (dataclasses.replace(lyon, signature="zz"), CharterError, "no valid signature of site lyon"),
    ):
        with pytest.raises(error, match=words):
            charter_desk.collect(joining.home, bad, place="f")
    for name in ("lyon", "lyon", "porto", "zagreb"):
        signed = charter_desk.collect(joining.home, joining.sign(name, draft), place="f")

    assert charter_desk.missing(signed) == ("turku",)
    with pytest.raises(CharterError, match="turku"):
        charter_desk.publish(joining.home)
    newest = newest_charter(joining.home)
    assert newest is not None
    assert newest.charter.version == 1


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"minimum_cohort": 2}, "minimum_cohort between 3 and 3"),
        ({"minimum_cohort": 4}, "minimum_cohort between 3 and 3"),
        ({"minimum_honest": 1}, "minimum_honest of at least 2"),
        ({"corrupt_tolerance": 1}, "corrupt_tolerance between 0 and 0"),
    ],
)
def test_floors_that_three_sites_cannot_keep_make_no_draft(ceremony: Any, wanted: Any, words: str) -> None:
    """Said before anybody is asked to sign."""
    with pytest.raises(CharterError, match=words):
        ceremony.draft(**wanted)

    assert not ceremony.home.draft.exists()


def test_a_charter_of_another_coordinators_key_is_not_in_force(ceremony: Any) -> None:
    """Signed by everyone, but this directory's key is another one: a charter that was put into the wrong directory."""
    assert newest_charter(ceremony.home) is not None
    other = CoordinatorHome(ceremony.folder / "other")
    config = CoordinatorConfig(consortium="oncology", names=("localhost",))
    onboarding.init(other, config, suite="A", passphrase=PASSPHRASE, own_ca=False, now=NOW)
    (other.charters / "1.json").parent.mkdir(exist_ok=True)
    (other.charters / "1.json").write_bytes((ceremony.home.charters / "1.json").read_bytes())

    with pytest.raises(CharterError, match="a coordinator with another key"):
        newest_charter(other)


def test_a_lost_key_is_replaced_and_the_one_before_revoked(ceremony: Any) -> None:
    """The site leaves and asks anew; the draft revokes by itself, and the others see another key."""
    before = ceremony.signers["turku"].public_key.hex()
    at_site.leave(ceremony.site("turku"))
    ceremony.join("turku")
    assert set(open_coordinator(ceremony.home, PASSPHRASE).sites) == {"lyon", "porto"}

    draft = ceremony.draft()
    review = charter_pins.review(ceremony.site("lyon"), draft)
    data = ceremony.agree(draft, SITES)

    assert review.new == {"turku"}
    assert review.differences == ("turku has another key", "1 more keys revoked")
    for name in SITES:
        assert charter_pins.pin(ceremony.site(name), data).charter.revoked == (before,)


def test_another_coordinator_takes_over_and_every_site_keeps_its_identity(ceremony: Any) -> None:
    """A new directory and a new key; the draft follows the old charter and revokes the old coordinator's key."""
    home = CoordinatorHome(ceremony.folder / "successor")
    config = CoordinatorConfig(consortium="oncology", names=("localhost",))
    onboarding.init(home, config, suite="A", passphrase=PASSPHRASE, own_ca=False, now=NOW)
    after = _Successor(folder=ceremony.folder, signers=ceremony.signers, coordinator=open_identity(home, PASSPHRASE))
    for name in SITES:
        file = ceremony.folder / f"{name}.invite.json"
        file.write_bytes(onboarding.invite(home, after.coordinator, name, now=NOW))
        invitation = at_site.read_invitation(file, now=NOW)
        data = at_site.renew(ceremony.site(name), PASSPHRASE, new_key=False, invitation=invitation)
        request = letters.parse(Request, data, place="request")
        assert onboarding.require_heard(home, {file: request}, [], now=NOW) == (request,)
        at_site.take_reply(ceremony.site(name), after.enrol(request), now=NOW, place="reply")
    pinned = newest_charter(ceremony.home)
    assert pinned is not None

    draft = ceremony.folder / "draft.json"
    wanted = charter_desk.Wanted()
    draft.write_bytes(charter_desk.draft(home, after.coordinator, wanted=wanted, before=pinned.charter))
    review = charter_pins.review(ceremony.site("lyon"), draft)
    charter = after.agree(draft, SITES)

    assert review.new == {"COORDINATOR"}
    for name in SITES:
        assert charter_pins.pin(ceremony.site(name), charter).charter.version == 2
    opened = open_coordinator(home, PASSPHRASE)
    assert opened.charter is not None
    assert opened.charter.charter.revoked == (ceremony.coordinator.public_key.hex(),)
    assert set(opened.sites) == set(SITES)


class _Successor(Ceremony):
    """The same sites under the directory of the coordinator that took over."""

    @property
    def home(self) -> CoordinatorHome:
        """Its directory."""
        return CoordinatorHome(Path(self.folder) / "successor")
