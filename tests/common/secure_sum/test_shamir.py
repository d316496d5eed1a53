"""Secrets and shares: exact, useless below the threshold, and loud when a share is wrong."""

import itertools
import os
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.secure_sum.shamir import PRIME, SHARE_BYTES, BadShares, combine, in_field, repair, split

SECRETS = [bytes(range(32)), b"\xff" * 32, bytes(32), os.urandom(32)]


def limbs_of(share: bytes) -> list[int]:
    return [int.from_bytes(share[i : i + 3], "little") for i in range(0, len(share), 3)]


def limbs_of_secret(secret: bytes) -> list[int]:
    return [int.from_bytes(secret, "big") >> (20 * i) & (2**20 - 1) for i in range(13)]


def fixed(coefficients: np.ndarray) -> Callable[[int], bytes]:
    """A source that gives these coefficients, for one draw."""
    return lambda size: coefficients.astype("<u4").tobytes().ljust(size, b"\0")


def by_definition(shares: dict[int, bytes], threshold: int) -> list[int]:
    """Interpolate every limb at zero with Python's own integers."""
    points = sorted(shares)[:threshold]
    total = [0] * len(limbs_of(shares[points[0]]))
    for a in points:
        weight = 1
        for b in points:
            if a != b:
                weight = weight * -b * pow(a - b, -1, PRIME) % PRIME
        total = [(t + weight * limb) % PRIME for t, limb in zip(total, limbs_of(shares[a]), strict=True)]
    return total


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_threshold_of_shares_gives_the_secrets_back(data: st.DataObject) -> None:
    """For any holders, threshold and chosen subset, and with a second way to interpolate."""
    holders = data.draw(st.lists(st.integers(1, 2048), min_size=1, max_size=70, unique=True))
    threshold = data.draw(st.integers(1, len(holders)))
    secrets = data.draw(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=4))
    shares = dict(zip(holders, split(secrets, threshold=threshold, holders=holders, entropy=os.urandom), strict=True))
    chosen = data.draw(st.permutations(holders))[: data.draw(st.integers(threshold, len(holders)))]

    back = combine({point: shares[point] for point in chosen}, threshold=threshold)

    assert back == secrets
    limbs = by_definition(shares, threshold)
    numbers = [sum(limb << (20 * i) for i, limb in enumerate(limbs[s : s + 13])) for s in range(0, len(limbs), 13)]
    assert [n.to_bytes(32, "big") for n in numbers] == secrets


def test_every_subset_of_five_by_hand() -> None:
    """All ten pairs and all five fours of a (2, 5) sharing."""
    shares = dict(zip(range(1, 6), split(SECRETS, threshold=2, holders=range(1, 6), entropy=os.urandom), strict=True))

    for size in (2, 4):
        for subset in itertools.combinations(shares, size):
            assert combine({p: shares[p] for p in subset}, threshold=2) == SECRETS


def test_one_share_too_few_fits_every_secret() -> None:
    """For any other secret there are coefficients that give the same share: it says nothing."""
    coefficients = np.arange(1, 14) * 1000
    one, two = bytes(range(32)), b"\xab" * 32
    (share_of_one,) = split([one], threshold=2, holders=[1, 2], entropy=fixed(coefficients))[:1]
    moved = (coefficients + np.array(limbs_of_secret(one)) - np.array(limbs_of_secret(two))) % PRIME

    (share_of_two,) = split([two], threshold=2, holders=[1, 2], entropy=fixed(moved))[:1]

    assert share_of_one == share_of_two


def test_shares_of_equal_secrets_are_uniform() -> None:
    """Limbs of shares of a constant secret spread over the field; those of threshold one do not: the control."""
    shares = split([bytes(32)] * 3000, threshold=2, holders=[1, 2], entropy=os.urandom)
    limbs = np.array(limbs_of(shares[0]))
    plain = split([bytes(32)], threshold=1, holders=[1], entropy=os.urandom)

    # 39000 uniform draws: the mean is within six standard errors of p / 2, the deciles are filled.
    assert abs(limbs.mean() / PRIME - 0.5) < 6 * 0.2887 / limbs.size**0.5
    assert np.histogram(limbs, bins=10, range=(0, PRIME))[0].min() > 0.9 * limbs.size / 10
    assert plain == [bytes(SHARE_BYTES)]


@pytest.mark.parametrize("threshold", [2, 3])
def test_one_wrong_share_among_more_than_enough_is_noticed(threshold: int) -> None:
    """A single changed bit anywhere contradicts the others."""
    holders = range(1, threshold + 2)
    good = dict(zip(holders, split(SECRETS, threshold=threshold, holders=holders, entropy=os.urandom), strict=True))
    for point in holders:
        for byte in (0, 1, 38, 39, 4 * SHARE_BYTES - 3):
            bad = bytearray(good[point])
            bad[byte] ^= 1
            with pytest.raises(BadShares):
                combine(good | {point: bytes(bad)}, threshold=threshold)


def test_what_cannot_be_a_secret_is_refused() -> None:
    """With exactly enough shares a wrong one shows only when the limbs leave their range: here they do."""
    with pytest.raises(BadShares, match="no secret"):
        combine({1: (2**20).to_bytes(3, "little") + bytes(36)}, threshold=1)
    with pytest.raises(BadShares, match="no secret"):
        combine({1: bytes(36) + (2**16).to_bytes(3, "little")}, threshold=1)


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ({1: bytes(39)}, "found 1, expected 2"),
        ({1: bytes(39), 2: bytes(38)}, "lengths"),
        ({1: bytes(40), 2: bytes(40)}, "lengths"),
        ({1: bytes(39), 2: bytes(78)}, "lengths"),
        ({1: bytes(39), 2: PRIME.to_bytes(3, "little") + bytes(36)}, "outside the field"),
    ],
)
def test_malformed_shares_are_refused(shares: dict[int, bytes], says: str) -> None:
    """Number, length and range are checked before anything is computed."""
    with pytest.raises(BadShares, match=says):
        combine(shares, threshold=2)


@pytest.mark.parametrize(("threshold", "holders"), [(0, [1]), (3, [1, 2]), (2, [1, 1]), (1, [0]), (1, [2049])])
def test_a_sharing_that_could_not_work_is_refused(threshold: int, holders: list[int]) -> None:
    """Thresholds and places that would lose or reveal the secret are programming errors."""
    with pytest.raises(ValueError, match="expected"):
        split(SECRETS, threshold=threshold, holders=holders, entropy=os.urandom)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_secrets_have_32_bytes(size: int) -> None:
    """Others are a programming error."""
    with pytest.raises(ValueError, match="32 bytes"):
        split([bytes(size)], threshold=1, holders=[1], entropy=os.urandom)


def test_numbers_outside_the_field_are_drawn_again() -> None:
    """Coefficients are uniform: a source that first gives the nine numbers above p costs a second draw."""
    calls = []

    def entropy(size: int) -> bytes:
        calls.append(size)
        return (PRIME + 3).to_bytes(4, "little") * (size // 4) if len(calls) == 1 else os.urandom(size)

    shares = split(SECRETS, threshold=2, holders=[1, 2], entropy=entropy)

    assert combine({1: shares[0], 2: shares[1]}, threshold=2) == SECRETS
    assert len(calls) >= 2


def changed(share: bytes, places: list[int]) -> bytes:
    """A share with other values in some places, inside the field."""
    limbs = limbs_of(share)
    for place in places:
        limbs[place] = (limbs[place] + 1 + place) % PRIME
    return b"".join(limb.to_bytes(3, "little") for limb in limbs)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_wrong_shares_are_passed_over_and_named(data: st.DataObject) -> None:
    """Any holders and threshold; up to half of the spare shares wrong, each in places of its own."""
    points = data.draw(st.lists(st.integers(1, 2048), min_size=3, max_size=40, unique=True))
    threshold = data.draw(st.integers(1, len(points)))
    secrets = data.draw(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=3))
    shares = dict(zip(points, split(secrets, threshold=threshold, holders=points, entropy=os.urandom), strict=True))
    wrong = data.draw(st.sets(st.sampled_from(points), max_size=(len(points) - threshold) // 2))
    for point in wrong:
        places = data.draw(st.lists(st.integers(0, 13 * len(secrets) - 1), min_size=1, max_size=5, unique=True))
        shares[point] = changed(shares[point], places)

    back, named = repair(shares, threshold=threshold)

    assert back == secrets
    assert named == tuple(sorted(wrong))


@pytest.mark.parametrize(("spare", "wrong"), [(1, 1), (2, 2), (3, 2), (4, 3), (9, 5)])
def test_one_wrong_share_more_is_too_many(spare: int, wrong: int) -> None:
    """Half of the spare shares is the bound: beyond it nothing is given back, never another secret."""
    threshold, points = 6, list(range(1, 7 + spare))
    secrets = [os.urandom(32)]
    shares = dict(zip(points, split(secrets, threshold=threshold, holders=points, entropy=os.urandom), strict=True))
    for point in points[:wrong]:
        shares[point] = changed(shares[point], [int(i) for i in np.random.default_rng(point).permutation(13)[:6]])

    with pytest.raises(BadShares, match="contradict each other"):
        repair(shares, threshold=threshold)


def test_liars_who_agree_need_more_than_half_of_the_spare_shares() -> None:
    """Three of ten with shares of one other secret are passed over; seven of them win: the control."""
    points, (true, other) = list(range(1, 11)), (os.urandom(32), os.urandom(32))
    mine, theirs = (
        dict(zip(points, split([s], threshold=4, holders=points, entropy=os.urandom), strict=True))
        for s in (true, other)
    )

    assert repair(mine | {p: theirs[p] for p in (1, 2, 3)}, threshold=4) == ([true], (1, 2, 3))
    assert repair(mine | {p: theirs[p] for p in range(1, 8)}, threshold=4) == ([other], (8, 9, 10))


@pytest.mark.parametrize(
    ("share", "fits"), [(bytes(39), True), (b"\xff" * 39, False), (bytes(38), False), (bytes(78), True), (b"", False)]
)
def test_bytes_that_are_no_share_are_known(share: bytes, *, fits: bool) -> None:
    """Another length, or a value outside the field."""
    assert in_field(share) == fits
