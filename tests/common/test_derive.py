"""Labels, frames and the published answers of the functions underneath."""

import hashlib
import hmac

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from partsong.common.derive import derive, digest, extract, frame, number

PARTS = st.lists(st.binary(max_size=20), max_size=5)


def hkdf_by_definition(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 for one block of output, from HMAC alone."""
    uniform = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(uniform, info + b"\x01", hashlib.sha256).digest()


def test_the_library_gives_the_answers_of_rfc_5869() -> None:
    """Appendix A.1: extract and expand."""
    uniform = bytes.fromhex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5")
    wanted = bytes.fromhex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")
    info, salt = bytes(range(0xF0, 0xFA)), bytes(range(13))

    assert HKDF(SHA256(), 42, salt, info).derive(b"\x0b" * 22) == wanted
    assert HKDFExpand(SHA256(), 42, info).derive(uniform) == wanted


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
