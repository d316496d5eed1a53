"""Labels and frames; the published answers of HKDF stand in `known_answers`."""

import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from partsong.common.derive import derive, digest, extract, frame, number

PARTS = st.lists(st.binary(max_size=20), max_size=5)


def hkdf_by_definition(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 for one block of output, from HMAC alone."""
    uniform = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(uniform, info + b"\x01", hashlib.sha256).digest()


@given(st.binary(min_size=32, max_size=32), PARTS)
def test_keys_follow_their_definition(key: bytes, parts: list[bytes]) -> None:
    """`derive` and `extract` are HKDF with the digest as info."""
    info = digest("use", *parts)

    assert derive(key, "use", *parts) == hmac.new(key, info + b"\x01", hashlib.sha256).digest()
    assert extract(key, salt=b"s", label="use", parts=tuple(parts)) == hkdf_by_definition(key, b"s", info)


@given(PARTS, PARTS)
def test_frames_are_equal_only_for_equal_parts(one: list[bytes], two: list[bytes]) -> None:
    """No border between parts can be moved."""
    assert (frame(*one) == frame(*two)) == (one == two)


def test_plain_joining_would_confuse_parts() -> None:
    """Without frames two lists collide: the control."""
    assert b"".join([b"ab", b"c"]) == b"".join([b"a", b"bc"])
    assert digest("x", b"ab", b"c") != digest("x", b"a", b"bc")


def test_every_label_is_another_function() -> None:
    """One key serves many uses."""
    assert len({derive(bytes(32), label, b"p") for label in ("a", "b", "c")}) == 3


def test_the_digest_is_frozen() -> None:
    """Another version of this function would be another protocol."""
    by_hand = hashlib.sha256(bytes(7) + b"\x0epartsong/1 use" + bytes(7) + b"\x04" + number(258)).digest()

    assert number(258) == b"\x00\x00\x01\x02"
    assert digest("use", number(258)) == by_hand
