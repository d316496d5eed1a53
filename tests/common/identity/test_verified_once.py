"""Verifying an identical signature once changes no verdict."""

import os

from partsong.common.identity.keys import Identity, signature_fits, verified_once


def test_a_signature_that_was_verified_before_fits_again_and_no_other_does() -> None:
    """Key, signature and message all have to be the same."""
    key, other = Identity.generate(os.urandom), Identity.generate(os.urandom)
    right = key.sign(b"yes")

    with verified_once():
        verdicts = [
            signature_fits(*asked)
            for _ in range(2)
            for asked in (
                (key.public_key, right, b"yes"),
                (key.public_key, right, b"no"),
                (other.public_key, right, b"yes"),
                (key.public_key, bytes(64), b"yes"),
            )
        ]

    assert verdicts == [True, False, False, False] * 2
    assert signature_fits(key.public_key, right, b"yes")
    assert not signature_fits(key.public_key, right, b"no")
