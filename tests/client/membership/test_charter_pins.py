"""A site's half of the charter: what it shows, what it signs, what it pins."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from ceremony import SITES

from partsong.client.home.opened import newest_charter
from partsong.client.membership import charter_pins
from partsong.common.errors import InputError
from partsong.common.identity import letters
from partsong.common.identity.charter import CharterError, sign_as_coordinator
from partsong.common.identity.keys import Identity, fingerprint
from partsong.common.identity.letters import Draft, LetterError
from partsong.server.membership import charter_desk


def forged(ceremony: Any, change: Callable[[Any], Any], signer: Any = None) -> Any:
    """A draft after the newest version that a coordinator made by other means than ours."""
    signed = charter_desk.newest_charter(ceremony.home)
    charter = signed.charter
    after = dataclasses.replace(charter, version=charter.version + 1, previous=charter.hash.hex())
    after = change(after)
    file = ceremony.folder / "forged.json"
    signature = sign_as_coordinator(after, signer or ceremony.coordinator)
    file.write_bytes(letters.to_bytes(Draft(charter=after, signature=signature)))
    return file


def test_the_first_draft_shows_every_key_as_new_but_ones_own(joining: Any) -> None:
    """Each with its fingerprint, and the floors; a joining site sees the others so as well."""
    review = charter_pins.review(joining.site("zagreb"), joining.draft())

    words = charter_pins.review_words(review)

    assert review.new == {"COORDINATOR", *SITES}
    assert dict(review.keys)["COORDINATOR"] == fingerprint(joining.coordinator.public_key)
    for name in SITES:
        assert f"{fingerprint(joining.signers[name].public_key)}  NEW: compare it" in words
    assert "(this site)" in words
    assert "a sum needs 3 sites at least" in words


def test_a_later_draft_shows_what_is_new_and_every_lowered_floor(ceremony: Any) -> None:
    """Only the joining site's key has to be compared; what protects less says so."""
    for name in ("zagreb", "gent"):
        ceremony.join(name)
    strict = ceremony.agree(
        ceremony.draft(minimum_cohort=5, corrupt_tolerance=1, minimum_honest=4), (*SITES, "gent", "zagreb")
    )
    for name in SITES:
        charter_pins.pin(ceremony.site(name), strict)
    charter_desk.remove(ceremony.home, "gent")

    review = charter_pins.review(
        ceremony.site("lyon"), ceremony.draft(minimum_cohort=3, corrupt_tolerance=0, minimum_honest=3)
    )

    assert review.new == frozenset()
    assert set(review.differences) == {
        "gent is removed",
        "minimum_cohort 5 -> 3 (LOWER: protects less)",
        "minimum_honest 4 -> 3 (LOWER: protects less)",
        "corrupt_tolerance 1 -> 0 (LOWER: protects less)",
    }
    assert "  * minimum_cohort 5 -> 3 (LOWER: protects less)" in charter_pins.review_words(review)


def test_nothing_is_signed_without_a_word_or_the_right_fingerprints(joining: Any) -> None:
    """All new ones given and equal count as compared; some do not; a wrong one stops everything."""
    review = charter_pins.review(joining.site("lyon"), joining.draft())
    right = fingerprint(joining.signers["zagreb"].public_key)

    assert review.new == {"zagreb"}
    assert charter_pins.require_heard(review, [f"zagreb={right.upper().replace(' ', '')}"])
    assert not charter_pins.require_heard(review, [])
    assert not charter_pins.require_heard(review, [f"porto={dict(review.keys)['porto']}"])
    with pytest.raises(InputError, match="do not sign"):
        charter_pins.require_heard(review, [f"zagreb={dict(review.keys)['porto']}"])
    assert charter_pins.require_heard(review, [right])
    with pytest.raises(InputError, match=r"of no key in the draft.*do not sign"):
        charter_pins.require_heard(review, ["a" * 32])
    with pytest.raises(InputError, match=r"did you mean zagreb="):
        charter_pins.require_heard(review, [f"zagrep={right}"])
    with pytest.raises(InputError, match="no word of a person"):
        charter_pins.require_word(word=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: dataclasses.replace(c, consortium="cardiology"), "another consortium"),
        (lambda c: dataclasses.replace(c, version=9), "version 9 after another one"),
        (lambda c: dataclasses.replace(c, previous="0" * 64), "version 2 after another one"),
        (lambda c: dataclasses.replace(c, sites=(c.sites[0], *_swapped(c.sites[1:]))), "a key that was replaced"),
        (lambda c: dataclasses.replace(c, coordinator="ab" * 32), "no valid signature of the coordinator"),
    ],
)
def test_a_draft_that_does_not_follow_is_not_even_shown(ceremony: Any, change: Any, words: str) -> None:
    """Another consortium, a skipped version, a replaced key that is not revoked, another coordinator."""
    with pytest.raises(CharterError, match=words):
        charter_pins.review(ceremony.site("lyon"), forged(ceremony, change))


def _swapped(sites: Any) -> Any:
    return tuple(
        dataclasses.replace(site, key=Identity(bytes([i + 1]) * 32).public_key.hex()) for i, site in enumerate(sites)
    )


def test_ones_own_key_that_was_substituted_is_noticed(ceremony: Any) -> None:
    """Also where the coordinator revokes the right one, as the rules for a lost key ask for."""
    own = ceremony.signers["lyon"].public_key.hex()

    def swap(charter: Any) -> Any:
        sites = (*_swapped(charter.sites[:1]), *charter.sites[1:])
        return dataclasses.replace(charter, sites=sites, revoked=(own,))

    with pytest.raises(CharterError, match="another key for this site"):
        charter_pins.review(ceremony.site("lyon"), forged(ceremony, swap))
    others = charter_pins.review(ceremony.site("porto"), forged(ceremony, swap))
    assert others.new == {"lyon"}
    assert "lyon has another key" in others.differences


def test_a_first_draft_has_to_come_from_who_invited(joining: Any) -> None:
    """A whole other consortium of the same name, under another coordinator's key, is refused."""
    draft = letters.read_letter(Draft, joining.draft()).charter
    stranger = Identity(b"\x07" * 32)
    other = dataclasses.replace(draft, coordinator=stranger.public_key.hex(), revoked=())
    file = joining.folder / "other.json"
    file.write_bytes(letters.to_bytes(Draft(charter=other, signature=sign_as_coordinator(other, stranger))))

    with pytest.raises(CharterError, match="another coordinator's key"):
        charter_pins.review(joining.site("zagreb"), file)


def test_a_charter_is_pinned_in_order_and_never_backwards(joining: Any) -> None:
    """The newest counts; the one in force once more changes nothing; an older one is refused."""
    home = joining.site("lyon")
    first = (home.charters / "1.json").read_bytes()
    second = joining.agree(joining.draft(), (*SITES, "zagreb"))

    pinned = charter_pins.pin(home, second)

    assert newest_charter(home) == pinned == charter_pins.pin(home, second)
    with pytest.raises(CharterError, match="version 1 after another one"):
        charter_pins.pin(home, first)
    assert (home.charters / "1.json").read_bytes() == first
    assert charter_pins.pin(joining.site("zagreb"), second) == pinned


def test_a_site_that_is_left_out_pins_nothing(joining: Any) -> None:
    """It is told that it is not listed; the charter it had stays."""
    charter_desk.remove(joining.home, "turku")
    after = joining.agree(joining.draft(), ("lyon", "porto", "zagreb"))

    with pytest.raises(CharterError, match="found no site turku"):
        charter_pins.pin(joining.site("turku"), after)

    assert charter_pins.in_force(joining.site("turku")).charter.version == 1


def test_a_file_that_is_no_draft_is_named(ceremony: Any) -> None:
    """An invitation, a charter, garbage: each with its place."""
    home = ceremony.site("lyon")
    for data in ((home.charters / "1.json").read_bytes(), b"[]", b"\xff", b"[" * 100_000):
        file = ceremony.folder / "what.json"
        file.write_bytes(data)
        with pytest.raises(LetterError, match=r"what\.json"):
            charter_pins.review(home, file)
