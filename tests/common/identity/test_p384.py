"""Scalars, points and signatures of P-384: one form each, checked by arithmetic of our own."""

import hashlib
import os

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.identity import p384

PRIME = 2**384 - 2**128 - 2**96 + 2**32 - 1
KEY = p384.private_key(b"\x11" * 48)
PUBLIC = p384.point_bytes(KEY.public_key())


def taken(*draws: bytes):
    left = list(draws)
    return lambda size: left.pop(0)[:size]


def test_scalars_are_drawn_from_one_to_below_the_order() -> None:
    """What lies above is drawn again, the lowest and the highest draw give 1 and the order less 1."""
    low, high = bytes(48), (p384.ORDER - 2).to_bytes(48, "big")
    over = (p384.ORDER - 1).to_bytes(48, "big")

    assert int.from_bytes(p384.draw_scalar(taken(low)), "big") == 1
    assert int.from_bytes(p384.draw_scalar(taken(high)), "big") == p384.ORDER - 1
    assert p384.draw_scalar(taken(over, b"\xff" * 48, low)) == p384.draw_scalar(taken(low))


@pytest.mark.parametrize("scalar", [bytes(48), p384.ORDER.to_bytes(48, "big"), b"\xff" * 48, b"\1" * 47, b"\1" * 49])
def test_other_scalars_are_no_keys(scalar: bytes) -> None:
    """Zero, the order, more than that, and another length."""
    with pytest.raises(ValueError, match=r"scalar|private_value|Invalid EC key"):
        p384.private_key(scalar)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, p384.ORDER - 1))
def test_scalars_and_points_come_back(number: int) -> None:
    """Bytes to key to bytes."""
    scalar = number.to_bytes(48, "big")
    key = p384.private_key(scalar)

    assert p384.scalar_bytes(key) == scalar
    assert p384.point_bytes(p384.read_point(p384.point_bytes(key.public_key()))) == p384.point_bytes(key.public_key())


def test_the_order_is_that_of_the_curve() -> None:
    """The order less one times the base point is the base point mirrored."""
    one, last = (p384.private_key(n.to_bytes(48, "big")) for n in (1, p384.ORDER - 1))
    base, mirrored = (p384.point_bytes(key.public_key()) for key in (one, last))

    assert base[:49] == mirrored[:49]
    assert int.from_bytes(base[49:], "big") + int.from_bytes(mirrored[49:], "big") == PRIME


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=40))
def test_each_signature_has_one_accepted_form(message: bytes) -> None:
    """Its mirror image satisfies the equation of ECDSA just as well and is refused, as are numbers that are not reduced."""
    signature = p384.sign(KEY, message)
    r, s = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
    mirror = signature[:48] + (p384.ORDER - s).to_bytes(48, "big")

    assert p384.signature_fits(PUBLIC, signature, message)
    assert s <= p384.ORDER // 2
    assert not p384.signature_fits(PUBLIC, mirror, message)
    assert p384.signature_from_der(encode_dss_signature(r, p384.ORDER - s)) == signature
    for bad in (bytes(48) + signature[48:], signature[:48] + bytes(48), b"\xff" * 48 + signature[48:]):
        assert not p384.signature_fits(PUBLIC, bad, message)


def test_the_mirror_image_would_pass_without_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the library takes both."""
    signature = p384.sign(KEY, b"x")
    s = int.from_bytes(signature[48:], "big")
    mirror = signature[:48] + (p384.ORDER - s).to_bytes(48, "big")
    KEY.public_key().verify(
        encode_dss_signature(int.from_bytes(mirror[:48], "big"), p384.ORDER - s), b"x", p384.ECDSA(p384.SHA384())
    )

    monkeypatch.setattr(p384, "ORDER", 2 * p384.ORDER)

    assert p384.signature_fits(PUBLIC, mirror, b"x")


def test_signatures_are_deterministic_and_of_another_key_do_not_fit() -> None:
    """A repeated message does not give a second signature to compare."""
    other = p384.point_bytes(p384.private_key(p384.draw_scalar(os.urandom)).public_key())

    assert p384.sign(KEY, b"x") == p384.sign(KEY, b"x")
    assert not p384.signature_fits(other, p384.sign(KEY, b"x"), b"x")
    assert not p384.signature_fits(PUBLIC[:-1], p384.sign(KEY, b"x"), b"x")
    assert not p384.signature_fits(bytes(97), p384.sign(KEY, b"x"), b"x")


@pytest.mark.parametrize(
    "der",
    [
        b"",
        encode_dss_signature(0, 1),
        encode_dss_signature(1, 0),
        encode_dss_signature(p384.ORDER, 1),
        encode_dss_signature(1, p384.ORDER),
        encode_dss_signature(1, 1) + b"\0",
        hashlib.sha384(b"noise").digest(),
    ],
)
def test_what_another_device_signs_is_read_strictly(der: bytes) -> None:
    """Numbers out of range and anything that is not DER."""
    with pytest.raises(ValueError, match=r"."):
        p384.signature_from_der(der)
