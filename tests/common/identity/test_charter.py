"""The charter holds when everyone signed it, and in no other case."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partsong.common.build import build, to_tree
from partsong.common.errors import ConfigError
from partsong.common.identity.charter import (
    Charter,
    CharterError,
    Member,
    SignedCharter,
    check_signatures,
    read,
    sign_as_coordinator,
    sign_as_site,
)
from partsong.common.identity.keys import Identity

COORDINATOR = Identity(b"\xfe" * 32)
SITES = {name: Identity(bytes([i]) * 32) for i, name in enumerate(["bergamo", "lyon", "porto", "turku", "utrecht"])}


def draft(names: list[str] | None = None, **change: object) -> Charter:
    tree = {
        "consortium": "oncology",
        "version": 1,
        "previous": None,
        "suite": "A",
        "coordinator": COORDINATOR.public_key.hex(),
        "sites": [{"id": n, "key": SITES[n].public_key.hex()} for n in (names or list(SITES))],
        "minimum_cohort": 3,
        "corrupt_tolerance": 1,
    }
    return build(Charter, tree | change)


def signed(charter: Charter) -> SignedCharter:
    signatures = {m.id: sign_as_site(charter, site_id=m.id, signer=SITES[m.id]) for m in charter.sites}
    return SignedCharter(
        charter=charter, coordinator_signature=sign_as_coordinator(charter, COORDINATOR), site_signatures=signatures
    )


def test_a_charter_that_everyone_signed_is_read_back() -> None:
    """Bytes, signatures and hash survive the file."""
    whole = signed(draft())

    back = read(whole.to_bytes())

    assert back == whole
    assert back.charter.hash == draft().hash
    assert back.charter.number_of("porto") == 2
    assert back.charter.site_key(2) == SITES["porto"].public_key


def test_the_coordinator_alone_makes_no_charter() -> None:
    """Without the sites' own signatures it could list whom it likes."""
    alone = replace(signed(draft()), site_signatures={})

    with pytest.raises(CharterError, match="missing"):
        read(alone.to_bytes())


@pytest.mark.parametrize("site", list(SITES))
def test_each_single_site_can_withhold_it(site: str) -> None:
    """One missing or wrong signature is enough, also the coordinator's or another site's in its place."""
    whole = signed(draft())
    rest = {n: s for n, s in whole.site_signatures.items() if n != site}
    other = next(s for n, s in rest.items() if n != site)

    for signatures in (rest, rest | {site: other}, rest | {site: whole.coordinator_signature}, rest | {site: "zz"}):
        with pytest.raises(CharterError, match=r"missing|no valid signature of site"):
            check_signatures(replace(whole, site_signatures=signatures))


def test_more_signatures_than_sites_are_refused() -> None:
    """Nobody is smuggled in beside the list."""
    whole = signed(draft())

    with pytest.raises(CharterError, match="not listed"):
        check_signatures(replace(whole, site_signatures=whole.site_signatures | {"zagreb": "00" * 64}))


def test_the_coordinator_has_to_sign_too() -> None:
    """Its signature is over the same version."""
    whole = signed(draft())

    with pytest.raises(CharterError, match="coordinator"):
        check_signatures(
            replace(whole, coordinator_signature=sign_as_coordinator(draft(minimum_cohort=4), COORDINATOR))
        )


@pytest.mark.parametrize(
    "change",
    [
        {"consortium": "cardiology"},
        {"coordinator": Identity(b"\xaa" * 32).public_key.hex()},
        {"minimum_cohort": 4},
        {"minimum_honest": 2},
        {"corrupt_tolerance": 0},
        {"revoked": ["00" * 32]},
    ],
)
def test_every_field_is_signed(change: dict[str, object]) -> None:
    """A draft that differs in one field has another hash and fits no old signature."""
    whole, other = signed(draft()), draft(**change)

    assert other.hash != whole.charter.hash
    with pytest.raises(CharterError):
        check_signatures(replace(whole, charter=other))


def test_a_site_signs_only_where_its_own_key_is_listed() -> None:
    """A draft with a substituted key is noticed by its victim at the latest."""
    with pytest.raises(CharterError, match="another key"):
        sign_as_site(draft(), site_id="lyon", signer=SITES["porto"])
    with pytest.raises(CharterError, match="no site zagreb"):
        sign_as_site(draft(), site_id="zagreb", signer=SITES["porto"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"minimum_honest": 1}, "minimum_honest of at least 2"),
        ({"minimum_cohort": 2}, "minimum_cohort between 3"),
        ({"weights": [1, 2]}, "weights for every site"),
        ({"weights": [1, 1, 1, 1, 101]}, "weights between 1 and 100"),
        ({"weights": [1, 1, 1, 1, 0]}, "weights between 1 and 100"),
        ({"minimum_cohort": 6}, "minimum_cohort between 3"),
        ({"corrupt_tolerance": 3}, "corrupt_tolerance between 0 and 2"),
        ({"corrupt_tolerance": -1}, "corrupt_tolerance between 0 and 2"),
        ({"suite": "B"}, "suite"),
        ({"suite": "F"}, "194 lower-case hex digits, in suite F"),
        ({"version": 2}, "version 1 without"),
        ({"version": 0}, "version 1 without"),
        ({"previous": "00" * 32}, "version 1 without"),
        ({"version": 2, "previous": "00" * 31}, "previous as 64"),
        ({"sites": [{"id": "lyon", "key": "AB" * 32}] * 3}, "key of site lyon"),
        ({"coordinator": SITES["lyon"].public_key.hex()}, "a key of its own"),
        ({"revoked": [SITES["lyon"].public_key.hex()]}, "no key that is revoked"),
        ({"revoked": ["11" * 32, "00" * 32]}, "sorted"),
    ],
)
def test_floors_that_protect_nobody_are_not_built(change: dict[str, object], says: str) -> None:
    """Whatever the signatures say."""
    with pytest.raises(ConfigError, match=says):
        draft(**change)


def test_members_are_sorted_distinct_and_enough() -> None:
    """Two sites need to be asked for, names are plain, nobody stands twice."""
    lyon, porto = (Member(id=n, key=SITES[n].public_key.hex()) for n in ("lyon", "porto"))
    two = {"minimum_honest": 2, "minimum_cohort": 2, "corrupt_tolerance": 0}

    assert draft(["lyon", "porto"], two_sites=True, **two).two_sites
    for names in (["lyon", "porto"], ["lyon"]):
        with pytest.raises(ConfigError, match="3 to 1000 sites"):
            draft(names, **two)
    with pytest.raises(ConfigError, match="sorted"):
        draft(sites=[to_tree(m) for m in (porto, lyon, lyon)])
    with pytest.raises(ConfigError, match="a key of its own"):
        draft(sites=[to_tree(replace(lyon, id=f"site{i}")) for i in range(5)])
    for bad in ("Lyon", "-lyon", "lyon-", "", "ly on", "l" * 64):
        with pytest.raises(ValueError, match="lower-case"):
            replace(lyon, id=bad)


def test_the_file_is_canonical_and_strict() -> None:
    """Another spelling of the same charter, an unknown key or a doubled key is refused."""
    data = signed(draft()).to_bytes()
    tree = json.loads(data)

    for other in (data + b"\n", json.dumps(tree).encode(), data.replace(b'{"charter"', b'{"charter":{},"charter"')):
        with pytest.raises(CharterError):
            read(other)
    with pytest.raises(CharterError, match="another format"):
        read(json.dumps(tree | {"note": 1}).encode())


@given(st.binary(max_size=60))
def test_noise_is_no_charter(data: bytes) -> None:
    """Any other bytes end in the same kind of error."""
    with pytest.raises(CharterError):
        read(data)
